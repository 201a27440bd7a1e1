/*
 * options.c - the command line.
 */
#define _GNU_SOURCE	/* getopt_long */
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/fingerprint.h"
#include "base/text.h"
#include "session/log.h"
#include "session/options.h"

#define ENGINE_PATH 108		/* octets of sun_path, with NUL */
#define TLS_TIMEOUT 60		/* seconds for a handshake */

enum kind {
	FLAG,		/* bool, becomes true */
	UNSET,		/* bool, true until the option is given */
	UNSIGNED,	/* unsigned */
	TOTAL,		/* size_t */
	TIME,		/* unsigned, seconds, at least 1; s, m, h, d */
	SIZE,		/* uint64_t, octets; K, M, G */
	TEXT,		/* const char *, borrowed from argv */
	LIMITS,		/* const struct command_limit * */
	MILTER,		/* one more of monitor.milters */
	TIMES,		/* unsigned[3], seconds: one number or three */
	/* By name: see choices[]. */
	NEWLINES,	/* enum bare_newline */
	TLS,		/* enum tls_level */
	AWAY,		/* enum service_away */
	LEVEL,		/* int, a priority of syslog(3) */
	CHECK		/* enum check; the name may be left out */
};

/* A member's offset; does not compile if the member is of another type. */
#define AT(type, member) (unsigned short)(offsetof(struct options, member) + \
    0 * sizeof((type *)0 == &((struct options *)0)->member))

/* Arrays, not pointers: rows of pointers would be relocated at each start, and
   pages of the program be written to. */
