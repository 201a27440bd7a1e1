/*
 * access.c - who may send to whom through a relay that forwards.
 *
 * A client of --relay-clients sends to everybody.  Every other client sends to
 * what is local, and to the domains of --relay-domains; but not to an address
 * that names a further host in its local part (user%host@domain), which the
 * next hop might follow.
 */
#include "monitor/access.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <stdio.h>
#include <syslog.h>

#include "base/address.h"
#include "base/file.h"
#include "base/network.h"
#include "base/reply.h"
#include "base/text.h"

#define FILE_MAX (16 << 20)	/* octets of a file of domains */

struct access {
	const struct access_settings *set;
	const struct logger *log;
	int fd;			/* the file, if it could be opened; or -1 */
	char *text;		/* domains, each with its NUL; once read */
	size_t len;
	bool unlimited;
};

/* Is the client in the list?  Returns -1 with *bad if an item is no client. */
static int
find_client(const char *list, const char *address, bool local, bool user,
    const char **bad, size_t *badlen)
{
	int found = local, one;
	size_t len;

	for (;; list += len + 1) {
		len = strcspn(list, ",");
		if (text_is(list, len, "all"))
			one = 1;
		else if (text_is(list, len, "auth"))
			one = user;
		else
			one = network_has(list, len, address);
		if (one == -1) {
			*bad = list;
			*badlen = len;
			return -1;
		}
		found = found || one == 1;
		if (list[len] == '\0')
			return found;
	}
}

/* Is item[0..len) a domain, perhaps with a dot before it, or an address
   literal?  A byte order mark would only look like a letter. */
static bool
is_domain_item(const char *item, size_t len)
{
	size_t dot = len > 1 && item[0] == '.' && item[1] != '[';

	return !text_starts(item, "\357\273\277") &&
	    address_is_domain(item + dot, len - dot);
}

/* Takes a file's lines: comments go, what is left must be a domain.  Returns
   0, or the number of the first line that is none. */
static unsigned
take_lines(struct access *a)
{
	char *to = a->text, *p, *end = a->text + a->len;
	unsigned line = 0;
	size_t all, len;

	for (p = a->text; p < end; p += all) {
		len = all = text_line(p, (size_t)(end - p));
		line++;
		while (len > 0 && memchr(" \t\r\n", p[len - 1], 4) != NULL)
			len--;
		if (len > 0 && p[0] != '#') {
			if (!is_domain_item(p, len))
				return line;
			memmove(to, p, len);
			to[len] = '\0';
			to += len + 1;
		}
	}
	a->len = (size_t)(to - a->text);
	return 0;
}

/* Reads the file once.  Returns false if it cannot be used; that was logged. */
static bool
read_domains(struct access *a)
{
	unsigned line = 0;
	long n;

	if (a->text != NULL || a->set->domains == NULL)
		return true;
	n = file_read_named(a->fd, a->set->domains, FILE_MAX, &a->text);
	a->len = n == -1 ? 0 : (size_t)n;
	if (n == -1)
		logger_printf(a->log, LOG_ERR, "config-error", NULL,
		    "--relay-domains: %s: %s", a->set->domains,
		    strerror(errno));
	else if ((line = take_lines(a)) != 0)
		logger_printf(a->log, LOG_ERR, "config-error", NULL,
		    "--relay-domains: %s: line %u: not a domain",
		    a->set->domains, line);
	else
		return true;
	free(a->text);
	a->text = NULL;
	return false;
}

/* Takes a list of domains.  Returns false with a sentence in error. */
static bool
take_list(struct access *a, const char *list, char *error, size_t size)
{
	size_t len;

	a->len = strlen(list) + 1;
	a->text = malloc(a->len);
	if (a->text == NULL) {
		text_copy(error, size, "out of memory");
		return false;
	}
	memcpy(a->text, list, a->len);
	for (char *p = a->text; p < a->text + a->len; p += len + 1) {
		len = strcspn(p, ",");
		if (!is_domain_item(p, len)) {
			snprintf(error, size, "--relay-domains: \"%.*s\" is "
			    "not a domain", (int)(len < 255 ? len : 255), p);
			return false;
		}
		p[len] = '\0';
	}
	return true;
}

