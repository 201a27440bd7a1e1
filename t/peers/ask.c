/*
 * ask - puts questions to a policy service or an authentication source from
 * the command line, for t/peers/peers-policy.t and for people.
 *
 *	ask policy SERVICE [NAME=VALUE]... STAGE...
 *	ask auth SOURCE
 *
 * NAME is sender, recipient, address, name or helo.  The first form prints a
 * line "STAGE CODE ENH TEXT" for each stage, and those to prepend after "+ ".
 * The second prints the mechanisms; then, for each line "MECHANISM RESPONSE"
 * of its input, a line "CODE ENH TEXT" and, with 235, the user behind "= ".
 * MECHANISM is "-" for a further step, RESPONSE "-" for none; a line "*"
 * abandons the exchange.
 */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "service/auth.h"
#include "service/policy.h"

#define TIMEOUT 20	/* seconds; a lookup may take its time */

static const char *const stages[STAGES] = { "CONNECT", "HELO", "EHLO", "MAIL",
	"RCPT", "DATA", "END-OF-MESSAGE", "VRFY" };

static const struct {
	const char *name;
	enum fact fact;
} names[] = {
	{ "sender=", FACT_SENDER },
	{ "address=", FACT_CLIENT_ADDRESS },
	{ "name=", FACT_CLIENT_NAME },
	{ "helo=", FACT_CLIENT_HELO },
};

static void
report(void *ctx, int priority, const char *event, const struct envelope *env,
    const char *text)
{
	(void)ctx;
	(void)env;
	fprintf(stderr, "<%d>%s: %s\n", priority, event, text);
}

/* True if arg was a "NAME=VALUE". */
static bool
assign(struct envelope *env, struct recipient *to, const char *arg)
{
	size_t i, len;

	if (strncmp(arg, "recipient=", 10) == 0) {
		to->address = arg + 10;
		return true;
	}
	for (i = 0; i < sizeof names / sizeof names[0]; i++) {
		len = strlen(names[i].name);
		if (strncmp(arg, names[i].name, len) == 0) {
			env->fact[names[i].fact] = arg + len;
			return true;
		}
	}
	return false;
}

static int
policy(void *p, struct envelope *env, struct recipient *to,
    char *argv[])
{
	char prepend[SERVICE_PREPEND] = "";
	struct service_message message = { .spool = -1 };
	struct reply v;
	int stage;

	for (; *argv != NULL; argv++) {
		if (assign(env, to, *argv))
			continue;
		for (stage = 0; stage < STAGES; stage++)
			if (strcmp(*argv, stages[stage]) == 0)
				break;
		if (stage == STAGES)
			return EX_USAGE;
		env->nrecipients = stage >= STAGE_RCPT;
		reply_set(&v, 250, "2.0.0", "Ok");
		message.env = *env;
		if (stage == STAGE_END_OF_MESSAGE)
			service_policy.message(p, &message, &v);
		else
			service_policy.ask(p, (enum stage)stage, env, &v,
			    prepend);
		printf("%s %d %s %s\n", stages[stage], v.code, v.enh, v.text);
		if (prepend[0] != '\0')
			printf("+ %s", prepend);
	}
	return EX_OK;
}

static int
auth(struct auth *a, const struct envelope *env)
{
	char line[12300], user[256], *response;
	struct reply v;

	printf("%s\n", auth_mechanisms(a, env));
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (strcmp(line, "*") == 0) {
			auth_abandon(a);
			continue;
		}
		if ((response = strchr(line, ' ')) == NULL)
			return EX_USAGE;
		*response++ = '\0';
		auth_step(a, env, strcmp(line, "-") == 0 ? NULL : line,
		    strcmp(response, "-") == 0 ? NULL : response, &v, user,
		    sizeof user);
		printf("%d %s %s\n", v.code, v.enh, v.text);
		if (v.code == 235)
			printf("= %s\n", user);
		fflush(stdout);
	}
	return EX_OK;
}

int
main(int argc, char *argv[])
{
	struct recipient to = { "recipient@example.org", "" };
	struct envelope env = { .recipients = &to };
	struct logger log = { report, NULL };
	const struct service_settings set = { .log = &log,
		.timeout = TIMEOUT };
	void *p = NULL;
	struct auth *a = NULL;
	char error[256] = "usage: ask policy|auth SERVICE ...";
	int i, status = EX_USAGE;

	for (i = 0; i < FACTS; i++)
		env.fact[i] = "";
	env.fact[FACT_CLIENT_PROTOCOL] = "ESMTP";
	if (argc > 2 && strcmp(argv[1], "policy") == 0)
		p = service_policy.open(argv[2], &set, error, sizeof error);
	else if (argc > 2 && strcmp(argv[1], "auth") == 0)
		a = auth_open(argv[2], TIMEOUT, &log, error, sizeof error);
	if (p != NULL)
		status = policy(p, &env, &to, argv + 3);
	else if (a != NULL)
		status = auth(a, &env);
	else
		fprintf(stderr, "%s\n", error);
	service_policy.close(p);
	auth_close(a);
	return status;
}