static const struct option_row {
	char name[22];
	char letter;		/* 0: it has none */
	unsigned char kind;	/* enum kind */
	unsigned short member;	/* its offset in struct options */
	char argument[13];	/* for --help; "": it takes none */
	char value[9];		/* if the option is not given */
	char what[38];		/* for --help */
} rows[] = {
	{ "size", 's', SIZE, AT(uint64_t, channel.data_size_limit),
	    "SIZE", "32M", "largest message in octets, 0: any" },
	{ "smtputf8", 'u', FLAG, AT(bool, channel.enable_SMTPUTF8),
	    "", "", "offer SMTPUTF8" },
	{ "decode-data", 0, FLAG, AT(bool, channel.decode_data),
	    "", "", "messages must be UTF-8; no 8BITMIME" },
	{ "hostname", 'H', TEXT, AT(const char *, hostname),
	    "NAME", "", "our own name (gethostname)" },
	{ "lmtp", 'l', FLAG, AT(bool, channel.lmtp),
	    "", "", "speak LMTP" },
	{ "nosetuid", 'n', FLAG, AT(bool, nosetuid),
	    "", "", "stay root" },
	{ "user", 0, TEXT, AT(const char *, user),
	    "NAME", "", "become NAME instead of nobody" },
	{ "timeout", 't', TIME, AT(unsigned, timeout),
	    "TIME", "300", "time for one command" },
	{ "session-timeout", 0, TIME, AT(unsigned, monitor.session_timeout),
	    "TIME", "3600", "time for the session" },
	{ "relay-timeout", 0, TIME, AT(unsigned, monitor.relay.timeout),
	    "TIME", "540", "time to relay a message" },
	{ "relay-next-timeout", 0, TIME,
	    AT(unsigned, monitor.relay.next_timeout),
	    "TIME", "30", "time until another next hop is tried" },
	{ "policy-timeout", 0, TIME, AT(unsigned, monitor.policy_timeout),
	    "TIME", "100", "time for a policy answer" },
	{ "max-recipients", 0, TOTAL, AT(size_t, channel.max_recipients),
	    "N", "1000", "recipients of a message, 0: any" },
	{ "max-errors", 0, UNSIGNED, AT(unsigned, channel.max_errors),
	    "N", "20", "errors of a session, 0: any" },
	{ "max-messages", 0, UNSIGNED, AT(unsigned, channel.max_messages),
	    "N", "0", "messages of a session, 0: any" },
	{ "command-limit", 0, LIMITS,
	    AT(const struct command_limit *, channel.command_limits),
	    "N|VERB=N,...", "", "how often a verb may be used" },
	{ "live", 0, FLAG, AT(bool, monitor.relay.live),
	    "", "", "ask the next hop at MAIL and RCPT" },
	{ "routes", 0, TEXT, AT(const char *, monitor.relay.routes),
	    "FILE", "", "other relays for some recipients" },
	{ "sender-routes", 0, TEXT,
	    AT(const char *, monitor.relay.sender_routes),
	    "FILE", "", "other relays for some senders" },
	{ "domain", 0, TEXT, AT(const char *, monitor.domain),
	    "NAME", "", "domain for addresses without one" },
	{ "from", 0, TEXT, AT(const char *, monitor.from),
	    "ADDRESS|FILE", "", "send all mail as ADDRESS" },
	{ "relay-clients", 0, TEXT, AT(const char *, monitor.access.clients),
	    "WHO,...", "", "may relay (" ACCESS_CLIENTS ")" },
	{ "relay-domains", 0, TEXT, AT(const char *, monitor.access.domains),
	    "NAME,...", "", "or /FILE: everybody may send to them" },
	{ "policy", 0, TEXT, AT(const char *, monitor.policy),
	    "SERVICE", "", "[STAGE,...=]unix:PATH, inet:HOST:PORT" },
	{ "milter", 0, MILTER, offsetof(struct options, monitor.milters),
	    "SERVICE", "", "unix:PATH, inet:HOST:PORT; repeatable" },
	{ "milter-default", 0, AWAY,
	    AT(enum service_away, monitor.milter_away),
	    "WHAT", "tempfail", "on failure: tempfail, accept, reject" },
	{ "milter-timeout", 0, TIMES,
	    offsetof(struct options, monitor.milter_times),
	    "T[,T,T]", "", "connect, command, message (30,30,300)" },
	{ "quarantine", 0, TEXT, AT(const char *, monitor.relay.quarantine),
	    "maildir:DIR", "", "store what a milter quarantines" },
	{ "auth", 0, TEXT, AT(const char *, monitor.auth),
	    "SOURCE", "", "checkpassword: dovecot: file: relay:" },
	{ "auth-senders", 0, TEXT, AT(const char *, monitor.senders),
	    "FILE", "", "senders that each user may use" },
	{ "auth-required", 0, FLAG, AT(bool, channel.auth_required),
	    "", "", "no mail without AUTH" },
	{ "no-auth-require-tls", 0, UNSET, AT(bool, channel.auth_require_tls),
	    "", "", "AUTH in clear text too" },
	{ "tlscert", 0, TEXT, AT(const char *, tlscert),
	    "FILE", "", "offer STARTTLS with this certificate" },
	{ "tlskey", 0, TEXT, AT(const char *, tlskey),
	    "FILE", "", "the private key of --tlscert" },
	{ "tls-engine", 0, TEXT, AT(const char *, monitor.tls.resident),
	    "SERVICE", "", "unix:PATH of a smtpd-tls that stays" },
	{ "tls-ca", 0, TEXT, AT(const char *, monitor.tls.ca),
	    "FILE", "", "ask clients for certificates" },
	{ "require-tls", 0, FLAG, AT(bool, channel.require_starttls),
	    "", "", "no mail without TLS" },
	{ "smtps", 0, FLAG, AT(bool, channel.tls_on_connect),
	    "", "", "TLS from the first octet" },
	{ "relay-tls", 0, TLS, AT(enum tls_level, monitor.relay.tls),
	    "WHEN", "none", "TLS to next hops: none, may, must" },
	{ "relay-tls-ca", 0, TEXT, AT(const char *, monitor.relay.tls_ca),
	    "FILE", "", "CAs that sign next hops' certificates" },
	{ "relay-tls-fingerprint", 0, TEXT,
	    AT(const char *, monitor.relay.tls_pins),
	    "SHA256,...", "", "of the next hop's certificate" },
	{ "relay-auth", 0, TEXT, AT(const char *, monitor.relay.auth),
	    "FILE", "", "credentials for next hops" },
	{ "relay-xclient", 0, FLAG, AT(bool, monitor.relay.xclient),
	    "", "", "name clients to next hops by XCLIENT" },
	{ "require-sandbox", 0, FLAG, AT(bool, monitor.require_sandbox),
	    "", "", "refuse to run unconfined" },
	{ "proxy-protocol", 0, FLAG, AT(bool, channel.proxy_protocol),
	    "", "", "a PROXY header comes first" },
	{ "xclient", 0, TEXT, AT(const char *, xclient),
	    "NET,...", "", "clients that may send XCLIENT" },
	{ "xforward", 0, TEXT, AT(const char *, xforward),
	    "NET,...", "", "clients that may send XFORWARD" },
	{ "bare-newline", 0, NEWLINES,
	    AT(enum bare_newline, channel.bare_newline),
	    "HOW", "reject", "lone CR, LF: reject, normalize, unix" },
	{ "crlf", 0, FLAG, AT(bool, monitor.relay.crlf),
	    "", "", "programs and Maildirs get CRLF" },
	{ "show", 0, FLAG, AT(bool, monitor.relay.show),
	    "", "", "show relayed mail on standard error" },
	{ "maildir-keep", 0, UNSIGNED, AT(unsigned, monitor.relay.keep),
	    "N", "0", "keep the newest N messages, 0: all" },
	{ "no-received", 0, FLAG, AT(bool, no_received),
	    "", "", "write no Received: field" },
	{ "x-peer", 0, FLAG, AT(bool, x_peer),
	    "", "", "write an X-Peer: field" },
	{ "rules", 0, TEXT, AT(const char *, rules),
	    "FILE", "", "answer as FILE says, to test clients" },
	{ "record", 0, TEXT, AT(const char *, record),
	    "FILE", "", "or DIR: write a transcript there" },
	{ "log-level", 0, LEVEL, AT(int, log_level),
	    "LEVEL", "info", "err, warning, notice, info" },
	{ "log-auth-names", 0, FLAG, AT(bool, monitor.log_names),
	    "", "", "log names that fail AUTH" },
	{ "debug", 'd', FLAG, AT(bool, debug),
	    "", "", "log the dialogue" },
	{ "check", 0, CHECK, AT(enum check, check),
	    "[=HOW]", "", "test the configuration, serve nobody" },
	{ "version", 'V', FLAG, AT(bool, version),
	    "", "", "print the version" },
	{ "help", 'h', FLAG, AT(bool, help),
	    "", "", "print this" },
};

