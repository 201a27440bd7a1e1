/*
 * smtpd.c - speaks SMTP or LMTP with the one client on standard input and
 * output, and hands its messages to a relay.
 *
 * It turns argv, environment and descriptors into a channel, moves bytes,
 * keeps time and logs.  The dialogue is channel.c's, what becomes of a message
 * monitor.c's and relay.c's affair.
 *
 * - Privileges are dropped before the first octet is read.
 * - Octets go to the channel, replies come back; they are written once, before
 *   anything that could block.
 * - The channel's hooks put the message into a spool behind a trace header,
 *   and ask the monitor.
 * - SIGTERM is blocked, and looked for when we wait for the client: so a relay
 *   that is running is finished, and no flood of input can outrun it.
 */
#define _GNU_SOURCE	/* getopt_long, struct ucred, initgroups */
#include "channel.h"
#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "monitor/monitor.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sysexits.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_SYSTEMD
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>
#endif

#ifndef VERSION
#define VERSION "1.0"
#endif
#ifndef LIBEXEC
#define LIBEXEC "/usr/local/libexec"
#endif

#define INPUT 65536		/* octets read at once */
#define RECEIVED_MAX 100	/* more Received: fields are a loop: RFC 5321 6.3 */
#define LIMITS_MAX 32		/* rows of --command-limit */
#define TLS_TIMEOUT 60		/* seconds for a handshake */
#define LOOK_UP 1000		/* milliseconds that we read on without a look */
#define ENGINE_GRACE 5		/* seconds for it to deliver our last words */

/* ---- where words go ----------------------------------------------------- */

static bool
same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Looks at descriptors 0 to 2.  They must be something, or the next open
   would become them. */
static void
look_at_descriptors(struct stat std[3])
{
	for (int fd = 0; fd <= 2; fd++)
		if (fstat(fd, &std[fd]) == -1 &&
		    (open("/dev/null", O_RDWR) != fd ||
		    fstat(fd, &std[fd]) == -1))
			exit(EX_OSERR);
}

enum sink {
	SINK_STDERR,	/* one key=value line per event */
	SINK_JOURNAL,	/* the same with <N> in front: the journal reads it */
	SINK_SYSLOG	/* standard error is the client */
};

/*
 * Where records go.  Behind a super-server standard error may be the client:
 * then nothing is ever written to it.  At a terminal all three are the same
 * file, and meant to be.
 */
static enum sink
choose_sink(const struct stat std[3])
{
	const struct stat *in = &std[STDIN_FILENO], *err = &std[STDERR_FILENO];
	const char *stream = getenv("JOURNAL_STREAM");
	char name[64];

	if (same_file(in, err) && !S_ISCHR(err->st_mode))
		return SINK_SYSLOG;
	if (stream == NULL)
		return SINK_STDERR;
	snprintf(name, sizeof name, "%llu:%llu",
	    (unsigned long long)err->st_dev, (unsigned long long)err->st_ino);
	return strcmp(stream, name) == 0 ? SINK_JOURNAL : SINK_STDERR;
}

/* One sentence for whoever started us, but never for the client. */
static void
complain(const char *text)
{
	struct stat std[3];
	enum sink sink;

	look_at_descriptors(std);
	sink = choose_sink(std);
	if (sink == SINK_SYSLOG)
		syslog(LOG_MAIL | LOG_ERR, "%s", text);
	else
		dprintf(STDERR_FILENO, "%ssmtpd: %s\n",
		    sink == SINK_JOURNAL ? "<3>" : "", text);
}

/* ---- the command line -------------------------------------------------- */

struct options {
	struct channel_settings channel;
	struct monitor_settings monitor;
	struct command_limit limits[LIMITS_MAX + 1];
	char verbs[1024];		/* the names in limits */
	const char *hostname, *user, *routes, *xclient;
	const char *tlscert, *tlskey, *tls_ca;
	uint64_t timeout, session_timeout, relay_timeout, policy_timeout;
	uint64_t max_recipients, max_errors, max_messages;
	const char *command_limit, *bare_newline, *relay_tls;
	bool nosetuid, no_received, x_peer, debug, no_auth_require_tls;
	bool version, help;
};

enum kind {
	FLAG,		/* bool */
	NUMBER,		/* uint64_t */
	OCTETS,		/* uint64_t, with K, M or G behind it if need be */
	TEXT_ARG	/* const char *, borrowed from argv */
};

/* Name, letter if it has one, kind, member of struct options; and for --help
   the argument, and what it means. */
#define OPTIONS(row) \
	row("size", 's', OCTETS, channel.data_size_limit, \
	    "N", "octets of a message at most, 0: any (32M)") \
	row("smtputf8", 'u', FLAG, channel.enable_SMTPUTF8, \
	    "", "offer SMTPUTF8") \
	row("decode-data", '\0', FLAG, channel.decode_data, \
	    "", "messages must be UTF-8; no 8BITMIME") \
	row("hostname", 'H', TEXT_ARG, hostname, \
	    "NAME", "our name (gethostname)") \
	row("lmtp", 'l', FLAG, channel.lmtp, \
	    "", "speak LMTP") \
	row("nosetuid", 'n', FLAG, nosetuid, \
	    "", "stay root") \
	row("user", '\0', TEXT_ARG, user, \
	    "NAME", "become NAME instead of nobody") \
	row("timeout", 't', NUMBER, timeout, \
	    "SEC", "for one command (300)") \
	row("session-timeout", '\0', NUMBER, session_timeout, \
	    "SEC", "for the whole session (3600)") \
	row("relay-timeout", '\0', NUMBER, relay_timeout, \
	    "SEC", "for relaying a message (540)") \
	row("policy-timeout", '\0', NUMBER, policy_timeout, \
	    "SEC", "for one question (100)") \
	row("max-recipients", '\0', NUMBER, max_recipients, \
	    "N", "of a message, 0: any (1000)") \
	row("max-errors", '\0', NUMBER, max_errors, \
	    "N", "of a session, 0: any (20)") \
	row("max-messages", '\0', NUMBER, max_messages, \
	    "N", "of a session, 0: any (0)") \
	row("command-limit", '\0', TEXT_ARG, command_limit, \
	    "N|VERB=N,...", "uses of a verb") \
	row("routes", '\0', TEXT_ARG, monitor.relay.routes, \
	    "FILE", "other relays for some recipients") \
	row("policy", '\0', TEXT_ARG, monitor.policy, \
	    "SERVICE", "[STAGE,...=]unix:PATH or inet:HOST:PORT") \
	row("auth", '\0', TEXT_ARG, monitor.auth, \
	    "SOURCE", "checkpassword:PROGRAM dovecot:PATH file:PATH") \
	row("auth-required", '\0', FLAG, channel.auth_required, \
	    "", "no mail without AUTH") \
	row("no-auth-require-tls", '\0', FLAG, no_auth_require_tls, \
	    "", "AUTH in clear text too") \
	row("tlscert", '\0', TEXT_ARG, tlscert, \
	    "FILE", "offer STARTTLS") \
	row("tlskey", '\0', TEXT_ARG, tlskey, \
	    "FILE", "the key that goes with it") \
	row("tls-ca", '\0', TEXT_ARG, tls_ca, \
	    "FILE", "ask clients for certificates") \
	row("require-tls", '\0', FLAG, channel.require_starttls, \
	    "", "no mail without TLS") \
	row("smtps", '\0', FLAG, channel.tls_on_connect, \
	    "", "TLS from the first octet") \
	row("relay-tls", '\0', TEXT_ARG, relay_tls, \
	    "WHEN", "none, may, must: TLS to next hops") \
	row("relay-tls-ca", '\0', TEXT_ARG, monitor.relay.tls_ca, \
	    "FILE", "whom to trust there") \
	row("relay-auth", '\0', TEXT_ARG, monitor.relay.auth, \
	    "FILE", "credentials for next hops") \
	row("require-sandbox", '\0', FLAG, monitor.require_sandbox, \
	    "", "refuse to run unconfined") \
	row("proxy-protocol", '\0', FLAG, channel.proxy_protocol, \
	    "", "a PROXY header comes first") \
	row("xclient", '\0', TEXT_ARG, xclient, \
	    "NET,...", "who may send XCLIENT") \
	row("bare-newline", '\0', TEXT_ARG, bare_newline, \
	    "HOW", "reject, normalize or unix") \
	row("crlf", '\0', FLAG, monitor.relay.crlf, \
	    "", "programs and Maildirs get CRLF") \
	row("no-received", '\0', FLAG, no_received, \
	    "", "no trace header") \
	row("x-peer", '\0', FLAG, x_peer, \
	    "", "add X-Peer:") \
	row("debug", 'd', FLAG, debug, \
	    "", "log the dialogue") \
	row("version", 'V', FLAG, version, \
	    "", "print our version") \
	row("help", 'h', FLAG, help, \
	    "", "print this")

struct option_row {
	char letter;		/* '\0': has none */
	unsigned char kind;	/* enum kind */
	unsigned short offset;	/* in struct options */
};

#define ROW(name, letter, kind, member, arg, what) \
	{ letter, kind, offsetof(struct options, member) },
static const struct option_row rows[] = { OPTIONS(ROW) };

/* Their strings, three of each, one behind the other: pointers would cost
   every start their relocation. */
#define WORDS(name, letter, kind, member, arg, what) \
	name "\0" arg "\0" what "\0"
static const char option_words[] = OPTIONS(WORDS);

#define ROWS (sizeof rows / sizeof *rows)

static const char usage[] =
    "usage: smtpd [OPTION]... TRANSPORT:NEXTHOP\n"
    "       smtpd [OPTION]... -- PROGRAM [ARGUMENT]...\n"
    "Speaks SMTP on standard input and output, relays at the end of DATA.\n"
    "\n"
    "TRANSPORT:NEXTHOP is print: print:FILE discard: maildir:DIR\n"
    "smtp:[HOST]:PORT smtps:[HOST]:PORT lmtp:[HOST]:PORT lmtp:unix:PATH\n"
    "or error:TEXT; smtpd(8) explains them, and the options:\n";

/* A wrong command line: one sentence, before a byte is spoken. */
static _Noreturn void __attribute__((format(printf, 1, 2)))
misused(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	complain(text);
	exit(EX_USAGE);
}

static const char *
next_word(const char *p)
{
	return p + strlen(p) + 1;
}

/* The name of option number n. */
static const char *
option_name(size_t n)
{
	const char *p = option_words;

	for (; n > 0; n--)
		p = next_word(next_word(next_word(p)));
	return p;
}

