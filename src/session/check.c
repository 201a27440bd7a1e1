/*
 * check.c - --check: what would a session lack?
 *
 * Certificates, relay, services and the like are opened as for a session, and
 * asked to look at themselves; what they log while they do counts as found.
 */
#define _GNU_SOURCE	/* environ, pipe2 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/findings.h"
#include "base/spool.h"
#include "base/text.h"
#include "net/engine.h"
#include "net/spawn.h"
#include "session/check.h"
#include "session/jail.h"
#include "session/transcript.h"

#define FILE_MAX (16 << 20)	/* octets of a file of CAs */

static struct findings found;	/* --check runs once in a process */

/* What is looked at. */
struct subject {
	const struct options *o;
	struct monitor *m;
	const char *trouble;	/* why there is no TLS, or "" */
};

void
check_begin(struct options *o)
{
	found.connect = o->check == CHECK_CONNECT;
	found.early = o->check == CHECK_START;
	o->monitor.log = o->monitor.relay.log =
	    (struct logger){ findings_log, &found };
	o->monitor.status = NULL;
	o->monitor.about = NULL;
}

static void
check_user(const struct subject *s)
{
	const struct options *o = s->o;
	const struct passwd *pw = getpwuid(geteuid());

	if (o->user != NULL && pw != NULL && strcmp(pw->pw_name, o->user) != 0)
		findings_add(&found, FINDING_DOUBT, "--user %s has no effect: "
		    "this is not started as root, and stays %s", o->user,
		    pw->pw_name);
	else if (geteuid() == 0)
		findings_add(&found, FINDING_DOUBT, "sessions run as root");
	else
		findings_add(&found, FINDING_GOOD, "sessions run as %s",
		    pw == NULL ? "a user without a name" : pw->pw_name);
}

/* What smtpd-tls says of certificates: "good ...", "doubt ...", "bad ...", or
   an error; ctx is the name of one that stays, or NULL.  With a bad certificate
   there is TLS, which a client may accept: when the system starts it keeps no
   port closed. */
static void
hear_engine(void *ctx, int descriptor, const char *p, size_t len)
{
	const struct {
		const char *name;
		enum finding kind;
	} words[] = {
		{ "good ", FINDING_GOOD }, { "doubt ", FINDING_DOUBT },
		{ "bad ", found.early ? FINDING_DOUBT : FINDING_BAD },
	};
	const char *name = ctx;
	size_t n, w;

	for (; len > 0; p += n, len -= n) {
		n = text_line(p, len);
		if (descriptor == STDERR_FILENO)
			findings_add(&found, FINDING_BAD, "%.*s", (int)n, p);
		for (size_t i = 0; i < COUNT(words); i++) {
			w = strlen(words[i].name);
			if (descriptor == STDOUT_FILENO && n > w &&
			    strncmp(p, words[i].name, w) == 0)
				findings_add(&found, words[i].kind,
				    "%s%s%.*s", name == NULL ? "" : name,
				    name == NULL ? "" : ": ", (int)(n - w),
				    p + w);
		}
	}
}

static void
check_tls(const struct subject *s)
{
	const struct options *o = s->o;
	const struct tls_settings *tls = &o->monitor.tls;
	const char *trouble = s->trouble;
	char *argv[] = { (char *)(uintptr_t)tls->program, "check", "--certfd",
		"0", "--keyfd", "3", tls->ca == NULL ? NULL : "--ca",
		(char *)(uintptr_t)tls->ca, NULL };
	const struct spawn what = { .argv = argv, .envp = environ,
		.input = tls->cert, .extra = tls->key, .hear = hear_engine,
		.deadline = findings_deadline(&found) };
	struct spawn_end end = { .pid = 0 };
	char away[512], why[SPAWN_WHY];
	int error;

	if (trouble[0] != '\0')	/* the engine that stays is a service */
		findings_add(&found, tls->resident == NULL ? FINDING_BAD :
		    tls_reachable(tls->resident, away, sizeof away) ?
		    FINDING_DOUBT : findings_absence(&found, 0), "%s", trouble);
	if (tls->key != -1 && o->tlskey != NULL)
		findings_add_secret(&found, o->tlskey, tls->key);
	if (trouble[0] == '\0' && o->tlscert != NULL &&
	    (error = spawn_run(&what, &end)) != 0)
		findings_add(&found, FINDING_BAD, "%s: %s", tls->program,
		    strerror(error));
	else if (end.late || WIFSIGNALED(end.status))	/* without a word */
		findings_add(&found, FINDING_BAD, "%s: %s", tls->program,
		    spawn_describe(&end, why));
	else if (tls->program != NULL && trouble[0] == '\0' &&
	    access(tls->program, X_OK) == -1)
		findings_add(&found, FINDING_BAD, "%s: %s", tls->program,
		    strerror(errno));
}

