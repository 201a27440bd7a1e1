/*
 * neighbours.c - loads the rooms that only some sessions need, which are a
 * shared object, and passes on what they are asked.
 *
 * It is loaded at start, if any option wants it, and never later: then there
 * is no mail yet that could be lost for want of it.  A channel process that an
 * intruder took over may ask for what was not loaded all the same.
 */
#include <assert.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "neighbours.h"

static const struct neighbours *them;	/* NULL: nobody needs them */

bool
neighbours_load(const char *path, char *error, size_t size)
{
	void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct neighbours *found = NULL;

	if (object != NULL)
		found = dlsym(object, "neighbours");
	if (found == NULL) {
		snprintf(error, size, "next hops, policy services, AUTH and "
		    "TLS need a file that can not be loaded: %s", dlerror());
		return false;
	}
	if (strcmp(found->version, VERSION) != 0) {
		snprintf(error, size, "%s is of smtpd %s, and this is "
		    "smtpd " VERSION, path, found->version);
		return false;
	}
	them = found;
	return true;
}

/* Who opens anything was loaded before: has_neighbours() saw to it. */
static const struct neighbours *
opener(void)
{
	assert(them != NULL);
	return them;
}

bool
nexthop_valid(enum nexthop_protocol protocol, const char *where, char *error,
    size_t size)
{
	return opener()->nexthop_valid(protocol, where, error, size);
}

void
nexthop_close(struct nexthop *h)
{
	if (h != NULL)
		them->nexthop_close(h);
}

int
tls_start(const char *const argv[], const int keep[], int fd, int64_t deadline,
    char *report, size_t size)
{
	return opener()->tls_start(argv, keep, fd, deadline, report, size);
}

void
fan_rcpt(struct relay *r, const struct envelope *env, struct verdict *v)
{
	them->fan_rcpt(r, env, v);
}

void
fan_out(const struct job *j, struct verdict v[])
{
	them->fan_out(j, v);
}

struct policy *
policy_open(const char *service, unsigned timeout, const struct logger *log,
    char *error, size_t size)
{
	return opener()->policy_open(service, timeout, log, error, size);
}

void
policy_ask(struct policy *p, enum stage stage, const struct envelope *env,
    struct verdict *v, char *prepend)
{
	them->policy_ask(p, stage, env, v, prepend);
}

bool
policy_discards(const struct policy *p)
{
	return them->policy_discards(p);
}

const char *
policy_redirects(const struct policy *p)
{
	return them->policy_redirects(p);
}

void
policy_forget(struct policy *p)
{
	them->policy_forget(p);
}

void
policy_close(struct policy *p)
{
	if (p != NULL)
		them->policy_close(p);
}

struct auth *
auth_open(const char *source, unsigned timeout, const struct logger *log,
    char *error, size_t size)
{
	return opener()->auth_open(source, timeout, log, error, size);
}

const char *
auth_mechanisms(struct auth *a, const struct envelope *env)
{
	return them == NULL ? "" : them->auth_mechanisms(a, env);
}

void
auth_step(struct auth *a, const struct envelope *env, const char *mechanism,
    const char *response, struct verdict *v, char *user, size_t size)
{
	if (them != NULL) {
		them->auth_step(a, env, mechanism, response, v, user, size);
		return;
	}
	user[0] = '\0';
	verdict_set(v, 504, "5.5.4", "Unknown mechanism");
}

void
auth_abandon(struct auth *a)
{
	if (a != NULL)
		them->auth_abandon(a);
}

void
auth_close(struct auth *a)
{
	if (a != NULL)
		them->auth_close(a);
}

void
routes_close(struct routes *r)
{
	if (r != NULL)
		them->routes_close(r);
}
