/*
 * smtpd.c - speaks SMTP or LMTP with the one client on standard input and
 * output, and hands its messages to a relay.
 *
 * It turns argv, environment and descriptors into a channel, moves bytes,
 * keeps time and logs.  channel.c has the dialogue; src/monitor and relay.c
 * have what becomes of a message.
 *
 * - Privileges are dropped before the first octet is read.
 * - Octets go to the channel, replies come back; they are written once, before
 *   anything that could block.
 * - The channel's hooks put the message into a spool, after a trace header,
 *   and ask the monitor.
 * - SIGTERM is blocked, and looked for when we wait for the client: so a relay
 *   that is running is finished, and no flood of input can outrun it.
 */
#define _GNU_SOURCE	/* initgroups, O_CLOEXEC */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

#include "base/text.h"
#include "net/engine.h"
#include "session/check.h"
#include "session/descriptors.h"
#include "session/faults.h"
#include "session/jail.h"
#include "session/log.h"
#include "session/session.h"
#include "session/transcript.h"

#define RECORD_MAX ((uint64_t)1 << 28)	/* octets of a session's transcript, */
#define REPLIES_MAX ((uint64_t)1 << 30)	/* and of its replies in a file */
#define UNIT_GROUPS 64		/* that a unit gives, */
#define USER_GROUPS 1024	/* and that its user has */

/* Takes the groups of that user.  Those that a socket unit has been given for
   its check stay: its sessions are given them, too, and no program is run. */
static int
take_groups(const struct options *o, const char *name, gid_t group)
{
	gid_t all[UNIT_GROUPS + USER_GROUPS];
	int kept = 0, n;

	if (o->check == CHECK_START)
		kept = getgroups(UNIT_GROUPS, all);
	if (initgroups(name, group) == -1)
		return -1;
	if (kept <= 0 || (n = getgroups(USER_GROUPS, all + kept)) == -1)
		return 0;
	return setgroups((size_t)(kept + n), all);
}

/* Gives up root: becomes nobody, or the user of --user with all its groups. */
static void
drop_root(const struct options *o)
{
	const char *name = o->user == NULL ? "nobody" : o->user;
	const struct passwd *pw;

	if (o->user == NULL && (geteuid() != 0 || o->nosetuid))
		return;
	pw = getpwnam(name);
	if (pw == NULL)
		log_misused("there is no user \"%s\"", name);
	if (geteuid() != 0)
		return;
	if ((o->user == NULL ? setgroups(0, NULL)
			     : take_groups(o, name, pw->pw_gid)) == -1 ||
	    setgid(pw->pw_gid) == -1 || setuid(pw->pw_uid) == -1) {
		log_complain("cannot give up root; -n keeps it");
		exit(EX_OSERR);
	}
	/* Programs that we start must not see root's home. */
	if (setenv("HOME", pw->pw_dir, 1) == -1 ||
	    setenv("USER", name, 1) == -1 ||
	    setenv("LOGNAME", name, 1) == -1) {
		log_complain("out of memory");
		exit(EX_OSERR);
	}
	unsetenv("MAIL");
}

/* Opens a file for the TLS engine, out of the way of the descriptors that it
   gets by number.  -1 with more in why. */
static int
open_key(const char *option, const char *path, char *why, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	/* A folder can be opened; read() refuses it. */
	int high = fd == -1 || read(fd, why, 0) == -1 ? -1
	    : fcntl(fd, F_DUPFD_CLOEXEC, 10);
	size_t n = strlen(why);

	if (high == -1)
		snprintf(why + n, size - n, "%s%s%s: %s", n == 0 ? "" : "; ",
		    option, path, strerror(errno));
	if (fd != -1)
		close(fd);
	return high;
}

/* Opens certificate and key, while we may still be root; only the TLS engine
   reads them.  If one cannot be opened there is none, and why says so. */
static void
open_keys(struct options *o, char *why, size_t size)
{
	struct tls_settings *tls = &o->monitor.tls;

	tls->cert = tls->key = -1;
	why[0] = '\0';
	if (o->tlscert == NULL)
		return;
	tls->cert = open_key("--tlscert ", o->tlscert, why, size);
	tls->key = open_key("--tlskey ", o->tlskey, why, size);
	if (tls->cert != -1 && tls->key != -1)
		return;
	if (tls->cert != -1)
		close(tls->cert);
	if (tls->key != -1)
		close(tls->key);
	tls->cert = tls->key = -1;
}

/* Reads the rules, which may be root's.  If a line makes no sense, --check says
   so, and a session does not begin.  why is room for an error. */
static void
open_rules(struct options *o, char *why, size_t size)
{
	if (o->rules == NULL)
		return;
	o->faults = faults_open(o, o->rules, why, size);
	if (o->faults != NULL)
		return;
	if (o->check != CHECK_NO) {
		logger_printf(&o->monitor.log, LOG_ERR, "config-error", NULL,
		    "%s", why);
		return;
	}
	log_complain(why);
	exit(EX_CONFIG);
}