struct access *
access_open(const struct access_settings *set, const struct logger *log,
    char *error, size_t size)
{
	static struct access only;	/* untouched pages cost nothing */
	struct access *a = &only;
	const char *list = set->clients, *bad = "";
	size_t len = 0;

	memset(a, 0, sizeof *a);
	a->set = set;
	a->log = log;
	a->fd = -1;
	if (list != NULL && find_client(list, "", false, false, &bad,
	    &len) == -1) {
		snprintf(error, size, "--relay-clients: \"%.*s\" is neither a "
		    "network nor unix, auth or all",
		    (int)(len < 255 ? len : 255), bad);
		return NULL;
	}
	a->unlimited = list != NULL &&
	    find_client(list, "", false, false, &bad, &len) == 1;
	if (set->domains != NULL && set->domains[0] == '/')
		a->fd = open(set->domains, O_RDONLY | O_CLOEXEC);
	else if (set->domains != NULL &&
	    !take_list(a, set->domains, error, size)) {
		free(a->text);
		return NULL;
	}
	return a;
}

void
access_close(struct access *a)
{
	if (a == NULL)
		return;
	file_close(&a->fd);
	free(a->text);
	a->text = NULL;
}

void
access_check(struct access *a, struct findings *f)
{
	if (a->set->domains == NULL)
		return;
	/* What keeps it from that is logged. */
	if (read_domains(a))
		findings_add(f, FINDING_GOOD, "--relay-domains %s can be used",
		    a->set->domains);
}

bool
access_unlimited(const struct access *a)
{
	return a->unlimited;
}

bool
access_explicit(const struct access *a)
{
	return a->set->clients != NULL || a->set->domains != NULL;
}

/* Is domain in the list?  An entry with a dot before it means the domain and
   its subdomains. */
static bool
is_listed(const struct access *a, const char *domain)
{
	size_t n = strlen(domain), len;

	for (const char *p = a->text; p != NULL && p < a->text + a->len;
	    p += len + 1) {
		len = strlen(p);
		if (strcasecmp(p + (p[0] == '.'), domain) == 0)
			return true;
		if (p[0] == '.' && n > len &&
		    strcasecmp(domain + n - len, p) == 0)
			return true;
	}
	return false;
}

/* Does the local part name a further host? */
static bool
is_routed(const char *address, const char *at)
{
	for (; address < at; address++)
		if (*address == '@' || *address == '%' || *address == '!')
			return true;
	return false;
}

/* May everybody send to this address, which is in the canonical form, and is
   forwarded?  -1: the file cannot be used. */
static int
is_ours(struct access *a, const char *address, const char *at,
    enum access_way way)
{
	if (at == NULL)		/* RFC 5321 4.5.1 */
		return a->set->domains != NULL &&
		    strcasecmp(address, "postmaster") == 0;
	if (is_routed(address, at))
		return 0;
	if (way == ACCESS_NAMED && !access_explicit(a))
		return 1;
	if (!read_domains(a))
		return -1;
	return is_listed(a, at + 1);
}

bool
access_allows(struct access *a, const struct envelope *env,
    enum access_way way, struct reply *r, char *why, size_t size)
{
	const char *clients = a->set->clients, *bad;
	const char *client = env->fact[FACT_CLIENT_ADDRESS];
	/* The next hop may know a user whose name we do not. */
	const bool user = env->fact[FACT_SASL_USERNAME][0] != '\0' ||
	    env->fact[FACT_SASL_METHOD][0] != '\0';
	const bool local = a->set->local && strcmp(client, "unknown") == 0;
	char *address;
	int ours;
	size_t len;

	if (way == ACCESS_LOCAL && !access_explicit(a))
		return true;
	if (find_client(clients == NULL ? ACCESS_CLIENTS : clients, client,
	    local, user, &bad, &len) == 1)
		return true;
	address = strdup(env->recipients[0].address);
	if (address == NULL) {
		reply_no_memory(r);
		if (why != NULL)
			text_copy(why, size, "out of memory");
		return false;
	}
	ours = is_ours(a, address, address_canonical(address), way);
	free(address);
	if (ours == 1)
		return true;
	if (ours == -1)
		reply_config_error(r);
	else
		reply_set(r, 554, "5.7.1", "Relay access denied");
	if (why != NULL)
		snprintf(why, size, ours == -1
		    ? "--relay-domains cannot be used"
		    : "client %s is not in --relay-clients, and the recipient "
		    "is not in --relay-domains", client);
	return false;
}