#define ROWS COUNT(rows)

static const char usage[] =
    "usage: smtpd [OPTION]... TRANSPORT:NEXTHOP\n"
    "       smtpd [OPTION]... -- PROGRAM [ARGUMENT]...\n"
    "Speaks SMTP on standard input and output, and relays each message.\n"
    "\n"
    "TRANSPORT:NEXTHOP is";

static void
print_help(void)
{
	const struct option_row *row;
	char transports[512], name[40];

	relay_syntax(transports, sizeof transports);
	dprintf(STDOUT_FILENO, "%s %s;\nsmtpd(8) explains them, and the "
	    "options:\n", usage, transports);
	for (row = rows; row < rows + ROWS; row++) {
		text_join(name, sizeof name, "--", row->name,
		    row->argument[0] == '[' ? "" : " ",
		    row->argument, NULL);
		dprintf(STDOUT_FILENO, "  %c%c%c %-24s %s%s%s%s\n",
		    row->letter == 0 ? ' ' : '-',
		    row->letter == 0 ? ' ' : row->letter,
		    row->letter == 0 ? ' ' : ',', name, row->what,
		    row->value[0] == '\0' ? "" : " (", row->value,
		    row->value[0] == '\0' ? "" : ")");
	}
}

struct unit {
	char letter;
	unsigned factor;
};