/* An engine that stays has certificates of its own.  When the system starts it
   may wait for the very socket that this is a check of: then its own socket
   unit has looked at them. */
static void
check_engine(const struct subject *s)
{
	const char *name = s->o->monitor.tls.resident;
	char answer[4096], why[512];
	size_t n = found.n;

	if (name == NULL || found.early ||
	    !tls_reachable(name, why, sizeof why))
		return;
	if (tls_ask_check(name, findings_deadline(&found), answer,
	    sizeof answer) == -1)
		findings_add(&found, FINDING_BAD, "%s: the TLS engine does not "
		    "answer: %s", name, strerror(errno));
	else if (answer[0] == '\0')
		findings_add(&found, FINDING_BAD, "%s: the TLS engine gave up: "
		    "its log says why", name);
	else
		hear_engine((char *)(uintptr_t)name, STDOUT_FILENO, answer,
		    strlen(answer));
	if (found.n == n)
		findings_add(&found, FINDING_DOUBT, "%s: the TLS engine is of "
		    "another version, and tells of no certificates", name);
}

static void
check_monitor(const struct subject *s)
{
	monitor_check(s->m, &found);
}

/* Where messages above 1 MiB are kept. */
static void
check_spool(const struct subject *s)
{
	int fd = spool_file(NULL);
	char what[400];

	(void)s;
	snprintf(what, sizeof what, "%.340s, for messages above 1 MiB",
	    spool_folder());
	if (fd == -1)
		findings_add(&found, FINDING_BAD, "%s: %s", what,
		    strerror(errno));
	else
		findings_add_room(&found, what, fd);
	file_close(&fd);
}

/* The CAs for next hops, which smtpd-tls reads by this name. */
static void
check_relay_ca(const struct subject *s)
{
	static const char begin[] = "\n-----BEGIN ";
	const char *name = s->o->monitor.relay.tls_ca, *wrong = NULL;
	char *text = NULL;

	if (name == NULL)
		return;
	if (file_read_named(-1, name, FILE_MAX, &text) == -1)
		wrong = strerror(errno);
	else if (!text_starts(text, begin + 1) &&
	    strstr(text, begin) == NULL)
		wrong = "there is no certificate in PEM form";
	findings_add(&found, wrong == NULL ? FINDING_GOOD : FINDING_BAD,
	    "--relay-tls-ca %s%s%s", name, wrong == NULL ? " can be read" :
	    ": ", wrong == NULL ? "" : wrong);
	free(text);
}

/* This system's CAs, where a next hop's certificate will be verified by them:
   a small system has none. */
static void
check_system_ca(const struct subject *s)
{
	const struct monitor_settings *set = &s->o->monitor;
	char *argv[] = { (char *)(uintptr_t)set->tls.program, "check", NULL };
	const struct spawn what = { .argv = argv, .envp = environ,
		.input = -1, .extra = -1, .hear = hear_engine,
		.deadline = findings_deadline(&found) };
	struct spawn_end end = { .pid = 0 };
	int error;

	if (!found.verifies || set->relay.tls_ca != NULL ||
	    set->tls.resident != NULL)
		return;
	if ((error = spawn_run(&what, &end)) != 0)
		findings_add(&found, FINDING_BAD, "%s: %s", set->tls.program,
		    strerror(error));
}

