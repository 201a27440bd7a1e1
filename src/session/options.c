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
#include <unistd.h>

#include "base/text.h"
#include "session/log.h"
#include "session/options.h"

#ifndef VERSION
#define VERSION "1.0"
#endif

#define TLS_TIMEOUT 60		/* seconds for a handshake */

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
	row("relay-clients", '\0', TEXT_ARG, monitor.access.clients, \
	    "WHO,...", "who may send through us (" ACCESS_CLIENTS ")") \
	row("relay-domains", '\0', TEXT_ARG, monitor.access.domains, \
	    "NAME,...", "or /FILE: whose mail we forward") \
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
		log_misused("--%s: \"%s\" is not a number, or too large", name, arg);
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
			log_misused("%s needs an argument", argv[optind - 1]);
		if (c == '?' && optopt >= 256)
			log_misused("--%s takes no argument",
			    longs[optopt - 256].name);
		if (c == '?' && optopt != 0)
			log_misused("unknown option -%c, try smtpd --help", optopt);
		if (i == ROWS)
			log_misused("unknown or ambiguous option %s, "
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
	log_misused("--%s: \"%s\" is none of %s, %s, %s", option, arg,
	    first[0].name, first[1].name, first[2].name);
}

/* "N" or "VERB=N", separated by commas. */
static void
read_limits(struct options *o)
{
	char *rest = o->verbs, *item, *equals;
	size_t n = 0;

	if (strlen(o->command_limit) >= sizeof o->verbs)
		log_misused("--command-limit is too long");
	snprintf(o->verbs, sizeof o->verbs, "%s", o->command_limit);
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
		log_misused("--decode-data and --smtputf8 exclude each other");
	if (tls != (o->tlskey != NULL))
		log_misused("--tlscert and --tlskey belong together");
	if ((c->tls_on_connect || o->tls_ca) && !tls)
		log_misused("--smtps and --tls-ca need --tlscert");
	if (c->require_starttls && !tls && !c->proxy_protocol)
		log_misused("--require-tls needs --tlscert, or --proxy-protocol");
	if (o->monitor.auth != NULL && !tls && !o->no_auth_require_tls &&
	    !c->proxy_protocol)		/* which may tell of TLS */
		log_misused("--auth would never be offered without TLS: it needs "
		    "--tlscert, --proxy-protocol or --no-auth-require-tls");
	if (c->auth_required && o->monitor.auth == NULL && !o->tls_ca &&
	    !o->xclient && !c->proxy_protocol)	/* which may tell who it is */
		log_misused("--auth-required needs --auth: nobody could send mail");
	if (o->nosetuid && o->user != NULL)
		log_misused("--nosetuid and --user exclude each other");
	if (o->timeout == 0 || o->session_timeout == 0 ||
	    o->relay_timeout == 0 || o->policy_timeout == 0)
		log_misused("a timeout must be at least 1 second");
	if (o->hostname != NULL && (o->hostname[0] == '\0' ||
	    strlen(o->hostname) >= CHANNEL_NAME_MAX ||
	    o->hostname[strcspn(o->hostname, " \t\r\n")] != '\0'))
		log_misused("--hostname: \"%s\" is not a host name", o->hostname);
}

static void
read_relay(struct options *o, char **rest, bool program)
{
	if (rest[0] == NULL)
		log_misused("where should messages go? Name a relay, "
		    "for example print:");
	if (program) {
		o->monitor.relay.program = rest;
		return;
	}
	if (strchr(rest[0], ':') == NULL)
		log_misused("\"%s\" is not TRANSPORT:NEXTHOP; a program goes "
		    "behind --", rest[0]);
	if (rest[1] != NULL)
		log_misused("\"%s\" behind the relay: options come first",
		    rest[1]);
	o->monitor.relay.spec = rest[0];
}

void
options_read(struct options *o, char **argv)
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
