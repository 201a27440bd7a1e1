/*
 * senders.c - who may send as whom, as Postfix's smtpd_sender_login_maps with
 * reject_sender_login_mismatch has it.
 *
 * The file is one of routes that lead from senders to logins.
 */
#include "monitor/senders.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/reply.h"
#include "base/text.h"
#include "relay/routes.h"

#define BETWEEN " \t,"		/* logins */

struct senders {
	struct route_file file;
	const struct logger *log;
};

/* As route_file_read()'s hop: the logins, as they stand in the file. */
static void *
take_logins(void *ctx, const char *result, char *error, size_t size)
{
	(void)ctx;
	if (result[strspn(result, BETWEEN)] != '\0')
		return (void *)(uintptr_t)result;
	text_copy(error, size, "no login");
	return NULL;
}

struct senders *
senders_open(const char *file, const struct logger *log)
{
	static struct senders only;

	route_file_open(&only.file, file);
	only.log = log;
	return &only;
}

static bool
read_logins(struct senders *s)
{
	return route_file_read(&s->file, true, s->log, take_logins, s);
}

/* Is user among logins, whatever the case? */
static bool
is_login(const char *logins, const char *user)
{
	const size_t len = strlen(user);
	size_t n;

	for (;; logins += n) {
		logins += strspn(logins, BETWEEN);
		n = strcspn(logins, BETWEEN);
		if (n == 0)
			return false;
		if (n == len && strncasecmp(logins, user, n) == 0)
			return true;
	}
}

bool
senders_allow(struct senders *s, const struct envelope *env, struct reply *v)
{
	const char *sender = env->fact[FACT_SENDER];
	const char *user = env->fact[FACT_SASL_USERNAME];
	enum route_kind kind = ROUTE_NONE;
	void *logins = NULL;

	if (s == NULL || sender[0] == '\0')
		return true;
	if (!read_logins(s)) {
		reply_config_error(v);
		return false;
	}
	if (!routes_find(s->file.table, sender, &logins, &kind)) {
		reply_local_error(v);
		return false;
	}
	if (user[0] == '\0' ? logins == NULL || kind == ROUTE_ANY
	    : logins != NULL && is_login(logins, user))
		return true;
	if (user[0] == '\0')
		reply_printf(v, 553, "5.7.1", "<%.320s>: Sender address "
		    "rejected: not logged in", sender);
	else
		reply_printf(v, 553, "5.7.1", "<%.320s>: Sender address "
		    "rejected: not owned by user %.100s", sender, user);
	return false;
}

void
senders_check(struct senders *s, struct findings *f)
{
	/* What keeps it from that is logged. */
	if (s == NULL || !read_logins(s))
		return;
	findings_add(f, FINDING_GOOD, "--auth-senders %s can be used",
	    s->file.name);
	route_file_check(&s->file, f);
}

void
senders_close(struct senders *s)
{
	if (s != NULL)
		route_file_close(&s->file);
}