static void
print_help(void)
{
	const struct option_row *row;
	const char *p = option_words, *arg, *what;
	char name[40];

	dprintf(STDOUT_FILENO, "%s", usage);
	for (row = rows; row < rows + ROWS; row++, p = next_word(what)) {
		arg = next_word(p);
		what = next_word(arg);
		text_join(name, sizeof name, "--", p,
		    arg[0] == '\0' ? "" : " ", arg, NULL);
		dprintf(STDOUT_FILENO, "  %c%c%c %-24s %s\n",
		    row->letter == '\0' ? ' ' : '-',
		    row->letter == '\0' ? ' ' : row->letter,
		    row->letter == '\0' ? ' ' : ',', name, what);
	}
}

static uint64_t
count(const char *name, enum kind kind, const char *arg)
{
	static const char units[] = "kmgKMG";
	const uint64_t most = kind == NUMBER ? INT_MAX : INT64_MAX;
	const char *p = arg, *unit;
	uint64_t n = 0;
	int shift = 0;

	for (; *p >= '0' && *p <= '9' && n <= most / 10; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	if (p > arg && *p != '\0' && kind == OCTETS &&
	    (unit = strchr(units, *p)) != NULL) {
		shift = 10 * (int)((unit - units) % 3 + 1);
		p++;
	}
	if (p == arg || *p != '\0' || n > most >> shift)
		misused("--%s: \"%s\" is not a number, or too large", name, arg);
	return n << shift;
}

static void
take_option(struct options *o, const struct option_row *row, const char *arg)
{
	char *member = (char *)o + row->offset;

	switch (row->kind) {
	case FLAG:
		*(bool *)(void *)member = true;
		break;
	case NUMBER:
	case OCTETS:
		*(uint64_t *)(void *)member = count(option_name(
		    (size_t)(row - rows)), (enum kind)row->kind, arg);
		break;
	case TEXT_ARG:
		*(const char **)(void *)member = arg;
		break;
	}
}

/* Calls take_option() for each option.  Returns what is left of argv. */
static char **
read_options(struct options *o, char **argv)
{
	struct option longs[ROWS + 1];
	char letters[2 * ROWS + 4] = "+:";
	const char *p = option_words;
	size_t n = 2, i;
	int argc = 0, c;

	for (i = 0; i < ROWS; i++) {
		longs[i] = (struct option){ p, rows[i].kind != FLAG,
			NULL, 256 + (int)i };
		p = next_word(next_word(next_word(p)));
		if (rows[i].letter != '\0')
			letters[n++] = rows[i].letter;
		if (rows[i].letter != '\0' && rows[i].kind != FLAG)
			letters[n++] = ':';
	}
	letters[n] = '\0';
	longs[ROWS] = (struct option){ NULL, 0, NULL, 0 };
	while (argv[argc] != NULL)
		argc++;
	while ((c = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		for (i = 0; i < ROWS; i++)
			if (c == 256 + (int)i || c == rows[i].letter)
				break;
		if (c == ':')
			misused("%s needs an argument", argv[optind - 1]);
		if (c == '?' && optopt >= 256)
			misused("--%s takes no argument",
			    longs[optopt - 256].name);
		if (c == '?' && optopt != 0)
			misused("unknown option -%c, try smtpd --help", optopt);
		if (i == ROWS)
			misused("unknown or ambiguous option %s, "
			    "try smtpd --help",
			    argv[optind - 1]);
		take_option(o, &rows[i], optarg);
	}
	return argv + optind;
}

static const struct choice {
	const char *name;
	int value;
} newlines[] = {
	{ "reject", BARE_REJECT },
	{ "normalize", BARE_NORMALIZE },
	{ "unix", BARE_UNIX },
	{ NULL, 0 },
}, tls_levels[] = {
	{ "none", TLS_NONE },
	{ "may", TLS_MAY },
	{ "must", TLS_MUST },
	{ NULL, 0 },
};

/* The value of the choice that arg names; each option has three. */
static int
choose(const char *option, const char *arg, const struct choice *c)
{
	const struct choice *first = c;

	for (; c->name != NULL; c++)
		if (strcmp(c->name, arg) == 0)
			return c->value;
	misused("--%s: \"%s\" is none of %s, %s, %s", option, arg,
	    first[0].name, first[1].name, first[2].name);
}

/* "N" or "VERB=N", separated by commas. */
static void
read_limits(struct options *o)
{
	char *rest = o->verbs, *item, *equals;
	size_t n = 0;

	if (strlen(o->command_limit) >= sizeof o->verbs)
		misused("--command-limit is too long");
	snprintf(o->verbs, sizeof o->verbs, "%s", o->command_limit);
	while ((item = strsep(&rest, ",")) != NULL) {
		if (n == LIMITS_MAX)
			misused("--command-limit: more than %d verbs",
			    LIMITS_MAX);
		equals = strchr(item, '=');
		if (equals != NULL)
			*equals = '\0';
		if (equals != NULL && strcmp(item, "*") != 0 &&
		    !channel_verb(item))
			misused("--command-limit: there is no verb \"%s\"",
			    item);
		o->limits[n].verb = equals == NULL ? "*" : item;
		o->limits[n++].max =
		    (unsigned)count("command-limit", NUMBER,
		    equals == NULL ? item : equals + 1);
	}
	o->channel.command_limits = o->limits;
}

/* What excludes each other, or makes no sense alone. */
static void
check_options(const struct options *o)
{
	const struct channel_settings *c = &o->channel;
	bool tls = o->tlscert != NULL;

	if (c->decode_data && c->enable_SMTPUTF8)
		misused("--decode-data and --smtputf8 exclude each other");
	if (tls != (o->tlskey != NULL))
		misused("--tlscert and --tlskey belong together");
	if ((c->tls_on_connect || o->tls_ca) && !tls)
		misused("--smtps and --tls-ca need --tlscert");
	if (c->require_starttls && !tls && !c->proxy_protocol)
		misused("--require-tls needs --tlscert, or --proxy-protocol");
	if (o->monitor.auth != NULL && !tls && !o->no_auth_require_tls &&
	    !c->proxy_protocol)		/* which may tell of TLS */
		misused("--auth would never be offered without TLS: it needs "
		    "--tlscert, --proxy-protocol or --no-auth-require-tls");
	if (c->auth_required && o->monitor.auth == NULL && !o->tls_ca &&
	    !o->xclient && !c->proxy_protocol)	/* which may tell who it is */
		misused("--auth-required needs --auth: nobody could send mail");
	if (o->nosetuid && o->user != NULL)
		misused("--nosetuid and --user exclude each other");
	if (o->timeout == 0 || o->session_timeout == 0 ||
	    o->relay_timeout == 0 || o->policy_timeout == 0)
		misused("a timeout must be at least 1 second");
	if (o->hostname != NULL && (o->hostname[0] == '\0' ||
	    strlen(o->hostname) >= CHANNEL_NAME_MAX ||
	    o->hostname[strcspn(o->hostname, " \t\r\n")] != '\0'))
		misused("--hostname: \"%s\" is not a host name", o->hostname);
}

static void
read_relay(struct options *o, char **rest, bool program)
{
	if (rest[0] == NULL)
		misused("where should messages go? Name a relay, "
		    "for example print:");
	if (program) {
		o->monitor.relay.program = rest;
		return;
	}
	if (strchr(rest[0], ':') == NULL)
		misused("\"%s\" is not TRANSPORT:NEXTHOP; a program goes "
		    "behind --", rest[0]);
	if (rest[1] != NULL)
		misused("\"%s\" behind the relay: options come first",
		    rest[1]);
	o->monitor.relay.spec = rest[0];
}

static void
read_command_line(struct options *o, char **argv)
{
	struct channel_settings *c = &o->channel;
	char **rest;

	*o = (struct options){ .timeout = 300, .session_timeout = 3600,
		.relay_timeout = 540, .policy_timeout = 100,
		.max_recipients = 1000, .max_errors = 20 };
	c->data_size_limit = 33554432;
	c->max_auth_failures = 3;
	rest = read_options(o, argv);
	if (o->help || o->version) {
		if (o->help)
			print_help();
		else
			dprintf(STDOUT_FILENO, "smtpd %s\n", VERSION);
		exit(EX_OK);
	}
	check_options(o);
	if (o->command_limit != NULL)
		read_limits(o);
	if (o->bare_newline != NULL)
		c->bare_newline = (enum bare_newline)choose("bare-newline",
		    o->bare_newline, newlines);
	if (o->relay_tls != NULL)
		o->monitor.relay.tls = (enum tls_level)choose("relay-tls",
		    o->relay_tls, tls_levels);
	c->max_recipients = (size_t)o->max_recipients;
	c->max_errors = (unsigned)o->max_errors;
	c->max_messages = (unsigned)o->max_messages;
	c->auth_require_tls = !o->no_auth_require_tls;
	c->tls = o->tlscert != NULL && !c->tls_on_connect;
	o->monitor.relay.timeout = (unsigned)o->relay_timeout;
	o->monitor.policy_timeout = (unsigned)o->policy_timeout;
	o->monitor.session_timeout = (unsigned)o->session_timeout;
	o->monitor.auth_required = c->auth_required;
	o->monitor.tls_required = c->require_starttls;
	o->monitor.max_recipients = c->max_recipients;
	o->monitor.tls.ca = o->tls_ca;
	o->monitor.tls.timeout = TLS_TIMEOUT;
	o->monitor.relay.lmtp = c->lmtp;
	read_relay(o, rest, rest > argv && strcmp(rest[-1], "--") == 0);
}

/* ---- the log ----------------------------------------------------------- */

/* What libsystemd does for us, if systemd started us; else all NULL. */
struct systemd {
#ifdef WITH_SYSTEMD
	__typeof__(&sd_listen_fds) listen_fds;
	__typeof__(&sd_notify) notify;
	__typeof__(&sd_journal_sendv) journal;
#else
	int (*listen_fds)(int unset);
	int (*notify)(int unset, const char *state);
	int (*journal)(const struct iovec *fields, int n);
#endif
};

/* Where records go, and what all of them have in common. */
struct log {
	enum sink sink;
	struct systemd systemd;
	const char *relay;	/* as it was named */
};

/* Is that variable the number of this process? */
static bool
names_us(const char *variable)
{
	const char *value = getenv(variable);
	char ours[TEXT_NUMBER];

	return value != NULL && strcmp(value, text_number(ours,
	    (uint64_t)getpid(), 1)) == 0;
}

/*
 * Loads libsystemd if it was systemd that started us: linking it would double
 * what a connection costs everywhere else.
 */
static void
find_systemd(struct log *l)
{
#ifdef WITH_SYSTEMD
	struct systemd *sd = &l->systemd;
	void *library;

	if (!names_us("SYSTEMD_EXEC_PID") && !names_us("LISTEN_PID"))
		return;
	library = dlopen("libsystemd.so.0", RTLD_NOW);
	if (library == NULL)
		return;
	*(void **)(void *)&sd->listen_fds = dlsym(library, "sd_listen_fds");
	*(void **)(void *)&sd->notify = dlsym(library, "sd_notify");
	*(void **)(void *)&sd->journal = dlsym(library, "sd_journal_sendv");
	if (getenv("NOTIFY_SOCKET") == NULL)
		sd->notify = NULL;
	if (l->sink != SINK_JOURNAL)
		sd->journal = NULL;
#else
	(void)l;
#endif
}

/* The kinds of events, with the MESSAGE_ID that units/smtpd.catalog explains.
   The text of some is the reply that the client got. */
static const struct event {
	char name[20], id[33];
	bool reply;
} events[] = {
	{ "message-relayed", "265e49e32fca423faec18dc0ae591ef0", true },
	{ "message-refused", "6507ea6a52bf4120bf481c5fa2783115", true },
	{ "message-deferred", "f9faaaf0396246b7a2a2eaf079a52205", true },
	{ "refused", "7c1553f1c78a424f900bc86a69cdad0f", true },
	{ "session", "b427b2fcbb3741c3a35ffc7d7c5a924c", false },
	{ "client-lost", "41eb2bd40b4648708b315f5597d93ad3", false },
	{ "timeout", "1767172cfc294cb094a4c176b2a05785", false },
	{ "tls-failed", "f66cf46666864d3cb8197768f90b315f", false },
	{ "auth-failed", "43cbc08ff3b64463843ff3a5690f7ba3", false },
	{ "auth-ok", "edfb7d3f079948058a9f099a9652ddc3", false },
	{ "policy", "3e209571eba34dc089872a73e453a6fa", false },
	{ "auth", "3e209571eba34dc089872a73e453a6fa", false },
	{ "program", "1a26e10991df4333848180732c211daf", false },
	{ "spool", "5b1f43de37284816b7d5a93bd533939a", false },
	{ "routed", "ec000ff90e2c44a8b9f30defa47cbe5d", false },
	{ "relay", "5b1f43de37284816b7d5a93bd533939a", false },
	{ "nexthop", "5b1f43de37284816b7d5a93bd533939a", false },
	{ "duplicate-possible", "16402bd99eeb45c39706071e6753eeb8", true },
	{ "partial", "16402bd99eeb45c39706071e6753eeb8", true },
	{ "config-error", "5034ac5f87124b00a639fb6ef62b04d7", false },
	{ "routes", "5034ac5f87124b00a639fb6ef62b04d7", false },
	{ "sandbox-missing", "4b55b3ca1e2f4acfa42c3036e9ebde3e", false },
	{ "channel-broken", "c750ad726cc34f348f63a8565cfa2016", false },
	{ "", "", false },
};

/* One fact of a record: its names in a line and in the journal. */
struct item {
	const char *key, *field, *value;
};

#define ITEMS_MAX 24
#define NAMED_MAX 8		/* recipients that a record names */
#define RECORD_MAX 4096		/* octets of a line */
#define RECORD_USUAL 512	/* where that will do: it is on a page in use */
#define ENDING 1400		/* octets kept for relay and reply */

struct record {
	struct item items[ITEMS_MAX];
	size_t n;
	char size[TEXT_NUMBER], recipients[TEXT_NUMBER];
};

static void
add(struct record *r, const char *key, const char *field, const char *value)
{
	if (value != NULL && value[0] != '\0' && r->n < ITEMS_MAX)
		r->items[r->n++] = (struct item){ key, field, value };
}

static void
add_envelope(struct record *r, const struct envelope *env)
{
	add(r, "id", "SMTPD_QUEUE_ID", env->fact[FACT_QUEUE_ID]);
	add(r, "client", "SMTPD_CLIENT", env->fact[FACT_CLIENT_ADDRESS]);
	add(r, "helo", "SMTPD_HELO", env->fact[FACT_CLIENT_HELO]);
	add(r, "user", "SMTPD_USER", env->fact[FACT_SASL_USERNAME]);
	if (env->fact[FACT_QUEUE_ID][0] != '\0')
		add(r, "from", "SMTPD_SENDER", env->fact[FACT_SENDER][0] == '\0'
		    ? "<>" : env->fact[FACT_SENDER]);
	for (size_t i = 0; i < env->nrecipients && i < NAMED_MAX; i++)
		add(r, "to", "SMTPD_RECIPIENT", env->recipients[i].address);
	if (env->nrecipients > NAMED_MAX)
		add(r, "recipients", "SMTPD_RECIPIENTS",
		    text_number(r->recipients, env->nrecipients, 1));
	if (env->nrecipients > 0 && env->size > 0)
		add(r, "size", "SMTPD_SIZE",
		    text_number(r->size, env->size, 1));
}

/* Octets of its line, at most. */
static size_t
record_length(const struct record *r)
{
	size_t n = sizeof "<0>smtpd:\n";

	for (size_t i = 0; i < r->n; i++)
		n += strlen(r->items[i].key) + strlen(r->items[i].value) +
		    sizeof " =\"\"";
	return n;
}

/* Appends " key=value" to line[0..size), in which n octets are; a value with
   blanks is quoted, control characters become blanks. */
static size_t
put(char *line, size_t size, size_t n, const struct item *item)
{
	const char *value = item->value;
	bool quote = false;
	size_t i;

	for (i = 0; value[i] != '\0'; i++)
		quote = quote || value[i] == ' ' || value[i] == '"' ||
		    value[i] == '=' || value[i] == '\n';
	if (n + strlen(item->key) + i + 4 >= size)
		return n;
	text_join(line + n, size - n, " ", item->key, quote ? "=\"" : "=",
	    NULL);
	n += strlen(line + n);
	for (; *value != '\0'; value++)
		line[n++] = (unsigned char)*value < ' ' || *value == '\177'
		    ? ' ' : *value == '"' ? '\'' : *value;
	if (quote)
		line[n++] = '"';
	line[n] = '\0';
	return n;
}

/* The record with a field for every fact.  Negative: it was not taken. */
static __attribute__((noinline)) int
send_journal(const struct log *l, const struct record *r, int priority,
    const char *id, const char *line)
{
	char fixed[4][64], *text[ITEMS_MAX + 1];
	struct iovec fields[ITEMS_MAX + 5];
	const struct item message = { "", "MESSAGE", line };
	const struct item *item;
	int n = 0;
	size_t i, size;

	snprintf(fixed[0], sizeof fixed[0], "PRIORITY=%d", priority);
	snprintf(fixed[1], sizeof fixed[1], "MESSAGE_ID=%s", id);
	snprintf(fixed[2], sizeof fixed[2], "SYSLOG_IDENTIFIER=smtpd");
	snprintf(fixed[3], sizeof fixed[3], "SYSLOG_FACILITY=%d", LOG_MAIL >> 3);
	for (i = 0; i < 4; i++)
		if (i != 1 || id[0] != '\0')
			fields[n++] = (struct iovec){ fixed[i],
				strlen(fixed[i]) };
	for (i = 0; i <= r->n; i++) {
		item = i == r->n ? &message : &r->items[i];
		text[i] = NULL;
		size = strlen(item->field) + strlen(item->value) + 2;
		if (item->field[0] == '\0' || (text[i] = malloc(size)) == NULL)
			continue;
		snprintf(text[i], size, "%s=%s", item->field, item->value);
		fields[n++] = (struct iovec){ text[i], size - 1 };
	}
	n = l->systemd.journal(fields, n);
	for (i = 0; i <= r->n; i++)
		free(text[i]);
	return n;
}

/* A struct logger's function: one record for one event. */
static void
log_event(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	struct log *l = ctx;
	const struct event *e = events;
	struct record r = { .n = 0 };
	static char large[RECORD_MAX];
	char level[TEXT_NUMBER], usual[RECORD_USUAL], *line = usual;
	size_t n, size = sizeof usual, kept = 0;

	while (e->name[0] != '\0' && strcmp(e->name, event) != 0)
		e++;
	add(&r, "event", "SMTPD_EVENT", event);
	if (env != NULL)
		add_envelope(&r, env);
	add(&r, "relay", "SMTPD_RELAY", e->reply ? l->relay : "");
	add(&r, e->reply ? "reply" : "text", e->reply ? "SMTPD_REPLY" : "",
	    text);
	if (record_length(&r) >= size) {
		line = large;
		size = sizeof large;
		kept = ENDING;
	}
	text_join(line, size, l->sink == SINK_JOURNAL ? "<" : "",
	    l->sink == SINK_JOURNAL ? text_number(level, (unsigned)priority, 1)
	    : "", l->sink == SINK_JOURNAL ? ">" : "", "smtpd:", NULL);
	n = strlen(line);
	for (size_t i = 0; i < r.n; i++)
		n = put(line, size - 1 - (i + 2 < r.n ? kept : 0), n,
		    &r.items[i]);
	if (l->systemd.journal != NULL && send_journal(l, &r, priority, e->id,
	    strchr(line, ' ') + 1) >= 0)
		return;
	if (l->sink != SINK_SYSLOG) {
		line[n] = '\n';
		if (write(STDERR_FILENO, line, n + 1) != -1)
			return;
		line[n] = '\0';
		l->sink = SINK_SYSLOG;	/* nobody reads there any more */
	}
	syslog(LOG_MAIL | priority, "%s", strchr(line, ' ') + 1);
}

/* What `systemctl status' shows: see struct monitor_settings. */
static void
show_status(void *ctx, const char *text, bool stopping)
{
	const struct log *l = ctx;
	char state[512];

	snprintf(state, sizeof state, "STATUS=%s%s", text,
	    stopping ? "\nSTOPPING=1" : "");
	l->systemd.notify(0, state);
}

/* ---- the session ------------------------------------------------------- */

#define USER_MAX 64		/* octets of a login, with NUL */

/* Who is at the other end, and who asks. */
struct client {
	struct channel_peer peer;
	char user[USER_MAX];	/* login of a unix socket's peer, or "" */
	pid_t pid;		/* the monitor's: it names transactions */
};

/* What every session touches stands together, what few do behind it: pages
   that nobody touches cost nothing. */
struct session {
	/* It begins with a page, and so does what comes behind those two: the
	   usual session touches one page here, and two there. */
	char in_buffer[INPUT];	/* what was read */
	struct spool spool;	/* its buffer comes first */
	const struct options *options;
	struct channel_settings *settings;
	struct monitor *monitor;
	int in, out;		/* the client; the same socket, or two */
	bool socket;		/* they are one */
	bool engine;		/* the client is the TLS engine's clear end */
	pid_t pid;		/* the monitor's: it names transactions */
	char queue_id[24];	/* of the open transaction, or "" */
	int64_t idle, end;	/* deadlines: of the command, of the session */
	int64_t looked;		/* when deadlines and SIGTERM were looked at,
				   in a message's text; or 0 */
	int64_t pause;		/* before the next reply is written; 0 */
	int signals;		/* readable when SIGTERM came; -1: it is obeyed */
	bool terminated;	/* it came */
	bool orphaned;		/* there is no monitor to ask any more */
	bool quit;		/* the client said so */
	bool soon;		/* acknowledge_soon() was called in this text */
	bool greeted;		/* the connect hook was called */
	enum phase shown;	/* what systemd was told last */
	/* The header that is being read: */
	unsigned received;	/* Received: fields in it */
	char start[9];		/* a line's first octets */
	size_t column;		/* octets of the line; SIZE_MAX: in the body */
	struct channel_peer nearest;	/* who connected, whoever a proxy says
					   the client is */
	char client_user[USER_MAX];	/* login of a unix socket's peer */
	size_t prepended;	/* octets of prepend */
	struct channel ch;	/* its line comes last in it */
	char prepend[POLICY_PREPEND * 5];	/* policy's header fields, and
						   room for one answer more */
	char path[CHANNEL_LINE_MAX], parameters[CHANNEL_LINE_MAX]; /* scratch */
};

/* RFC 3848, RFC 6531 4.3: "with" in the trace header. */
static const char *
protocol(const struct channel *ch)
{
	static const char *const names[2][2][2] = {
		{ { "ESMTP", "ESMTPA" }, { "ESMTPS", "ESMTPSA" } },
		{ { "UTF8SMTP", "UTF8SMTPA" }, { "UTF8SMTPS", "UTF8SMTPSA" } },
	};
	static const char *const lmtp[2][2][2] = {
		{ { "LMTP", "LMTPA" }, { "LMTPS", "LMTPSA" } },
		{ { "UTF8LMTP", "UTF8LMTPA" }, { "UTF8LMTPS", "UTF8LMTPSA" } },
	};

	if (ch->set->lmtp)
		return lmtp[ch->smtp_utf8][ch->ssl][ch->authenticated];
	if (!ch->extended_smtp)
		return "SMTP";
	return names[ch->smtp_utf8][ch->ssl][ch->authenticated];
}

/* The session's facts and the transaction's so far, without recipients. */
static struct envelope
facts(const struct session *s)
{
	const struct channel *ch = &s->ch;
	struct envelope env = { .fact = {
		[FACT_SENDER] = ch->mailfrom == NULL ? "" : ch->mailfrom,
		[FACT_MAIL_OPTIONS] = ch->mail_options == NULL ? ""
		    : ch->mail_options,
		[FACT_QUEUE_ID] = s->queue_id,
		[FACT_CLIENT_ADDRESS] = ch->peer.address,
		[FACT_CLIENT_PORT] = ch->peer.port,
		[FACT_CLIENT_NAME] = ch->peer.name,
		[FACT_CLIENT_HELO] = ch->seen_greeting,
		[FACT_CLIENT_USER] = s->client_user,
		[FACT_CLIENT_PROTOCOL] = protocol(ch),
		[FACT_SERVER_ADDRESS] = ch->peer.server_address,
		[FACT_SERVER_PORT] = ch->peer.server_port,
		[FACT_SASL_METHOD] = ch->auth_method,
		[FACT_SASL_USERNAME] = ch->auth_user,
		[FACT_TLS_PROTOCOL] = ch->tls.protocol,
		[FACT_TLS_CIPHER] = ch->tls.cipher,
		[FACT_TLS_SNI] = ch->tls.sni,
		[FACT_TLS_SUBJECT] = ch->tls.subject,
		[FACT_TLS_ISSUER] = ch->tls.issuer,
		[FACT_TLS_FINGERPRINT] = ch->tls.fingerprint,
	} };

	env.size = ch->declared;
	env.smtputf8 = ch->smtp_utf8;
	env.body = ch->body == BODY_BINARYMIME ? BODY_BINARYMIME
	    : ch->body == BODY_8BITMIME	       ? BODY_8BITMIME
					       : BODY_7BIT;
	return env;
}

/* A span as a string that lasts as long as buf; the channel's lines fit. */
static const char *
string(char *buf, size_t size, struct span span)
{
	size_t n = span.len < size ? span.len : size - 1;

	if (n > 0)	/* there may be no span.p at all */
		memcpy(buf, span.p, n);
	buf[n] = '\0';
	return buf;
}

static void
session_log(struct session *s, int priority, const char *event,
    const char *text)
{
	struct envelope env = facts(s);

	monitor_log(s->monitor, priority, event, &env, text);
}

/* ---- networks ---------------------------------------------------------- */

/* Is address in net, "ADDRESS" or "ADDRESS/BITS"?  -1: net is neither. */
static int
in_net(const char *address, const char *net)
{
	unsigned char a[16], n[16];
	char text[INET6_ADDRSTRLEN + 4];
	const char *slash = strchr(net, '/');
	size_t len = slash == NULL ? strlen(net) : (size_t)(slash - net);
	int family = memchr(net, ':', len) == NULL ? AF_INET : AF_INET6;
	size_t most = family == AF_INET ? 32 : 128, bits = most, bytes;
	unsigned mask;

	if (strcmp(net, "unix") == 0)
		return strcmp(address, "unix") == 0;
	snprintf(text, sizeof text, "%.*s", (int)len, net);
	if (len >= sizeof text || inet_pton(family, text, n) != 1)
		return -1;
	if (slash != NULL) {
		if (slash[1] == '\0' || strlen(slash + 1) > 3 ||
		    slash[1 + strspn(slash + 1, "0123456789")] != '\0')
			return -1;
		bits = (size_t)strtoul(slash + 1, NULL, 10);
		if (bits > most)
			return -1;
	}
	if (inet_pton(family, address, a) != 1)
		return 0;
	bytes = bits / 8;
	mask = 0xff00U >> bits % 8 & 0xff;
	return memcmp(a, n, bytes) == 0 &&
	    (bits % 8 == 0 || ((a[bytes] ^ n[bytes]) & mask) == 0);
}

/* Is address in one of the networks of a comma-separated list? */
static bool
in_nets(const char *address, const char *list)
{
	char net[INET6_ADDRSTRLEN + 5];
	bool found = false;
	size_t len;
	int one;

	for (;; list += len + 1) {
		len = strcspn(list, ",");
		snprintf(net, sizeof net, "%.*s", (int)len, list);
		one = len < sizeof net ? in_net(address, net) : -1;
		if (one == -1)
			misused("--xclient: \"%.*s\" is not a network",
			    (int)len, list);
		found = found || one == 1;
		if (list[len] == '\0')
			return found;
	}
}

/* ---- hooks: what the channel asks -------------------------------------- */

/* Asks about a stage if there is anybody to ask, and edits the reply. */
static void
ask(struct session *s, enum stage stage, const struct envelope *env,
    struct reply *r)
{
	char *prepend = s->prepend + s->prepended;
	struct reply v;
	size_t n;

	if (!monitor_asks(s->monitor, stage))
		return;
	monitor_stage(s->monitor, stage, env, &v, prepend);
	if (v.code >= 400)
		reply_set(r, v.code, v.enh, v.text);
	n = strlen(prepend);
	if (s->prepended + n <= sizeof s->prepend - POLICY_PREPEND)
		s->prepended += n;
	else
		session_log(s, LOG_WARNING, "policy",
		    "no room for one more header field, it is left out");
}

/* After XCLIENT: the login and the certificate are those of who speaks for the
   client, and not EXTERNAL's affair. */
static void
forget_speaker(struct session *s)
{
	struct channel_tls *tls = &s->ch.tls;

	s->client_user[0] = '\0';
	tls->subject[0] = tls->issuer[0] = tls->fingerprint[0] = '\0';
	s->settings->auth = NULL;
}

static void
on_connect(void *ctx, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = facts(s);

	/* Whoever sent XCLIENT once does not lose the right by using it. */
	if (!s->greeted && s->options->xclient != NULL)
		s->settings->xclient = in_nets(s->ch.peer.address,
		    s->options->xclient);
	if (s->greeted)
		forget_speaker(s);
	s->greeted = true;
	ask(s, STAGE_CONNECT, &env, r);
}

static void
on_quit(void *ctx, struct reply *r)
{
	struct session *s = ctx;

	(void)r;
	s->quit = true;
}

static void
on_helo(void *ctx, struct span name, bool extended, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = facts(s);
	char helo[CHANNEL_NAME_MAX];

	env.fact[FACT_CLIENT_HELO] = string(helo, sizeof helo, name);
	ask(s, extended ? STAGE_EHLO : STAGE_HELO, &env, r);
	if (extended && (s->options->monitor.auth != NULL ||
	    s->ch.tls.subject[0] != '\0'))
		s->settings->auth = monitor_mechanisms(s->monitor, &env);
}

/*
 * Names a transaction: microseconds since 1970 and the process, in digits
 * that can not be mistaken for each other.
 */
static void
name_transaction(char *id, size_t size, pid_t pid)
{
	static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
	struct timespec now;
	uint64_t n;
	size_t i = 0;

	clock_gettime(CLOCK_REALTIME, &now);
	n = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
	for (int shift = 50; shift >= 0 && i < size - 1; shift -= 5)
		id[i++] = digits[n >> shift & 31];
	n = (uint64_t)pid;
	for (int shift = 20; shift >= 0 && i < size - 1; shift -= 5)
		id[i++] = digits[n >> shift & 31];
	id[i] = '\0';
}

static void
on_forget(void *ctx)
{
	struct session *s = ctx;

	spool_close(&s->spool);
	monitor_forget(s->monitor);
	s->queue_id[0] = '\0';
	s->prepended = 0;
}

static void
on_mail(void *ctx, struct span path, struct span options, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env;

	name_transaction(s->queue_id, sizeof s->queue_id, s->pid);
	if (!monitor_asks(s->monitor, STAGE_MAIL))
		return;
	env = facts(s);
	env.fact[FACT_SENDER] = string(s->path, sizeof s->path, path);
	env.fact[FACT_MAIL_OPTIONS] =
	    string(s->parameters, sizeof s->parameters, options);
	ask(s, STAGE_MAIL, &env, r);
	if (r->code >= 400)	/* no transaction: nothing will be forgotten */
		on_forget(s);
}

static void
on_rcpt(void *ctx, struct span path, struct span options, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env;
	struct recipient one;

	if (!monitor_asks(s->monitor, STAGE_RCPT))
		return;
	env = facts(s);
	one.address = string(s->path, sizeof s->path, path);
	one.options = string(s->parameters, sizeof s->parameters, options);
	env.recipients = &one;
	env.nrecipients = 1;
	ask(s, STAGE_RCPT, &env, r);
}

static void
on_vrfy(void *ctx, struct span path, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = facts(s);
	struct recipient one;

	if (path.len == 0)	/* "<>" is nobody to ask about */
		return;
	one.address = string(s->path, sizeof s->path, path);
	one.options = "";
	env.recipients = &one;
	env.nrecipients = 1;
	ask(s, STAGE_VRFY, &env, r);
}

/* The envelope with all its recipients. */
static struct envelope
whole_envelope(const struct session *s)
{
	struct envelope env = facts(s);

	env.recipients = s->ch.rcpttos;
	env.nrecipients = s->ch.nrcpttos;
	return env;
}

/* RFC 5322 3.3, in UTC: neither locale nor time zone file is read for it. */
static void
write_date(char *to, size_t size)
{
	static const char days[] = "ThuFriSatSunMonTueWed";
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	int64_t now = (int64_t)time(NULL), day = now / 86400;
	int64_t sec = now % 86400, era, doy, month, year, mday;
	char name[2][4] = { "", "" }, n[5][TEXT_NUMBER];

	/* Days are counted from 1 March of a year that 400 divides. */
	era = (day + 719468) / 146097;
	doy = (day + 719468) % 146097;
	year = (doy - doy / 1460 + doy / 36524 - doy / 146096) / 365;
	doy -= 365 * year + year / 4 - year / 100;
	month = (5 * doy + 2) / 153;
	mday = doy - (153 * month + 2) / 5 + 1;
	month = month < 10 ? month + 2 : month - 10;
	year += era * 400 + (month < 2);
	memcpy(name[0], days + 3 * (day % 7), 3);
	memcpy(name[1], months + 3 * month, 3);
	text_join(to, size, name[0], ", ", text_number(n[0], (uint64_t)mday, 2),
	    " ", name[1], " ", text_number(n[1], (uint64_t)year, 4), " ",
	    text_number(n[2], (uint64_t)sec / 3600, 2), ":",
	    text_number(n[3], (uint64_t)sec / 60 % 60, 2), ":",
	    text_number(n[4], (uint64_t)sec % 60, 2), " +0000", NULL);
}

/* What the client called itself, without anything that would mean something
   in a header field. */
static const char *
harmless(char *to, size_t size, const char *name)
{
	size_t n = 0;

	for (; *name != '\0' && n + 1 < size; name++)
		to[n++] = strchr("()<>,;\\\"", *name) != NULL ||
		    (unsigned char)*name <= ' ' ? '?' : *name;
	to[n] = '\0';
	return to;
}

/* "name [address]" of the client, as a comment of the trace header. */
static void
write_client(char *to, size_t size, const struct channel_peer *peer)
{
	const char *address = peer->address;
	bool v6 = strchr(address, ':') != NULL;
	bool v4 = !v6 && strchr(address, '.') != NULL;
	char name[CHANNEL_NAME_MAX];

	harmless(name, sizeof name, peer->name);
	text_join(to, size, strcmp(name, "unknown") == 0 ? "" : name,
	    strcmp(name, "unknown") == 0 ? "" : " ",
	    v6 ? "[IPv6:" : v4 ? "[" : "", address, v6 || v4 ? "]" : "", NULL);
}

/* Appends strings, up to a NULL, to the message. */
static void
write_words(struct session *s, const char *word, ...)
{
	va_list words;

	va_start(words, word);
	for (; word != NULL; word = va_arg(words, const char *))
		spool_write(&s->spool, word, strlen(word));
	va_end(words);
}

/* RFC 5321 4.4; X-Peer is what the seed proxies add. */
static void
write_trace(struct session *s, const struct envelope *env)
{
	const struct channel *ch = &s->ch;
	char client[2 * CHANNEL_NAME_MAX + 8], helo[CHANNEL_NAME_MAX];
	char tls[96] = "", date[64];
	const char *to = env->nrecipients == 1 ? env->recipients[0].address
					       : NULL;

	write_client(client, sizeof client, &ch->peer);
	write_date(date, sizeof date);
	if (ch->tls.protocol[0] != '\0')
		text_join(tls, sizeof tls, " (", ch->tls.protocol, " ",
		    ch->tls.cipher, ")", NULL);
	if (!s->options->no_received) {
		write_words(s, "Received: from ",
		    harmless(helo, sizeof helo, ch->seen_greeting), " (",
		    client, ")\r\n\tby ", ch->set->fqdn, " (smtpd) with ",
		    env->fact[FACT_CLIENT_PROTOCOL], tls, " id ",
		    s->queue_id, to == NULL ? NULL : "\r\n\tfor <", NULL);
		if (to != NULL) {	/* RFC 5322 2.1.1: 998 octets a line */
			spool_write(&s->spool, to, strnlen(to, 700));
			write_words(s, ">", NULL);
		}
		write_words(s, ";\r\n\t", date, "\r\n", NULL);
	}
	if (s->options->x_peer)
		write_words(s, "X-Peer: ", ch->peer.address, "\r\n", NULL);
}

/* Text will follow: prepares the spool, the trace header in front. */
static void
on_data(void *ctx, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = whole_envelope(s);

	ask(s, STAGE_DATA, &env, r);
	if (r->code >= 400)
		return;
	spool_open(&s->spool, s->ch.body == BODY_BINARYMIME ? SPOOL_CRLF
	    : monitor_form(s->monitor), monitor_file, s->monitor);
	write_trace(s, &env);
	spool_write(&s->spool, s->prepend, s->prepended);
	s->received = 0;
	s->column = 0;
}

/* Looks at the header's lines on their way, up to the empty one. */
static void
read_header(struct session *s, struct span text)
{
	static const char name[] = "received:";
	size_t n = sizeof name - 1;
	const char *lf;
	char c;

	for (size_t i = 0; i < text.len && s->column != SIZE_MAX; i++) {
		if (s->column > n) {	/* the rest of a line says nothing */
			lf = memchr(text.p + i, '\n', text.len - i);
			if (lf == NULL)
				return;
			i = (size_t)(lf - text.p);
		}
		c = text.p[i];
		if (s->column < n)
			s->start[s->column] =
			    c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
		s->column++;
		if (s->column == n && memcmp(s->start, name, n) == 0)
			s->received++;
		if (c == '\n')
			s->column = s->column <= 2 && (s->start[0] == '\r' ||
			    s->start[0] == '\n') ? SIZE_MAX : 0;
	}
}

static void
on_body(void *ctx, struct span text)
{
	struct session *s = ctx;

	read_header(s, text);
	spool_write(&s->spool, text.p, text.len);
}

static bool flush(struct session *s, bool patient);

/* A client that sent everything at once has replies to wait for.  We do not
   wait for him: the monitor's answer must be taken when it comes. */
static void
on_slow(void *ctx)
{
	flush(ctx, false);
}

/* The record of a message that nobody but us refused. */
static void
on_refused(void *ctx, const struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = whole_envelope(s);
	char text[REPLY_TEXT + 24];

	env.size = s->ch.size;
	snprintf(text, sizeof text, "%d %s %s", r->code, r->enh, r->text);
	monitor_log(s->monitor, LOG_WARNING,
	    r->code < 500 ? "message-deferred" : "message-refused", &env, text);
}

/* Relays the message if policy lets us; if not *r says no, and it returns
   false. */
static bool
relay(struct session *s, struct envelope *env, int spool, struct reply v[],
    struct reply *r)
{
	env->size = s->spool.size;
	ask(s, STAGE_END_OF_MESSAGE, env, r);
	if (r->code >= 400)
		return false;
	monitor_status(s->monitor, "relaying", false);
	monitor_relay(s->monitor, env, spool, on_slow, s, v);
	return true;
}

/* Says in the log where the message had no room, and why. */
static void
log_spool(struct session *s, const struct envelope *env)
{
	const char *dir = getenv("TMPDIR");
	char text[512];

	snprintf(text, sizeof text, "the message can not be kept in %.200s: %s",
	    dir == NULL || *dir == '\0' ? "/var/tmp" : dir,
	    strerror(s->spool.error));
	monitor_log(s->monitor, LOG_ERR, "spool", env, text);
}

/* The message is here: relays it, or says why not. */
static void
on_end(void *ctx, struct reply r[], size_t n)
{
	struct session *s = ctx;
	struct envelope env = whole_envelope(s);
	size_t count = s->ch.nrcpttos;
	struct reply only = { .code = 0 };
	struct reply *v = count == 1 ? &only : calloc(count + 1, sizeof *v);
	int fd = spool_finish(&s->spool);
	bool asked = false;

	assert(n <= count);
	if (v == NULL)
		reply_set(r, 452, "4.3.1", "Out of memory");
	else if (s->received > RECEIVED_MAX)
		reply_set(r, 554, "5.4.6", "Too many Received: fields, "
		    "this is a mail loop");
	else if (s->spool.error != 0) {
		log_spool(s, &env);
		reply_set(r, 452, "4.3.1", "No room for the message");
	}
	if (v != NULL && r->code < 400)
		asked = relay(s, &env, fd, v, r);
	else
		on_refused(s, r);
	for (size_t i = 0; i < n; i++)
		if (asked)
			reply_set(&r[i], v[i].code, v[i].enh, v[i].text);
		else
			r[i] = *r;
	if (v != &only)
		free(v);
}

/* The next reply is written late: two seconds later for each failure, however
   many the client has sent at once. */
static void
postpone(struct session *s)
{
	int64_t now = clock_now();

	s->pause = (s->pause > now ? s->pause : now) + AUTH_DELAY * 1000;
}

/* RFC 4954; failures are answered late. */
static void
on_auth(void *ctx, struct span mechanism, struct span response, bool given,
    struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = facts(s);
	char name[32], user[MONITOR_USER];
	struct reply v;

	if (mechanism.p == NULL) {
		monitor_auth_abandon(s->monitor);
		return;
	}
	string(name, sizeof name, mechanism);
	string(s->path, sizeof s->path, response);
	monitor_auth(s->monitor, &env, mechanism.len == 0 ? NULL : name,
	    given ? s->path : NULL, &v, user, sizeof user);
	explicit_bzero(s->path, sizeof s->path);
	reply_set(r, v.code, v.enh, v.text);
	if (v.code == 235)
		channel_set_user(&s->ch, user);
	if (v.code == 535)
		postpone(s);
	if (v.code != 334)
		session_log(s, v.code == 235 ? LOG_INFO : LOG_WARNING,
		    v.code == 235 ? "auth-ok" : "auth-failed",
		    v.code == 235 ? user : v.text);
}

/* -d: the dialogue, credentials masked by the channel. */
static void
on_dialogue(void *ctx, bool said, struct span line)
{
	struct session *s = ctx;
	char text[1024];
	size_t n = (size_t)snprintf(text, sizeof text, "%c: ",
	    said ? 'S' : 'C');

	for (size_t i = 0; i < line.len && n < sizeof text - 1; i++)
		text[n++] = line.p[i] == '\0' ? '?' : line.p[i];
	text[n] = '\0';
	monitor_log(s->monitor, LOG_DEBUG, "dialogue", NULL, text);
}

static const struct channel_hooks hooks = {
	.connect = on_connect,
	.helo = on_helo,
	.mail = on_mail,
	.rcpt = on_rcpt,
	.data = on_data,
	.body = on_body,
	.end = on_end,
	.refused = on_refused,
	.forget = on_forget,
	.vrfy = on_vrfy,
	.quit = on_quit,
	.auth = on_auth,
	.dialogue = on_dialogue,
};

/* ---- the driver: octets and time --------------------------------------- */

/* Milliseconds that the client has, and a reply that is held back. */
static int
time_left(const struct session *s)
{
	int64_t until = s->idle < s->end ? s->idle : s->end;

	return clock_left(s->pause != 0 && s->pause < until ? s->pause : until);
}

/*
 * Waits until fd is ready for events.  Returns 1 if it is, 0 at the earliest
 * deadline, -1 with errno, or because of SIGTERM, or the monitor's end.
 */
static int
wait_for(struct session *s, int fd, short what)
{
	struct pollfd p[] = { { .fd = s->signals, .events = POLLIN },
		{ .fd = fd, .events = what },
		{ .fd = s->orphaned ? -1 : monitor_fd(s->monitor) } };
	int n, left;

	if (!s->orphaned && monitor_broken(s->monitor)) {
		s->orphaned = true;
		return -1;
	}
	do {
		left = time_left(s);
		/* Who always has more to say gets no more time for it. */
		n = left == 0 ? 0 : poll(p, 3, left);
	} while (n == -1 && errno == EINTR);
	if (n <= 0)
		return n;
	s->terminated = s->terminated || p[0].revents != 0;
	s->orphaned = s->orphaned || p[2].revents != 0;
	return p[0].revents != 0 || p[2].revents != 0 ? -1 : 1;
}

/* Holds a reply back for a while: who guesses passwords shall wait. */
static void
wait_out(struct session *s)
{
	wait_for(s, -1, 0);
	s->pause = 0;
}

/* The client has until then for its next command, or for more text. */
static void
restart_clock(struct session *s)
{
	s->idle = clock_now() + (int64_t)s->options->timeout * 1000;
}

/* Is a pipe ready to be written to? */
static bool
ready(struct session *s, bool patient)
{
	struct pollfd p = { .fd = s->out, .events = POLLOUT };

	return (patient ? wait_for(s, s->out, POLLOUT) : poll(&p, 1, 0)) > 0;
}

/* Writes what the channel has to say: all of it, waiting until the client
   takes it; or what it takes at once.  False if it was not all. */
static bool
flush(struct session *s, bool patient)
{
	const char *p;
	size_t len;
	ssize_t n;

	if (s->pause != 0 && !patient)
		return false;
	if (s->pause != 0)
		wait_out(s);
	for (;;) {
		p = channel_output(&s->ch, &len);
		if (len == 0)
			return true;
		restart_clock(s);	/* a command came to its end */
		if (s->socket)
			n = send(s->out, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		else if (!ready(s, patient))
			return false;
		else	/* what a pipe takes at once, so it can not block */
			n = write(s->out, p, len < PIPE_BUF ? len : PIPE_BUF);
		if (n >= 0)
			channel_sent(&s->ch, (size_t)n);
		else if (errno != EAGAIN && errno != EINTR)
			return false;
		else if (s->socket && !ready(s, patient))
			return false;
	}
}

static bool
drain(struct session *s)
{
	return flush(s, true);
}

/* Why the session is over, for its last record. */
enum ending {
	END_QUIT,
	END_CLOSED,	/* by the channel, with 421 or 521 */
	END_EOF,
	END_TIMEOUT,
	END_TERM,
	END_ORPHAN,	/* the monitor is gone */
	END_LOST,	/* the client can not be reached any more */
	END_TLS		/* no handshake */
};

static const char *const endings[] = {
	[END_QUIT] = "quit",
	[END_CLOSED] = "hung up on",
	[END_EOF] = "end of file",
	[END_TIMEOUT] = "timed out",
	[END_TERM] = "shut down",
	[END_ORPHAN] = "left alone",
	[END_LOST] = "client lost",
	[END_TLS] = "no TLS",
};

/* Why wait_for() did not wait. */
static enum ending
interrupted(const struct session *s)
{
	return s->terminated ? END_TERM : s->orphaned ? END_ORPHAN : END_LOST;
}

/* Is the client sending a message's text? */
static bool
in_text(const struct session *s)
{
	return s->ch.smtp_state == PHASE_DATA ||
	    s->ch.smtp_state == PHASE_BDAT;
}

/*
 * A dialogue makes TCP hold its acknowledgements back, to send them along with
 * replies.  In a message's text there is none, and a client whose last segment
 * is short holds that back until all else is acknowledged (RFC 896): both
 * would wait for 40 ms.
 */
static void
acknowledge_soon(struct session *s)
{
	const int yes = 1;

	if (!s->soon)	/* where this is not TCP there is nothing to hasten */
		setsockopt(s->in, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof yes);
	s->soon = true;
}

/* Reads more octets, waiting for them.  Returns their number, 0 at the end of
   file, or -1 with *why. */
static ssize_t
fill(struct session *s, char *in, size_t size, enum ending *why)
{
	bool header = s->ch.smtp_state == PHASE_PROXY && s->socket;
	bool text = in_text(s) && s->socket;
	ssize_t n;
	int ready;

	for (;;) {
		/* Where there was some of a message there is more, mostly. */
		if (text && s->looked != 0 &&
		    clock_now() - s->looked < LOOK_UP &&
		    (n = recv(s->in, in, size, MSG_DONTWAIT)) > 0)
			return n;
		/* Text comes behind DATA's reply, and right behind BDAT. */
		if (text && (s->looked != 0 ||
		    s->ch.smtp_state == PHASE_BDAT))
			acknowledge_soon(s);
		s->looked = text ? clock_now() : 0;
		s->soon = s->soon && text;
		ready = wait_for(s, s->in, POLLIN);
		if (ready == 0) {
			*why = END_TIMEOUT;
			return -1;
		}
		if (ready == -1) {
			*why = interrupted(s);
			return -1;
		}
		/* A PROXY header is looked at before it is taken: a TLS
		   handshake may follow it. */
		n = header ? recv(s->in, in, size, MSG_PEEK)
			   : read(s->in, in, size);
		if (n == -1 && (errno == EINTR || errno == EAGAIN))
			continue;
		*why = n == 0 ? END_EOF : END_LOST;
		return n;
	}
}

/* Copies one value of the TLS engine's report. */
static void
report_value(const char *report, const char *name, char *to, size_t size)
{
	const char *p = report;
	size_t n = strlen(name);

	to[0] = '\0';
	while (p != NULL) {
		if (strncmp(p, name, n) == 0 && p[n] == '=') {
			p += n + 1;
			snprintf(to, size, "%.*s", (int)strcspn(p, "\n"), p);
			return;
		}
		p = strchr(p, '\n');
		p = p == NULL ? NULL : p + 1;
	}
}

/* The handshake, by the engine; then its clear-text end is the client. */
static bool
start_tls(struct session *s)
{
	struct channel_tls tls = { .protocol = "" };
	char *report = s->in_buffer;	/* there is nothing else in it now */
	int fd = monitor_tls(s->monitor, s->in, report, MONITOR_REPORT);

	if (fd == -1) {
		session_log(s, LOG_WARNING, "tls-failed", report);
		return false;
	}
	report_value(report, "protocol", tls.protocol, sizeof tls.protocol);
	report_value(report, "cipher", tls.cipher, sizeof tls.cipher);
	report_value(report, "sni", tls.sni, sizeof tls.sni);
	report_value(report, "subject", tls.subject, sizeof tls.subject);
	report_value(report, "issuer", tls.issuer, sizeof tls.issuer);
	report_value(report, "fingerprint", tls.fingerprint,
	    sizeof tls.fingerprint);
	/* The engine has the connection; nothing of it may stay open here,
	   or its end would not be seen. */
	dup2(fd, s->in);
	dup2(fd, s->out);
	close(fd);
	s->socket = s->engine = true;
	channel_tls(&s->ch, &tls);
	return true;
}

/* Says good-bye if there is still somebody to hear it; to a proxy that has
   not said for whom it speaks nothing is said. */
static void
hang_up(struct session *s, enum ending why)
{
	static const char *const words[][2] = {
		[END_TIMEOUT] = { "4.4.2", "Timed out" },
		[END_TERM] = { "4.3.2", "Shutting down" },
		[END_ORPHAN] = { "4.3.0", "Internal error, try again" },
		[END_TLS] = { NULL, NULL },
	};

	if (words[why][0] == NULL || s->ch.smtp_state == PHASE_PROXY)
		return;
	if (why == END_TERM)
		monitor_status(s->monitor, "shutting down", true);
	channel_close(&s->ch, 421, words[why][0], words[why][1]);
	s->idle = s->end = clock_now() + 1000;
	s->signals = -1;
	drain(s);
}

/* Tells systemd who is at which command, whenever that changes. */
static void
tell_status(struct session *s)
{
	const struct channel *ch = &s->ch;
	static const char *const where[] = {
		[PHASE_PROXY] = "before its PROXY header",
		[PHASE_REFUSED] = "turned away",
		[PHASE_CONNECT] = "greeted",
		[PHASE_READY] = "between messages",
		[PHASE_MAIL] = "at MAIL",
		[PHASE_RCPT] = "at RCPT",
		[PHASE_DATA] = "in DATA",
		[PHASE_BDAT] = "in BDAT",
		[PHASE_AUTH] = "in AUTH",
		[PHASE_CLOSED] = "leaving",
	};
	char text[300];

	if (s->options->monitor.status == NULL || s->shown == ch->smtp_state)
		return;
	s->shown = ch->smtp_state;
	snprintf(text, sizeof text, "%.64s %s%s%.100s%s%.60s",
	    ch->peer.address, where[ch->smtp_state],
	    ch->mailfrom == NULL ? "" : ", from <",
	    ch->mailfrom == NULL ? "" : ch->mailfrom,
	    ch->mailfrom == NULL ? "" : ">, ", s->queue_id);
	monitor_status(s->monitor, text, false);
}

/* Gives the channel what was read.  Returns how much of it was used. */
static size_t
feed(struct session *s, const char *in, size_t len)
{
	bool header = s->ch.smtp_state == PHASE_PROXY && s->socket;
	size_t used = channel_feed(&s->ch, in, len);

	if (!header)
		return used;
	while (used > 0) {	/* it was only looked at */
		ssize_t n = read(s->in, s->path,
		    used < sizeof s->path ? used : sizeof s->path);

		if (n <= 0)
			break;
		used -= (size_t)n;
	}
	return len;
}

/* The dialogue, from greeting to end. */
static enum ending
talk(struct session *s)
{
	const bool passwords = s->options->monitor.auth != NULL;
	char *in = s->in_buffer;
	size_t used = 0, have = 0, len;
	enum ending why;
	ssize_t n;

	restart_clock(s);
	channel_greet(&s->ch);
	for (;;) {
		if (used < have) {
			len = feed(s, in + used, have - used);
			if (passwords && !in_text(s))
				explicit_bzero(in + used, len);
			used += len;
		}
		if (!drain(s))
			return interrupted(s);
		if (s->ch.want == WANT_CLOSE)
			return s->quit ? END_QUIT : END_CLOSED;
		if (s->ch.want == WANT_TLS) {
			used = have = 0;	/* RFC 3207 4.2 */
			if (!start_tls(s))
				return END_TLS;
			continue;
		}
		if (used < have)
			continue;
		if (in_text(s))
			restart_clock(s);
		tell_status(s);
		n = fill(s, in, INPUT, &why);
		if (n <= 0)
			return why;
		have = (size_t)n;
		used = 0;
	}
}

/* ---- being started ----------------------------------------------------- */

/* A socket that systemd passes as descriptor 3 becomes the client: it is a
   connection, Accept=yes, for accepting is not our job. */
static void
take_passed_socket(const struct log *l, struct stat std[3])
{
	int listening = 0, n;
	socklen_t len = sizeof listening;

	if (!names_us("LISTEN_PID"))
		return;
	if (l->systemd.listen_fds == NULL)
		misused("a socket was passed, but there is no libsystemd");
	n = l->systemd.listen_fds(1);
	if (n != 1)
		misused("%d descriptors were passed: one is served", n);
	if (getsockopt(3, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == -1)
		misused("descriptor 3 is not a socket");
	if (listening)
		misused("descriptor 3 is a listening socket: "
		    "the unit needs Accept=yes");
	dup2(3, STDIN_FILENO);
	dup2(3, STDOUT_FILENO);
	close(3);
	look_at_descriptors(std);
}

/* Gives up root: to nobody, or to the user that was named with his groups. */
static void
drop_root(const struct options *o)
{
	const char *name = o->user == NULL ? "nobody" : o->user;
	const struct passwd *pw;

	if (geteuid() != 0 || o->nosetuid)
		return;
	errno = 0;
	pw = getpwnam(name);
	if (pw == NULL)
		misused("there is no user \"%s\"", name);
	if ((o->user == NULL ? setgroups(0, NULL)
			     : initgroups(name, pw->pw_gid)) == -1 ||
	    setgid(pw->pw_gid) == -1 || setuid(pw->pw_uid) == -1) {
		complain("cannot give up root; -n keeps it");
		exit(EX_OSERR);
	}
	/* What root's programs go by is nothing for this user's. */
	if (setenv("HOME", pw->pw_dir, 1) == -1 ||
	    setenv("USER", name, 1) == -1 ||
	    setenv("LOGNAME", name, 1) == -1) {
		complain("out of memory");
		exit(EX_OSERR);
	}
	unsetenv("MAIL");
}

/* inet_ntop() would do it by printf, which every connection would pay. */
static void
describe_v4(char *to, size_t size, const unsigned char a[4])
{
	char n[4][TEXT_NUMBER];

	text_join(to, size, text_number(n[0], a[0], 1), ".",
	    text_number(n[1], a[1], 1), ".", text_number(n[2], a[2], 1), ".",
	    text_number(n[3], a[3], 1), NULL);
}

static void
describe_port(char *to, size_t size, in_port_t port)
{
	char n[TEXT_NUMBER];

	text_join(to, size, text_number(n, ntohs(port), 1), NULL);
}

/* One end of a connection as text.  Returns its address family. */
static int
describe(const struct sockaddr_storage *sa, char *address, size_t size,
    char *port, size_t portsize)
{
	const struct sockaddr_in *v4 = (const void *)sa;
	const struct sockaddr_in6 *v6 = (const void *)sa;

	if (sa->ss_family == AF_INET) {
		describe_v4(address, size, (const void *)&v4->sin_addr);
		describe_port(port, portsize, v4->sin_port);
	} else if (sa->ss_family == AF_INET6) {
		if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
			describe_v4(address, size, v6->sin6_addr.s6_addr + 12);
		else
			inet_ntop(AF_INET6, &v6->sin6_addr, address,
			    (socklen_t)size);
		describe_port(port, portsize, v6->sin6_port);
	} else if (sa->ss_family == AF_UNIX) {
		text_join(address, size, "unix", NULL);
	}
	return sa->ss_family;
}

/* A super-server's word for what is no socket, if it is an address. */
static void
peer_of_environment(struct channel_peer *peer)
{
	static const char *const names[][2] = {
		{ "REMOTE_ADDR", "REMOTE_PORT" },
		{ "TCPREMOTEIP", "TCPREMOTEPORT" },
	};
	const char *address, *port;
	unsigned char binary[16];

	for (size_t i = 0; i < 2; i++) {
		address = getenv(names[i][0]);
		port = getenv(names[i][1]);
		if (address == NULL ||
		    (inet_pton(AF_INET, address, binary) != 1 &&
		    inet_pton(AF_INET6, address, binary) != 1))
			continue;
		snprintf(peer->address, sizeof peer->address, "%s", address);
		if (port != NULL && strlen(port) <= 5 &&
		    port[strspn(port, "0123456789")] == '\0')
			snprintf(peer->port, sizeof peer->port, "%s", port);
		return;
	}
}

/* Who is at the other end: the socket knows, or the environment. */
static void
find_client(struct client *c, const struct options *o)
{
	struct channel_peer *peer = &c->peer;
	struct sockaddr_storage sa = { .ss_family = AF_UNSPEC };
	socklen_t len = sizeof sa;
	struct ucred cred;
	const struct passwd *pw;
	int family = AF_UNSPEC;

	memset(c, 0, sizeof *c);
	c->pid = getpid();
	text_join(peer->address, sizeof peer->address, "unknown", NULL);
	text_join(peer->name, sizeof peer->name, "unknown", NULL);
	if (getpeername(STDIN_FILENO, (struct sockaddr *)&sa, &len) == 0)
		family = describe(&sa, peer->address, sizeof peer->address,
		    peer->port, sizeof peer->port);
	else
		peer_of_environment(peer);
	len = sizeof sa;
	if ((family == AF_INET || family == AF_INET6) &&
	    getsockname(STDIN_FILENO, (struct sockaddr *)&sa, &len) == 0)
		describe(&sa, peer->server_address,
		    sizeof peer->server_address, peer->server_port,
		    sizeof peer->server_port);
	len = sizeof cred;
	if (family == AF_UNIX && o->monitor.auth != NULL &&
	    !o->channel.proxy_protocol &&	/* he only speaks for others */
	    getsockopt(STDIN_FILENO, SOL_SOCKET, SO_PEERCRED, &cred,
	    &len) == 0 && (pw = getpwuid(cred.uid)) != NULL)
		snprintf(c->user, sizeof c->user, "%s", pw->pw_name);
}

/* Is the client one socket?  TLS, and looking ahead, need that. */
static bool
one_socket(const struct stat std[3])
{
	return S_ISSOCK(std[STDIN_FILENO].st_mode) &&
	    same_file(&std[STDIN_FILENO], &std[STDOUT_FILENO]);
}

/* Opens a file for the TLS engine, out of the way of the descriptors that it
   gets by number.  -1 with a sentence in why. */
static int
open_key(const char *path, char *why, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int high = fd == -1 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 10);

	if (high == -1)
		snprintf(why, size, "there is no TLS: %s: %s", path,
		    strerror(errno));
	if (fd != -1)
		close(fd);
	return high;
}

/* Certificate and key are opened while we may still be root; only the TLS
   engine reads them.  Without them there is no TLS, and the log says why. */
static void
open_keys(struct options *o, bool socket, char *why, size_t size)
{
	struct tls_settings *tls = &o->monitor.tls;

	tls->cert = tls->key = -1;
	why[0] = '\0';
	if (o->tlscert == NULL)
		return;
	tls->cert = open_key(o->tlscert, why, size);
	if (tls->cert != -1)
		tls->key = open_key(o->tlskey, why, size);
	if (!socket)
		snprintf(why, size, "TLS needs a client on one socket");
	if (why[0] != '\0')
		o->channel.tls = false;
}

/* Does any option ask for TLS, with the client or with a next hop? */
static bool
uses_tls(const struct options *o)
{
	const struct relay_settings *relay = &o->monitor.relay;

	return o->tlscert != NULL || relay->tls != TLS_NONE ||
	    relay->routes != NULL || (relay->spec != NULL &&
	    strncmp(relay->spec, "smtps:", 6) == 0);
}

/*
 * Finds smtpd-tls: beside this program where it was built, else where it is
 * installed.  *fd has it open if it is beside us, else it is -1: only root may
 * be able to enter that folder.  Returns a path that nobody frees, or NULL if
 * no option needs TLS.
 */
static char *
find_engine(const struct options *o, int *fd)
{
	char why[512], *path, *slash;
	ssize_t n;

	*fd = -1;
	if (!uses_tls(o))
		return NULL;
	path = malloc(PATH_MAX);
	if (path == NULL)
		misused("out of memory");
	n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	path[n < 0 ? 0 : n] = '\0';
	slash = strrchr(path, '/');
	if (slash != NULL)
		snprintf(slash, PATH_MAX - (size_t)(slash - path),
		    "/smtpd-tls");
	if (slash != NULL && access(path, F_OK) == 0)
		*fd = open_key(path, why, sizeof why);
	else
		snprintf(path, PATH_MAX, LIBEXEC "/smtpd-tls");
	return path;
}

/* Whoever we became runs it by name; or, if its folder is closed to him, by
   the descriptor. */
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

/* How the session went, as its last record says. */
static void
write_ending(char *to, size_t size, const struct channel *ch, enum ending why)
{
	const struct reply *first = &ch->refusal;
	char n[3][TEXT_NUMBER];
	bool any = ch->errors > 0;

	text_join(to, size, endings[why], " after ",
	    text_number(n[0], ch->messages, 1),
	    ch->messages == 1 ? " message, " : " messages, ",
	    text_number(n[1], ch->errors, 1),
	    ch->errors == 1 ? " error" : " errors",
	    ch->errors > 1 ? ", the first" : "", any ? ": " : "",
	    any ? text_number(n[2], (unsigned)first->code, 3) : "",
	    any ? " " : "", any ? first->enh : "",
	    any && first->enh[0] != '\0' ? " " : "", any ? first->text : "",
	    NULL);
}

/* The session is over.  A proxy that looks whether we are there (LOCAL, EHLO,
   QUIT) every other second leaves no record. */
static void
end_session(struct session *s, enum ending why)
{
	const struct channel *ch = &s->ch;
	struct envelope env = facts(s);
	char text[REPLY_TEXT + 128];
	bool look = why == END_QUIT && ch->set->proxy_protocol &&
	    ch->mails == 0 && ch->errors == 0 &&
	    memcmp(&ch->peer, &s->nearest, sizeof ch->peer) == 0;

	if (why != END_QUIT && ch->mailfrom != NULL)
		session_log(s, LOG_WARNING, why == END_TIMEOUT ? "timeout"
		    : "client-lost", "the transaction was not finished, "
		    "nothing of it was relayed");
	write_ending(text, sizeof text, ch, why);
	spool_close(&s->spool);
	monitor_end(s->monitor, EX_OK, look ? NULL : "session", &env, text);
}

/* Settles what the options leave to where and how we were started. */
static void
settle(struct options *o, struct log *l, const struct stat std[3], char *fqdn,
    size_t size)
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
	l->sink = choose_sink(std);
	l->relay = relay->spec != NULL ? relay->spec : relay->program[0];
	relay->log = o->monitor.log = (struct logger){ log_event, l };
	if (l->systemd.notify != NULL)
		o->monitor.status = show_status;
	relay->print = l->sink == SINK_SYSLOG ? -1 : STDERR_FILENO;
	if (o->bare_newline == NULL && (S_ISREG(in) ||
	    (S_ISCHR(in) && isatty(STDIN_FILENO))))
		c->bare_newline = BARE_UNIX;
	if (o->xclient != NULL)		/* is it readable? */
		in_nets("", o->xclient);
}

/* The TLS engine still has our last words to deliver: it closes when it has,
   and until then somebody must be there, or a super-server would end it. */
static void
wait_for_engine(struct session *s)
{
	char rest[512];

	s->idle = s->end = clock_now() + ENGINE_GRACE * 1000;
	shutdown(s->out, SHUT_WR);
	while (wait_for(s, s->in, POLLIN) == 1 &&
	    read(s->in, rest, sizeof rest) > 0)
		;
}

/* Says that there is no service, when not even the greeting was said; and to
   the log why, unless that was said where it failed. */
static int
turn_away(struct session *s, int error, int status)
{
	char text[128];

	if (monitor_fd(s->monitor) == -1) {
		text_join(text, sizeof text, "no second process: ",
		    strerror(error), NULL);
		session_log(s, LOG_ERR, "session", text);
	}
	channel_close(&s->ch, 421, "4.3.2", "Service not available");
	drain(s);
	return status;
}

/* What the channel process does from its first breath to its last.  As a part
   of main() it would write to pages that it shares with the monitor. */
static __attribute__((noinline)) int
run(struct session *s, const char *tls_trouble)
{
	enum ending why;

	if (tls_trouble[0] != '\0')
		session_log(s, LOG_ERR, "config-error", tls_trouble);
	if (tls_trouble[0] != '\0' && s->settings->tls_on_connect)
		return EX_CONFIG;
	why = talk(s);
	hang_up(s, why);
	if (s->engine && why != END_TLS)
		wait_for_engine(s);
	end_session(s, why);	/* memory is freed by exit */
	return EX_OK;
}

/* Who can tell what of the session: the client, a PROXY header, XCLIENT.  The
   other facts are known from the start, or the monitor finds them out. */
enum teller { CLIENT = 1, PROXY = 2, XCLIENT = 4 };

static const unsigned char tellers[FACTS] = {
	[FACT_SENDER] = CLIENT,
	[FACT_MAIL_OPTIONS] = CLIENT,
	[FACT_QUEUE_ID] = CLIENT,
	[FACT_CLIENT_ADDRESS] = PROXY | XCLIENT,
	[FACT_CLIENT_PORT] = PROXY | XCLIENT,
	[FACT_CLIENT_NAME] = XCLIENT,
	[FACT_CLIENT_HELO] = CLIENT,
	[FACT_CLIENT_PROTOCOL] = CLIENT,
	[FACT_SERVER_ADDRESS] = PROXY | XCLIENT,
	[FACT_SERVER_PORT] = PROXY | XCLIENT,
	[FACT_SASL_METHOD] = XCLIENT,
	[FACT_SASL_USERNAME] = XCLIENT,
	[FACT_TLS_PROTOCOL] = PROXY,
	[FACT_TLS_CIPHER] = PROXY,
	[FACT_TLS_SNI] = PROXY,
	[FACT_TLS_SUBJECT] = PROXY,
	[FACT_TLS_ISSUER] = PROXY,
	[FACT_TLS_FINGERPRINT] = PROXY,
};

/* What the monitor shall believe of nobody, NULL for what it must be told. */
static void
certain(const char *known[FACTS], const struct options *o,
    const struct client *c)
{
	const char *xclient = o->xclient;
	unsigned who = CLIENT;

	if (o->channel.proxy_protocol)
		who |= PROXY;
	if (xclient != NULL && (o->channel.proxy_protocol ||
	    in_nets(c->peer.address, xclient)))
		who |= XCLIENT;
	for (size_t i = 0; i < FACTS; i++)
		known[i] = "";
	known[FACT_CLIENT_ADDRESS] = c->peer.address;
	known[FACT_CLIENT_PORT] = c->peer.port;
	known[FACT_CLIENT_NAME] = c->peer.name;
	known[FACT_CLIENT_USER] = c->user;
	known[FACT_SERVER_ADDRESS] = c->peer.server_address;
	known[FACT_SERVER_PORT] = c->peer.server_port;
	for (size_t i = 0; i < FACTS; i++)
		if ((tellers[i] & who) != 0)
			known[i] = NULL;
}

static struct session *
open_session(struct options *o, const struct channel_hooks *hook,
    struct monitor *m, const struct client *who)
{
	/* Zeroed, and malloc's own pages stay as they are while nobody asks
	   for mail. */
	struct session *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED)
		return NULL;
	s->options = o;
	s->settings = &o->channel;
	s->monitor = m;
	s->in = STDIN_FILENO;
	s->out = STDOUT_FILENO;
	s->pid = who->pid;
	s->nearest = who->peer;
	memcpy(s->client_user, who->user, sizeof s->client_user);
	s->idle = s->end = clock_now() + (int64_t)o->session_timeout * 1000;
	channel_init(&s->ch, &o->channel, hook, s);
	s->ch.peer = who->peer;
	return s;
}

/* Whatever needs files is done before the processes part; what only the
   channel process needs it makes itself, for pages that both had would be
   copied. */
static int
start(struct options *o, struct monitor *m, const char *tls_trouble,
    bool socket)
{
	struct channel_hooks hook = hooks;
	const char *known[FACTS];
	struct client who;
	struct session *s;
	int signals, error;
	bool parted;

	if (!o->debug)
		hook.dialogue = NULL;
	find_client(&who, o);
	certain(known, o, &who);
	signals = catch_signals();
	parted = signals != -1 && monitor_start(m, signals, known) == 0;
	error = parted ? 0 : errno;
	s = open_session(o, &hook, m, &who);
	if (s == NULL) {
		monitor_log(m, LOG_ERR, "session", NULL, "out of memory");
		return EX_OSERR;
	}
	s->socket = socket;
	s->signals = signals;
	return parted ? run(s, tls_trouble) : turn_away(s, error, EX_OSERR);
}

int
main(int argc, char **argv)
{
	struct options o;
	struct stat std[3];
	char fqdn[CHANNEL_NAME_MAX], trouble[512], bad[512], *engine;
	struct log log = { .sink = SINK_STDERR };
	struct monitor *m;
	int fd;

	(void)argc;
	look_at_descriptors(std);
	read_command_line(&o, argv);
	log.sink = choose_sink(std);
	find_systemd(&log);
	take_passed_socket(&log, std);
	settle(&o, &log, std, fqdn, sizeof fqdn);
	open_keys(&o, one_socket(std), trouble, sizeof trouble);
	engine = find_engine(&o, &fd);
	/* Opens what may be root's alone, so it comes first. */
	m = monitor_open(&o.monitor, bad, sizeof bad);
	if (m == NULL)
		misused("%s", bad);
	drop_root(&o);
	o.monitor.tls.program = o.monitor.relay.tls_program =
	    reach_engine(fd, engine);
	o.channel.dsn = monitor_dsn(m);
	_exit(start(&o, m, trouble, one_socket(std)));	/* no stdio to flush */
}