/* In the monitor: the transcript is whole. */
static void
finish_record(void *ctx)
{
	struct options *o = ctx;

	transcript_finish(o->transcript, &o->monitor.log);
}

/* Opens what the dialogue is recorded to, as the user that we became.  why is
   room for an error. */
static void
open_record(struct options *o, char *why, size_t size)
{
	if (o->record == NULL || o->check != CHECK_NO)
		return;
	o->transcript = transcript_open(o->record, why, size);
	if (o->transcript == NULL) {
		log_complain(why);
		exit(EX_CONFIG);
	}
	o->monitor.ended = finish_record;
	o->monitor.ended_ctx = o;
}

/* Does any option ask for TLS, with the client or with a next hop? */
static bool
uses_tls(const struct options *o)
{
	return o->tlscert != NULL || relay_needs_tls(&o->monitor.relay);
}

/*
 * Finds smtpd-tls: beside this program where it was built, else where it is
 * installed.  *fd has it open if it is beside us, else it is -1: only root may
 * be able to enter that folder.  Returns a path that nobody frees, or NULL if
 * no option needs TLS.  why is room for an error.
 */
static char *
find_engine(const struct options *o, int *fd, char *why, size_t size)
{
	char *path, *slash;
	ssize_t n;

	why[0] = '\0';
	*fd = -1;
	if (!uses_tls(o))
		return NULL;
	/* Static, it would move what every session touches to further pages. */
	path = malloc(PATH_MAX);
	if (path == NULL)
		log_misused("out of memory");
	n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	path[n < 0 ? 0 : n] = '\0';
	slash = strrchr(path, '/');
	if (slash != NULL)
		snprintf(slash, PATH_MAX - (size_t)(slash - path),
		    "/smtpd-tls");
	if (slash != NULL && access(path, F_OK) == 0)
		*fd = open_key("", path, why, size);
	else
		snprintf(path, PATH_MAX, LIBEXEC "/smtpd-tls");
	return path;
}

/* Whether there can be TLS: by certificate and key of our own, or by the engine
   that stays, beside which they are for bad days only.  If not, why says it;
   with --check it says also which of them is missing. */
static void
decide_tls(struct options *o, bool socket, const char *missing, char why[512])
{
	const struct tls_settings *tls = &o->monitor.tls;
	const size_t size = 512;
	char away[200];

	why[0] = '\0';
	if (o->tlscert == NULL && tls->resident == NULL)
		return;
	if (!socket)
		snprintf(why, size, "TLS is not offered: standard input and "
		    "output are not one socket");
	else if (tls->key != -1)
		return;
	else if (tls->resident == NULL)
		snprintf(why, size, "TLS is not offered: %s", missing);
	else if (tls_reachable(tls->resident, away, sizeof away)) {
		if (o->check != CHECK_NO)
			snprintf(why, size, "%s", missing);
		return;
	} else
		snprintf(why, size, "%s%s%s", away, missing[0] == '\0' ? "" :
		    "; ", missing);
	o->channel.tls = false;
}

/* The path by which smtpd-tls is run: its name, or its descriptor if the user
   that we became cannot enter its folder. */
static const char *
reach_engine(int fd, char *path)
{
	if (fd != -1 && access(path, X_OK) == 0)
		close(fd);
	else if (fd != -1)
		snprintf(path, PATH_MAX, "/proc/self/fd/%d", fd);
	return path;
}

/* Returns a descriptor that is readable when SIGTERM came; -1 with errno. */
static int
catch_signals(void)
{
	sigset_t term;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL);
	signal(SIGTERM, SIG_DFL);	/* ignored, it would not even wait */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);	/* a full spool is an errno */
	return signalfd(-1, &term, SFD_CLOEXEC);
}

/* Sets what depends on how the process was started. */
static void
settle_options(struct options *o, struct log *l, const struct stat std[3],
    char *fqdn, size_t size)
{
	struct channel_settings *c = &o->channel;
	struct relay_settings *relay = &o->monitor.relay;
	mode_t in = std[STDIN_FILENO].st_mode;

	if (o->hostname != NULL)
		text_join(fqdn, size, o->hostname, NULL);
	else if (gethostname(fqdn, size) == -1 || fqdn[0] == '\0')
		text_join(fqdn, size, "localhost", NULL);
	fqdn[size - 1] = '\0';
	c->fqdn = relay->fqdn = fqdn;
	l->sink = log_choose_sink(std);
	o->journal = log_is_journal(std);
	l->level = o->log_level;
	l->least = o->log_least;
	l->relay = relay->spec != NULL ? relay->spec : relay->program[0];
	relay->log = o->monitor.log = (struct logger){ log_event, l };
	o->monitor.about = log_about;
	if (l->systemd.notify != NULL)
		o->monitor.status = log_show_status;
	relay->print = l->sink == SINK_SYSLOG ? -1 : STDERR_FILENO;
	if (relay->show && relay->print == -1)
		log_misused("--show: standard error is the client");
	relay->print_journal = o->journal;
	/* A route may go to a Maildir, too, and the quarantine is one. */
	o->adds_fields = !o->no_received || o->x_peer ||
	    relay->routes != NULL || relay->sender_routes != NULL ||
	    relay->quarantine != NULL || (relay->spec != NULL &&
	    text_starts(relay->spec, "maildir:"));
	if (!o->newlines_given && (S_ISREG(in) ||
	    (S_ISCHR(in) && isatty(STDIN_FILENO))))
		c->bare_newline = BARE_UNIX;
	if (o->xclient != NULL)		/* is it readable? */
		peer_in_networks("", "xclient", o->xclient);
	if (o->xforward != NULL)
		peer_in_networks("", "xforward", o->xforward);
}

