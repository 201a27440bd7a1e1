/*
 * program.c - gives a message to a program: its arguments, its start, its
 * output, its end, and what that end means.
 */
#define _GNU_SOURCE	/* environ */
#include <sys/wait.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/address.h"
#include "base/buffer.h"
#include "base/executable.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "net/spawn.h"
#include "relay/outcome.h"
#include "relay/transport.h"

#define TERM_GRACE 2000		/* milliseconds between SIGTERM and SIGKILL */

/* ---- Arguments and environment ---- */

/* Further to enum fact: what is known of a message, and not of its session. */
enum {
	ABOUT_SIZE = FACTS,
	ABOUT_RECIPIENT,	/* from here on: of each recipient */
	ABOUT_OPTIONS,
	ABOUT_USER,
	ABOUT_EXTENSION,
	ABOUT_DOMAIN
};

/* The names that these have, as in Postfix's local(8) and pipe(8). */
static const struct fact_names more_names[] = {
	{ .variable = "SIZE", .argument = "size" },
	{ .variable = "RECIPIENT", .argument = "recipient" },
	{ .variable = "RCPT_OPTIONS" },
	{ .argument = "user" },
	{ .argument = "extension" },
	{ .argument = "domain" },
};

#define NAMES (FACTS + (int)COUNT(more_names))

static const struct fact_names *
names_of(int about)
{
	return about < FACTS ? &fact_names[about] : &more_names[about - FACTS];
}

/* Strings for exec. */
struct vector {
	char **s;	/* each owned, NULL after the last */
	size_t n;
};

/* Takes text, which may be NULL for want of memory.  Returns false then. */
static bool
vector_take(struct vector *vec, char *text)
{
	char **rows = text != NULL ?
	    table_grow(vec->s, vec->n + 1, sizeof *rows) : NULL;

	if (rows == NULL) {
		free(text);
		return false;
	}
	rows[vec->n++] = text;
	rows[vec->n] = NULL;
	vec->s = rows;
	return true;
}

static void
vector_free(struct vector *vec)
{
	while (vec->n > 0)
		free(vec->s[--vec->n]);
	free(vec->s);
	vec->s = NULL;
}

/* Writes a part of recipient i.  As in pipe(8), a local part is taken apart
   without its quotes. */
static void
write_recipient(struct buffer *to, const struct recipient *r, int about)
{
	char *address = strdup(r->address), *at, *end, *plus;

	if (address == NULL) {
		to->failed = true;
		return;
	}
	at = address_canonical(address);
	end = at != NULL ? at : address + strlen(address);
	plus = memchr(address, '+', (size_t)(end - address));
	if (plus == NULL || plus == address)
		plus = end;
	if (about == ABOUT_USER)
		buffer_add(to, address, (size_t)(plus - address));
	else if (about == ABOUT_EXTENSION && plus < end)
		buffer_add(to, plus + 1, (size_t)(end - plus - 1));
	else if (about == ABOUT_DOMAIN && at != NULL)	/* as it was written */
		buffer_join(to, r->address + strlen(r->address) -
		    strlen(at + 1), NULL);
	free(address);
}

/* Writes what is known about recipient i, or the message. */
static void
write_about(struct buffer *to, const struct envelope *env, int about, size_t i)
{
	char n[TEXT_NUMBER];

	if (about < FACTS)
		buffer_join(to, env->fact[about], NULL);
	else if (about == ABOUT_SIZE)
		buffer_join(to, text_number(n, env->size, 1), NULL);
	else if (about == ABOUT_RECIPIENT)
		buffer_join(to, env->recipients[i].address, NULL);
	else if (about == ABOUT_OPTIONS)
		buffer_join(to, env->recipients[i].options, NULL);
	else
		write_recipient(to, &env->recipients[i], about);
}

/* What "{name}" at p stands for, with the length of all of it in *len: 0 if
   there is no such thing at p; -1 if the name is not known. */