/* A mistake in the file was found when it was read. */
static void
check_rules(const struct subject *s)
{
	if (s->o->faults != NULL)
		findings_add(&found, FINDING_GOOD, "--rules %s makes sense",
		    s->o->rules);
}

/* Could a session make a file in the folder, or append to it?  False with
   errno. */
static bool
can_record(const char *name)
{
	struct stat st;
	int fd;

	if (stat(name, &st) == -1)
		return false;
	if (S_ISDIR(st.st_mode))
		return access(name, W_OK | X_OK) == 0;
	fd = transcript_target(name, 0);
	if (fd == -1)
		return false;
	close(fd);
	return true;
}

/* What a session would make is not made. */
static void
check_record(const struct subject *s)
{
	const char *name = s->o->record, *slash;
	char folder[PATH_MAX];
	bool good;

	if (name == NULL)
		return;
	good = can_record(name);
	if (!good && errno == ENOENT) {
		slash = strrchr(name, '/');
		snprintf(folder, sizeof folder, "%.*s", slash == NULL ? 1
		    : (int)(slash + 1 - name), slash == NULL ? "." : name);
		good = can_record(folder);
	}
	if (good)
		findings_add(&found, FINDING_GOOD, "--record %s can be written "
		    "to", name);
	else
		findings_add(&found, FINDING_BAD, "--record %s: %s", name,
		    strerror(errno));
}

/* Tries the jail in a process of its own, for there is no way out of it. */
static void
check_jail(const struct subject *s)
{
	const struct options *o = s->o;
	char text[JAIL_TEXT] = "", why[SPAWN_WHY];
	int pipes[2], status;
	ssize_t n;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) == -1 || (pid = fork()) == -1) {
		findings_add(&found, FINDING_BAD, "cannot start a second "
		    "process: %s", strerror(errno));
		return;
	}
	if (pid == 0) {
		jail_try(o->monitor.max_size, false, text);
		n = write(pipes[1], text, strlen(text));
		_exit(n == -1);
	}
	close(pipes[1]);
	n = read(pipes[0], text, sizeof text - 1);
	close(pipes[0]);
	text[n > 0 ? n : 0] = '\0';
	status = spawn_reap(pid);
	if (status > 0)
		findings_add(&found, FINDING_BAD, "confinement: its trial "
		    "failed: %s", spawn_describe(&(struct spawn_end){
		    .status = status }, why));
	else if (text[0] != '\0')
		findings_add(&found, o->monitor.require_sandbox ? FINDING_BAD
		    : FINDING_DOUBT, "confinement: %s", text);
	else
		findings_add(&found, FINDING_GOOD, "the kernel confines "
		    "sessions");
}

/* To check one more thing, add a row; or, where it is the monitor's, a line in
   src/monitor/check.c. */
static void (*const checks[])(const struct subject *s) = {
	check_user, check_jail, check_spool, check_tls, check_engine,
	check_rules, check_record, check_relay_ca, check_monitor,
	check_system_ca,
};

int
check_run(const struct options *o, struct monitor *m, const char *trouble)
{
	const struct subject s = { o, m, trouble };
	static const char names[FINDINGS][6] = { "good", "doubt", "bad" };
	static const char levels[FINDINGS][4] = { "<6>", "<4>", "<3>" };

	signal(SIGPIPE, SIG_IGN);
	found.deadline = clock_after(FINDINGS_PATIENCE);
	for (size_t i = 0; i < COUNT(checks); i++)
		checks[i](&s);
	monitor_close(m);
	if (found.lost)
		findings_add(&found, FINDING_BAD, "out of memory");
	for (int kind = 0; kind < FINDINGS; kind++)
		for (size_t i = 0; i < found.n; i++)
			if (found.lines[i].kind == (enum finding)kind)
				dprintf(STDOUT_FILENO, "%s%s: %s\n",
				    o->journal ? levels[kind] : "",
				    names[kind], found.lines[i].text);
	return findings_count(&found, FINDING_BAD) == 0 && !found.lost ? EX_OK
	    : EX_CONFIG;
}
