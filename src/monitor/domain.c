/*
 * domain.c - completes addresses that have no domain.
 *
 * The monitor does it to each question, so that routes, access, services and
 * relays all see the same address, whatever the channel process says.
 */
#include "monitor/domain.h"

#include <stdlib.h>
#include <string.h>

/* Has address no '@' outside of quotes?  The null sender, "", lacks none. */
static bool
lacks_domain(const char *address)
{
	size_t len = strlen(address);

	return len > 0 &&
	    (strchr(address, '@') == NULL || address[len - 1] == '"');
}

/* Writes address@domain at *to, which moves past it, where address lacks one.
   Returns the address to use. */
static const char *
complete(char **to, const char *address, const char *domain)
{
	const char *whole = *to;
	size_t len = strlen(address), more = strlen(domain);

	if (!lacks_domain(address))
		return address;
	memcpy(*to, address, len);
	(*to)[len] = '@';
	memcpy(*to + len + 1, domain, more + 1);
	*to += len + more + 2;
	return whole;
}

/* Octets that an address needs when it is completed. */
static size_t
room_for(const char *address, const char *domain)
{
	return lacks_domain(address) ? strlen(address) + strlen(domain) + 2
	    : 0;
}

bool
domain_complete(struct received *r, const char *domain)
{
	struct envelope *env = &r->env;
	size_t need = room_for(env->fact[FACT_SENDER], domain), i;
	char *to;

	for (i = 0; i < env->nrecipients; i++)
		need += room_for(r->recipients[i].address, domain);
	if (need == 0)
		return true;
	r->completed = to = malloc(need);
	if (to == NULL)
		return false;
	env->fact[FACT_SENDER] = complete(&to, env->fact[FACT_SENDER], domain);
	for (i = 0; i < env->nrecipients; i++)
		r->recipients[i].address = complete(&to,
		    r->recipients[i].address, domain);
	return true;
}