/* The octets of the largest file that the channel process may write: its spool,
   or the replies, after what that file has already.  0: any. */
static uint64_t
largest_file(const struct options *o, const struct stat *out)
{
	uint64_t most = o->monitor.max_size;

	if (most == 0)
		return 0;
	most += MONITOR_FIELDS + (o->transcript == NULL ? 0 : RECORD_MAX);
	return S_ISREG(out->st_mode)
	    ? most + (uint64_t)out->st_size + REPLIES_MAX : most;
}

/* Starts the monitor and runs the session.  Files are opened before the fork;
   what only the channel process needs is made after it, because a page that
   both processes have is copied when one of them writes to it. */
static int
start(struct options *o, struct monitor *m, const char *tls_trouble,
    const struct stat std[3])
{
	struct channel_hooks hook = session_hooks;
	const char *known[FACTS];
	struct client who;
	struct session *s;
	int signals, error, peer = -1;
	bool parted;

	if (o->faults != NULL)
		faults_hook(&hook);
	if (!o->debug && o->transcript == NULL)
		hook.dialogue = NULL;
	if (o->transcript == NULL)
		hook.received = NULL;
	if (!monitor_wants(m).group)
		hook.group = NULL;
	peer_find(&who, o);
	peer_facts(known, o, &who);
	o->monitor.access.local = who.local &&
	    known[FACT_CLIENT_ADDRESS] != NULL;
	signals = catch_signals();
	if (signals != -1)
		peer = monitor_start(m, signals, known);
	error = errno;
	parted = peer != -1;
	s = session_open(o, &hook, &who);
	if (s == NULL) {
		logger_put(&o->monitor.log, LOG_ERR, "session", NULL,
		    "out of memory");
		return EX_OSERR;
	}
	if (parted) {
		jail_close_files(signals, peer, o->transcript == NULL ? -1
		    : transcript_fd(o->transcript));
		ask_start(&s->asker, peer, m);
		parted = jail_enter(&s->asker, o, largest_file(o, &std[1]),
		    o->faults != NULL && faults_reset(o->faults)) == 0;
	}
	s->socket = descriptors_one_socket(std);
	s->signals = signals;
	/* What reads a pipe may pass the replies on. */
	if (parted && who.peer.server_address[0] != '\0' && !s->socket &&
	    !S_ISFIFO(std[STDOUT_FILENO].st_mode))
		session_log(s, LOG_WARNING, "config-error", "the client hears "
		    "no reply: standard output leads elsewhere");
	return parted ? session_run(s, tls_trouble)
	    : session_turn_away(s, error, EX_OSERR);
}

int
main(int argc, char **argv)
{
	struct options o;
	struct stat std[3];
	char fqdn[CHANNEL_NAME_MAX], missing[300], trouble[512];
	struct log log = { .sink = SINK_STDERR };
	struct monitor *m;
	char *engine;
	int fd;

	(void)argc;
	/* What is made here is for its user, be the umask 0700 by mistake. */
	umask(umask(S_IRWXG | S_IRWXO) & (S_IRWXG | S_IRWXO));
	descriptors_look(std);
	options_read(&o, argv);
	log.sink = log_choose_sink(std);
	systemd_find(&log.systemd, log.sink == SINK_JOURNAL);
	systemd_take_socket(&log.systemd, std);
	settle_options(&o, &log, std, fqdn, sizeof fqdn);
	if (o.check != CHECK_NO)
		check_begin(&o);
	open_keys(&o, missing, sizeof missing);
	open_rules(&o, trouble, sizeof trouble);
	engine = find_engine(&o, &fd, trouble, sizeof trouble);
	/* Opens files that only root may be able to read, so it comes first. */
	m = monitor_open(&o.monitor, trouble, sizeof trouble);
	if (m == NULL)
		log_misused("%s", trouble);
	drop_root(&o);
	open_record(&o, trouble, sizeof trouble);
	o.monitor.tls.program = o.monitor.relay.tls_program =
	    reach_engine(fd, engine);
	decide_tls(&o, o.check != CHECK_NO || descriptors_one_socket(std),
	    missing, trouble);
	if (o.check != CHECK_NO)
		_exit(check_run(&o, m, trouble));
	o.channel.dsn = monitor_dsn(m);
	/* There is no stdio to flush. */
	_exit(start(&o, m, trouble, std));
}