static int
placeholder(const char *p, size_t *len)
{
	size_t n;
	int i;

	*len = 0;
	if (*p != '{')
		return -1;
	n = strspn(p + 1, "abcdefghijklmnopqrstuvwxyz_");
	if (n == 0 || p[1 + n] != '}')
		return -1;
	*len = n + 2;
	for (i = 0; i < NAMES; i++)
		if (text_is(p + 1, n, names_of(i)->argument))
			return i;
	return -1;
}

bool
program_check(char *const argv[], char *error, size_t size)
{
	const char *p;
	size_t i, len;

	if (argv[0] == NULL || *argv[0] == '\0') {
		text_copy(error, size, "no program is named");
		return false;
	}
	for (i = 0; argv[i] != NULL; i++)
		for (p = argv[i]; *p != '\0'; p += len + (len == 0)) {
			if (placeholder(p, &len) != -1 && i > 0)
				continue;
			if (len == 0)
				continue;
			snprintf(error, size, i > 0 ?
			    "%.*s is not a name that can be replaced" :
			    "%.*s cannot be the program", (int)len, p);
			return false;
		}
	return true;
}

/* Is it to be repeated for each recipient, as in pipe(8)? */
static bool
repeats(const char *template)
{
	size_t len;

	for (; *template != '\0'; template += len + (len == 0))
		if (placeholder(template, &len) >= ABOUT_RECIPIENT)
			return true;
	return false;
}

/* template with its names replaced, for recipient i.  NULL: no memory. */
static char *
expand(const char *template, const struct envelope *env, size_t i)
{
	struct buffer text = { .p = NULL };
	size_t len;
	int about;

	for (; *template != '\0'; template += len + (len == 0)) {
		about = placeholder(template, &len);
		if (about != -1)
			write_about(&text, env, about, i);
		else
			buffer_add(&text, template, 1);
	}
	return buffer_take(&text);
}

/*
 * Builds a program's arguments.  Returns false with *v changed if that cannot
 * be done.  What a client said must not become an option: an argument that
 * begins with it may not begin with a hyphen.
 */
static bool
build_arguments(const struct job *j, struct vector *vec, struct reply *v)
{
	char *const *argv = j->r->set->program;
	size_t i, n;

	for (; *argv != NULL; argv++) {
		n = repeats(*argv) ? j->env->nrecipients : 1;
		for (i = 0; i < n; i++) {
			if (!vector_take(vec, expand(*argv, j->env, i))) {
				job_fail(j, *argv, ENOMEM, v);
				return false;
			}
			if (**argv != '{' || *vec->s[vec->n - 1] != '-')
				continue;
			reply_printf(v, 550, "5.7.1", "A name must not begin "
			    "with a hyphen: %s", vec->s[vec->n - 1]);
			return false;
		}
	}
	return true;
}

/* Is "NAME=value" one that a program does not inherit? */
static bool
hidden(const char *variable)
{
	size_t len = strcspn(variable, "=");

	for (int i = 0; i < NAMES; i++)
		if (len > 0 && text_is(variable, len, names_of(i)->variable))
			return true;
	return spawn_is_private(variable);
}

/* "NAME=value"; what each recipient has of it is separated by newlines. */
static char *
variable(int about, const struct envelope *env)
{
	size_t n = about < ABOUT_RECIPIENT ? 1 : env->nrecipients;
	struct buffer text = { .p = NULL };

	buffer_join(&text, names_of(about)->variable, "=", NULL);
	for (size_t i = 0; i < n; i++) {
		buffer_add(&text, "\n", i > 0);
		write_about(&text, env, about, i);
	}
	return buffer_take(&text);
}

/* Builds a program's environment.  False: no memory. */
static bool
build_environment(const struct envelope *env, struct vector *vec)
{
	for (char **p = environ; *p != NULL; p++)
		if (!hidden(*p) && !vector_take(vec, strdup(*p)))
			return false;
	for (int i = 0; i < NAMES; i++)
		if (names_of(i)->variable[0] != '\0' &&
		    !vector_take(vec, variable(i, env)))
			return false;
	return true;
}