static const struct unit no_units[] = { { 0, 0 } };
static const struct unit times[] = {
	{ 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { 0, 0 }
};
static const struct unit sizes[] = {
	{ 'K', 1 << 10 }, { 'k', 1 << 10 }, { 'M', 1 << 20 }, { 'm', 1 << 20 },
	{ 'G', 1 << 30 }, { 'g', 1 << 30 }, { 0, 0 }
};

/* Reads a number up to most, which one of the units may follow. */
static uint64_t
read_number(const char *option, const char *arg, const struct unit *unit,
    uint64_t most)
{
	const char *such = unit == times
	    ? " of seconds, such as 90, 5m or 1h" : unit == sizes
	    ? " of octets, such as 1000000 or 32M" : "";
	size_t digits = text_digits(arg);
	bool known = arg[digits] == '\0';
	uint64_t n, factor = 1;

	for (; unit->letter != 0; unit++)
		if (arg[digits] == unit->letter && arg[digits + 1] == '\0') {
			factor = unit->factor;
			known = true;
		}
	if (!known || digits == 0)
		log_misused("--%s: \"%s\" is not a number%s", option, arg,
		    such);
	if (!text_parse_number((struct span){ arg, digits }, &n) ||
	    n > most / factor)
		log_misused("--%s: \"%s\" is too large", option, arg);
	return n * factor;
}

static unsigned
read_time(const char *option, const char *arg)
{
	unsigned n = (unsigned)read_number(option, arg, times, INT_MAX);

	if (n == 0)
		log_misused("--%s: a timeout must be at least 1 second",
		    option);
	return n;
}

/* Names by value; an empty one cannot be chosen. */
static const char choices[][8][12] = {
	[NEWLINES - NEWLINES] = { [BARE_REJECT] = "reject",
		[BARE_NORMALIZE] = "normalize", [BARE_UNIX] = "unix" },
	[TLS - NEWLINES] = { [TLS_NONE] = "none", [TLS_MAY] = "may",
		[TLS_MUST] = "must" },
	[AWAY - NEWLINES] = { [AWAY_TEMPFAIL] = "tempfail",
		[AWAY_ACCEPT] = "accept", [AWAY_REJECT] = "reject" },
	[LEVEL - NEWLINES] = { [LOG_ERR] = "err", [LOG_WARNING] = "warning",
		[LOG_NOTICE] = "notice", [LOG_INFO] = "info" },
	[CHECK - NEWLINES] = { [CHECK_START] = "start",
		[CHECK_CONNECT] = "connect" },
};

/* The value of the name that arg is.  option may be a variable, in capitals. */
static unsigned
read_choice(const char *option, enum kind kind, const char *arg)
{
	char all[128] = "";
	size_t len = 0;

	for (unsigned i = 0; i < COUNT(*choices); i++) {
		const char *name = choices[kind - NEWLINES][i];

		if (*name == '\0')
			continue;
		if (strcmp(name, arg) == 0)
			return i;
		text_join(all + len, sizeof all - len, len == 0 ? "" : ", ",
		    name, NULL);
		len += strlen(all + len);
	}
	log_misused("%s%s: \"%s\" is not one of %s", *option >= 'a' ? "--" : "",
	    option, arg, all);
}

/* Reads "N" or "VERB=N", separated by commas.  Returns the rows. */
static const struct command_limit *
read_limits(const char *arg)
{
	/* Few give this option: on the stack everybody would pay for it. */
	static struct command_limit limits[LIMITS_MAX + 1];
	static char verbs[1024];
	char *rest = verbs, *item, *equals;
	size_t n = 0;

	if (strlen(arg) >= sizeof verbs)
		log_misused("--command-limit is too long");
	text_copy(verbs, sizeof verbs, arg);
	while ((item = strsep(&rest, ",")) != NULL) {
		if (n == LIMITS_MAX)
			log_misused("--command-limit: more than %d verbs",
			    LIMITS_MAX);
		equals = strchr(item, '=');
		if (equals != NULL)
			*equals = '\0';
		if (equals != NULL && strcmp(item, "*") != 0 &&
		    !channel_verb(item))
			log_misused("--command-limit: there is no verb \"%s\"",
			    item);
		limits[n].verb = equals == NULL ? "*" : item;
		limits[n++].max = (unsigned)read_number("command-limit",
		    equals == NULL ? item : equals + 1, no_units, INT_MAX);
	}
	limits[n].verb = NULL;
	return limits;
}

static void
add_milter(struct monitor_settings *set, const char *arg)
{
	if (set->nmilters == MILTERS_MAX)
		log_misused("--milter: more than %d filters", MILTERS_MAX);
	set->milters[set->nmilters++] = arg;
}

/* Reads "TIME", which is all three, or "TIME,TIME,TIME". */
static void
read_times(const char *option, const char *arg, unsigned to[3])
{
	char copy[64], *rest = copy, *item;
	size_t n = 0;

	text_copy(copy, sizeof copy, arg);
	while ((item = strsep(&rest, ",")) != NULL && n < 3)
		to[n++] = read_time(option, item);
	if (item != NULL || n == 2 || strlen(arg) >= sizeof copy)
		log_misused("--%s: \"%s\" is neither one time nor three",
		    option, arg);
	if (n == 1)
		to[1] = to[2] = to[0];
}

/*
 * A file among systemd's credentials (LoadCredential=): %d, or the variable
 * that has their folder, in front of the file's name, as a unit's ExecStart=
 * has them.  systemd replaces neither in what comes out of a variable.  Returns
 * arg, or a new string, which lasts as long as the process.
 */
static const char *
find_credential(const char *option, const char *arg)
{
	static const char names[][26] = { "%d/", "$CREDENTIALS_DIRECTORY/",
		"${CREDENTIALS_DIRECTORY}/" };
	const char *dir = getenv("CREDENTIALS_DIRECTORY"), *rest = NULL;
	const size_t kind = text_starts(arg, "file:") ? 5 : 0;
	size_t room;
	char *path;

	for (size_t i = 0; rest == NULL && i < COUNT(names); i++)
		if (text_starts(arg + kind, names[i]))
			rest = arg + kind + strlen(names[i]);
	if (rest == NULL)
		return arg;
	if (dir == NULL)
		dir = "";
	if (*dir == '\0')
		log_misused("--%s %s: there is no $CREDENTIALS_DIRECTORY; "
		    "under systemd LoadCredential= sets it", option, arg);
	room = strlen(dir) + strlen(arg) + 2;
	path = malloc(room);
	if (path == NULL)
		log_misused("--%s: out of memory", option);
	return text_join(path, room, kind > 0 ? "file:" : "", dir, "/", rest,
	    NULL);
}

/* Writes the member of an option. */
static void
set_option(struct options *o, const struct option_row *row, const char *arg)
{
	void *member = (char *)o + row->member;
	const char *name = row->name;

	switch ((enum kind)row->kind) {
	case FLAG:
		*(bool *)member = true;
		break;
	case UNSET:
		*(bool *)member = false;
		break;
	case UNSIGNED:
		*(unsigned *)member = (unsigned)read_number(name, arg,
		    no_units, INT_MAX);
		break;
	case TOTAL:
		*(size_t *)member = (size_t)read_number(name, arg, no_units,
		    INT_MAX);
		break;
	case TIME:
		*(unsigned *)member = read_time(name, arg);
		break;
	case SIZE:
		*(uint64_t *)member = read_number(name, arg, sizes, INT64_MAX);
		break;
	case TEXT:
		*(const char **)member = find_credential(name, arg);
		break;
	case LIMITS:
		*(const struct command_limit **)member = read_limits(arg);
		break;
	case MILTER:
		add_milter(&o->monitor, arg);
		break;
	case TIMES:
		read_times(name, arg, member);
		break;
	case NEWLINES:
		o->newlines_given = true;
		/* FALLTHROUGH */
	case TLS:
	case AWAY:
	case LEVEL:
	case CHECK:
		*(unsigned *)member = arg == NULL ? CHECK_FILES :
		    read_choice(name, (enum kind)row->kind, arg);
		break;
	}
}

static void
set_defaults(struct options *o)
{
	*o = (struct options){ .channel.max_auth_failures = AUTH_FAILURES_MAX,
		.channel.auth_require_tls = true,
		.monitor.tls.timeout = TLS_TIMEOUT,
		.monitor.milter_times = { 30, 30, 300 } };
	for (size_t i = 0; i < ROWS; i++)
		if (rows[i].value[0] != '\0')
			set_option(o, &rows[i], rows[i].value);
	o->newlines_given = false;
}

/* Tells what is wrong with the option that getopt_long() stopped at. */
static _Noreturn void
refuse_option(int c, const struct option *longs, const char *arg)
{
	if (c == ':')
		log_misused("%s needs an argument", arg);
	if (optopt >= 256)
		log_misused("--%s takes no argument", longs[optopt - 256].name);
	if (optopt != 0)
		log_misused("unknown option -%c, try smtpd --help", optopt);
	log_misused("unknown or ambiguous option %s, try smtpd --help", arg);
}

/* Sets each option.  Returns the rest of argv. */
static char **
read_options(struct options *o, char **argv)
{
	struct option longs[ROWS + 1];
	char letters[2 * ROWS + 4] = "+:";
	size_t n = 2, i;
	int argc = 0, c;

	for (i = 0; i < ROWS; i++) {
		int takes = rows[i].kind == CHECK ? optional_argument
		    : rows[i].argument[0] != '\0';

		longs[i] = (struct option){ rows[i].name, takes, NULL,
			256 + (int)i };
		if (rows[i].letter != 0)
			letters[n++] = rows[i].letter;
		if (rows[i].letter != 0 && takes)
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
		if (i == ROWS || c == '?' || c == ':')
			refuse_option(c, longs, argv[optind - 1]);
		set_option(o, &rows[i], optarg);
	}
	return argv + optind;
}

/* AUTH by the next hop. */
static void
check_through(const struct options *o)
{
	const struct relay_settings *relay = &o->monitor.relay;
	const char *source = o->monitor.auth;

	if (source == NULL || !text_starts(source, AUTH_THROUGH))
		return;
	if (source[sizeof AUTH_THROUGH - 1] != '\0')
		log_misused("--auth " AUTH_THROUGH " takes nothing after the "
		    "colon: it is the relay's next hop that is asked");
	if (!relay->live)
		log_misused("--auth " AUTH_THROUGH " needs --live");
	if (relay->auth != NULL)
		log_misused("--auth " AUTH_THROUGH " and --relay-auth exclude "
		    "each other: a connection is the client's or ours");
	if (relay->xclient)
		log_misused("--auth " AUTH_THROUGH " and --relay-xclient "
		    "exclude each other");
}

/* The greeting and the trace field have it as it is, in ASCII. */
static bool
can_be_ours(const char *name)
{
	const size_t len = strlen(name);

	return len < CHANNEL_NAME_MAX && text_is_ascii(name, len) &&
	    address_is_domain(name, len);
}

/* Refuses options that exclude each other, or make no sense alone. */
static void
check_options(const struct options *o)
{
	const struct channel_settings *c = &o->channel;
	const char *engine = o->monitor.tls.resident;
	bool tls = o->tlscert != NULL || engine != NULL;

	if (c->decode_data && c->enable_SMTPUTF8)
		log_misused("--decode-data and --smtputf8 exclude each other");
	if ((o->tlscert != NULL) != (o->tlskey != NULL))
		log_misused("--tlscert and --tlskey belong together");
	if (engine != NULL && (!text_starts(engine, "unix:/") ||
	    strlen(engine) >= sizeof "unix:" - 1 + ENGINE_PATH))
		log_misused("--tls-engine: \"%s\" is not unix:PATH, with a "
		    "path from / of less than %d octets", engine, ENGINE_PATH);
	if (c->tls_on_connect && !tls)
		log_misused("--smtps needs --tlscert or --tls-engine");
	if (o->monitor.tls.ca != NULL && o->tlscert == NULL)
		log_misused("--tls-ca needs --tlscert");
	if (c->require_starttls && !tls && !c->proxy_protocol)
		log_misused("--require-tls needs --tlscert, --tls-engine or "
		    "--proxy-protocol");
	if (o->monitor.auth != NULL && !tls && c->auth_require_tls &&
	    !c->proxy_protocol)		/* the proxy may say so */
		log_misused("--auth would never be offered without TLS: it "
		    "needs --tlscert, --tls-engine, --proxy-protocol or "
		    "--no-auth-require-tls");
	if (c->auth_required && o->monitor.auth == NULL && !o->monitor.tls.ca &&
	    !o->xclient && !c->proxy_protocol)	/* they may name a user */
		log_misused("--auth-required needs --auth: nobody could send "
		    "mail");
	check_through(o);
	if (o->monitor.relay.tls_pins != NULL &&
	    !fingerprint_are(o->monitor.relay.tls_pins))
		log_misused("--relay-tls-fingerprint: \"%s\" is not a SHA-256 "
		    "in hexadecimal digits", o->monitor.relay.tls_pins);
	if (o->monitor.relay.quarantine != NULL &&
	    (!text_starts(o->monitor.relay.quarantine, "maildir:") ||
	    o->monitor.nmilters == 0))
		log_misused("--quarantine is maildir:DIR, and needs --milter");
	if (o->nosetuid && o->user != NULL)
		log_misused("--nosetuid and --user exclude each other");
	if (o->monitor.domain != NULL && !address_is_domain(o->monitor.domain,
	    strlen(o->monitor.domain)))
		log_misused("--domain: \"%s\" is not a domain",
		    o->monitor.domain);
	if (o->hostname != NULL && !can_be_ours(o->hostname))
		log_misused("--hostname: \"%s\" is not a host name",
		    o->hostname);
}

static void
read_relay(struct options *o, char **rest, bool program)
{
	if (rest[0] == NULL)
		log_misused("the relay is missing: it says where messages go, "
		    "for example print:");
	if (program) {
		o->monitor.relay.program = rest;
		return;
	}
	if (strchr(rest[0], ':') == NULL)
		log_misused("\"%s\" is not TRANSPORT:NEXTHOP; put a "
		    "program after --", rest[0]);
	if (rest[1] != NULL)
		log_misused("unexpected argument \"%s\" after the relay; "
		    "options go before it, and a relay with blanks is quoted",
		    rest[1]);
	o->monitor.relay.spec = rest[0];
}

/* Copies what one option tells several parts. */
static void
share_options(struct options *o)
{
	struct channel_settings *c = &o->channel;

	c->tls = (o->tlscert != NULL || o->monitor.tls.resident != NULL) &&
	    !c->tls_on_connect;
	o->monitor.relay.tls_resident = o->monitor.tls.resident;
	o->monitor.relay.through = o->monitor.auth != NULL &&
	    strcmp(o->monitor.auth, AUTH_THROUGH) == 0;
	c->auth_foreign = o->monitor.relay.through;
	o->monitor.relay.clear = !c->auth_require_tls;
	o->monitor.auth_required = c->auth_required;
	o->monitor.tls_required = c->require_starttls;
	o->monitor.max_recipients = c->max_recipients;
	o->monitor.max_messages = c->max_messages;
	o->monitor.max_errors = c->max_errors;
	o->monitor.no_received = o->no_received;
	o->monitor.x_peer = o->x_peer;
	o->monitor.max_size = c->data_size_limit;
	o->monitor.relay.lmtp = c->lmtp;
	o->monitor.relay.idle = o->timeout / 5 + 1;
	o->monitor.relay.debug = o->debug;
	if (o->debug)
		o->log_level = LOG_DEBUG;
}

/* What is said of all sessions, whatever their command lines are. */
static void
read_environment(struct options *o)
{
	const char *least = getenv("SMTPD_LOG_PRIORITY");

	if (!clock_valid())
		log_misused("SOURCE_DATE_EPOCH is not a number of seconds");
	if (least != NULL && *least != '\0')
		o->log_least = (int)read_choice("SMTPD_LOG_PRIORITY", LEVEL,
		    least);
}

void
options_read(struct options *o, char **argv)
{
	char **rest;

	set_defaults(o);
	rest = read_options(o, argv);
	if (o->help || o->version) {
		if (o->help)
			print_help();
		else
			dprintf(STDOUT_FILENO, "smtpd %s%s\n", VERSION,
			    COMPAT_BUILD);
		exit(EX_OK);
	}
	check_options(o);
	read_environment(o);
	share_options(o);
	read_relay(o, rest, rest > argv && strcmp(rest[-1], "--") == 0);
}