/* ---- Their run ---- */

/* One program that runs. */
struct run {
	const struct job *j;
	struct talk out, err;
};

/* As struct spawn's hear. */
static void
hear_program(void *ctx, int descriptor, const char *p, size_t len)
{
	struct run *run = ctx;

	talk_take(run->j, descriptor == 1 ? &run->out : &run->err, p, len);
}

/* Runs the program with the message, from its start, as its standard input.
   Returns 0, or an errno. */
static int
run_program(struct run *run, char *const argv[], char *const envp[],
    struct spawn_end *end)
{
	const struct job *j = run->j;
	const struct spawn what = {
		.argv = argv, .envp = envp, .input = j->spool, .extra = -1,
		.hear = hear_program, .ctx = run, .deadline = j->deadline,
		.grace = TERM_GRACE
	};
	int error;

	if (lseek(j->spool, 0, SEEK_SET) == -1)
		return errno;
	error = spawn_run(&what, end);
	talk_end(j, &run->out);
	talk_end(j, &run->err);
	if (end->alive)
		logger_printf(&j->r->set->log, LOG_CRIT, "program", j->env,
		    "%s: process %jd cannot be killed",
		    j->r->set->program[0], (intmax_t)end->pid);
	return error;
}

/* Sets *v by how the program ended. */
static void
judge_end(const struct run *run, const struct spawn_end *end, struct reply *v)
{
	const struct job *j = run->j;
	const char *name = j->r->set->program[0];
	char why[SPAWN_WHY];

	if (end->late) {
		logger_printf(&j->r->set->log, LOG_ERR, "program", j->env,
		    "%s: stopped after %u seconds", name, j->r->set->timeout);
		reply_set(v, 451, "4.3.0", "The relay took too long");
	} else if (!WIFEXITED(end->status)) {
		logger_printf(&j->r->set->log, LOG_ERR, "program", j->env,
		    "%s: %s", name, spawn_describe(end, why));
		reply_local_error(v);
	} else {
		outcome_judge(j, WEXITSTATUS(end->status), run->out.first, v);
	}
}

/* It was not started, for that errno. */
static void
fail_start(const struct job *j, int error, struct reply *v)
{
	const char *name = j->r->set->program[0];
	char why[512];

	reply_errno(v, error);
	logger_printf(&j->r->set->log, LOG_ERR, "relay", j->env, "%s: %s", name,
	    executable_reason(name, error, why, sizeof why));
}

static void
take_program(const struct job *j, struct reply *v)
{
	struct vector argv = { NULL, 0 }, envp = { NULL, 0 };
	struct run *run = calloc(1, sizeof *run);
	const char *name = j->r->set->program[0];
	struct spawn_end end = { .pid = 0 };
	int error;

	if (run == NULL || !build_environment(j->env, &envp)) {
		job_fail(j, name, ENOMEM, v);
	} else if (build_arguments(j, &argv, v)) {
		run->j = j;
		run->out.priority = LOG_INFO;
		run->out.reply = true;
		run->err.priority = LOG_NOTICE;
		error = run_program(run, argv.s, envp.s, &end);
		if (error != 0)
			fail_start(j, error, v);
		else
			judge_end(run, &end, v);
	}
	vector_free(&argv);
	vector_free(&envp);
	free(run);
}

static void
deliver_program(const struct job *j, struct hop *h, struct reply r[])
{
	(void)h;
	take_program(j, &r[0]);
	reply_spread(r, j->env->nrecipients);
}

static void
probe_program(struct relay *r, struct hop *h, struct findings *f)
{
	(void)h;
	findings_add_program(f, "the program ", r->set->program[0]);
}

/* Not in relay.c's table: a program is named after "--". */
const struct transport transport_program = {
	.name = "program", .syntax = "-- PROGRAM", .reach = LOCAL,
	.form = SPOOL_LF, .crlf = true, .dsn = true,
	.deliver = deliver_program, .probe = probe_program,
};
