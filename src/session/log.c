/*
 * log.c - records of events: on standard error, in the journal or in syslog.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

#include "base/text.h"
#include "session/descriptors.h"
#include "session/log.h"

bool
log_is_journal(const struct stat std[3])
{
	const struct stat *err = &std[STDERR_FILENO];
	const char *stream = getenv("JOURNAL_STREAM");
	char name[64];

	if (stream == NULL)
		return false;
	snprintf(name, sizeof name, "%llu:%llu",
	    (unsigned long long)err->st_dev, (unsigned long long)err->st_ino);
	return strcmp(stream, name) == 0;
}

enum sink
log_choose_sink(const struct stat std[3])
{
	const struct stat *in = &std[STDIN_FILENO], *out = &std[STDOUT_FILENO];
	const struct stat *err = &std[STDERR_FILENO];

	/* The journal may be standard output as well, of --check in a unit. */
	if (log_is_journal(std))
		return SINK_JOURNAL;
	return !S_ISCHR(err->st_mode) && (descriptors_same(in, err) ||
	    descriptors_same(out, err)) ? SINK_SYSLOG : SINK_STDERR;
}

/* The kinds of events, with the MESSAGE_ID that units/smtpd.catalog explains.
   The text of some is the reply that the client got. */
static const struct event {
	char name[20], id[33];
	bool reply;
	bool tls;	/* the record says how the client was protected */
} events[] = {
	{ "message-relayed", "265e49e32fca423faec18dc0ae591ef0", true, true },
	{ "message-refused", "6507ea6a52bf4120bf481c5fa2783115", true, true },
	{ "message-deferred", "f9faaaf0396246b7a2a2eaf079a52205", true, true },
	{ "refused", "7c1553f1c78a424f900bc86a69cdad0f", true, false },
	{ "session", "b427b2fcbb3741c3a35ffc7d7c5a924c", false, true },
	{ "client-lost", "41eb2bd40b4648708b315f5597d93ad3", false, false },
	{ "timeout", "1767172cfc294cb094a4c176b2a05785", false, false },
	{ "tls-failed", "f66cf46666864d3cb8197768f90b315f", false, false },
	{ "tls-engine-away", "0d7a3a5f1be6469db2a2f5e55b1d4a3c", false, false },
	{ "auth-failed", "43cbc08ff3b64463843ff3a5690f7ba3", false, true },
	{ "auth-ok", "edfb7d3f079948058a9f099a9652ddc3", false, true },
	{ "policy", "3e209571eba34dc089872a73e453a6fa", false, false },
	{ "milter", "3904eb1a4d604153ba10a01421ed658f", false, false },
	{ "quarantine", "d96660dc80b34657b5afd33a86466395", false, false },
	{ "auth", "3e209571eba34dc089872a73e453a6fa", false, false },
	{ "program", "1a26e10991df4333848180732c211daf", false, false },
	{ "spool", "5b1f43de37284816b7d5a93bd533939a", false, false },
	{ "part", "8f0d3f6a4f1e4b0c9c0e6a52d5b7c1a9", true, false },
	{ "rewritten", "5dcfc71592af454da77781bd6ce01d11", false, false },
	{ "relay", "5b1f43de37284816b7d5a93bd533939a", false, false },
	{ "nexthop", "5b1f43de37284816b7d5a93bd533939a", false, false },
	{ "duplicate-possible", "16402bd99eeb45c39706071e6753eeb8", false,
	    false },
	{ "partial", "16402bd99eeb45c39706071e6753eeb8", false, false },
	{ "config-error", "5034ac5f87124b00a639fb6ef62b04d7", false, false },
	{ "routes", "5034ac5f87124b00a639fb6ef62b04d7", false, false },
	{ "rule", "7d0b3f6e5c2a4e0f9b1d8a6473c5e2f1", false, false },
	{ "dialogue", "c2a64e1f9d0b4f52a1c96d3b7be80f24", false, false },
	{ "sandbox-missing", "4b55b3ca1e2f4acfa42c3036e9ebde3e", false, false },
	{ "channel-broken", "c750ad726cc34f348f63a8565cfa2016", false, false },
	{ "", "", false, false },
};

/* One fact of a record: its names in a line and in the journal. */
struct item {
	const char *key, *field, *value;
};

#define ITEMS_MAX 32
#define NAMED_MAX 8		/* recipients that a record names */
#define RECORD_MAX 4096		/* octets of a line */
#define RECORD_USUAL 512	/* mostly enough; this page is in use already */
#define ENDING 1400		/* octets kept for relay and reply */

struct record {
	struct item items[ITEMS_MAX];
	size_t n;
	char size[TEXT_NUMBER], recipients[TEXT_NUMBER];
	char helo[256], tls[96], delay[2 * TEXT_NUMBER];
};

static void
add(struct record *r, const char *key, const char *field, const char *value)
{
	if (value != NULL && value[0] != '\0' && r->n < ITEMS_MAX)
		r->items[r->n++] = (struct item){ key, field, value };
}

/* The name that the client calls itself, in ASCII. */
static const char *
ascii_name(char *to, size_t size, const char *name)
{
	text_copy(to, size, name);
	for (char *p = to; *p != '\0'; p++)
		if (((unsigned char)*p & 0x80) != 0)
			*p = '?';
	return to;
}

static void
add_envelope(struct record *r, const struct envelope *env)
{
	add(r, "id", "SMTPD_QUEUE_ID", env->fact[FACT_QUEUE_ID]);
	add(r, "client", "SMTPD_CLIENT", env->fact[FACT_CLIENT_ADDRESS]);
	if (strcmp(env->fact[FACT_CLIENT_NAME], "unknown") != 0)
		add(r, "name", "SMTPD_CLIENT_NAME",
		    env->fact[FACT_CLIENT_NAME]);
	add(r, "helo", "SMTPD_HELO", ascii_name(r->helo, sizeof r->helo,
	    env->fact[FACT_CLIENT_HELO]));
	add(r, "user", "SMTPD_USER", env->fact[FACT_SASL_USERNAME]);
	add(r, "ident", "SMTPD_IDENT", env->fact[FACT_FORWARD_IDENT]);
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

/* How the client was protected, and by what it was authenticated. */
static void
add_protection(struct record *r, const struct envelope *env)
{
	add(r, "tls", "SMTPD_TLS", text_join(r->tls, sizeof r->tls,
	    env->fact[FACT_TLS_PROTOCOL],
	    env->fact[FACT_TLS_PROTOCOL][0] == '\0' ? "" : " ",
	    env->fact[FACT_TLS_CIPHER], NULL));
	add(r, "method", "SMTPD_SASL_METHOD", env->fact[FACT_SASL_METHOD]);
	if (env->notes != NULL)
		add(r, "source", "SMTPD_SASL_SOURCE", env->notes->source);
}

static void
add_notes(struct record *r, const struct notes *notes)
{
	char n[2][TEXT_NUMBER];

	add(r, "nexthop", "SMTPD_NEXTHOP", notes->nexthop);
	add(r, "nexthop_tls", "SMTPD_NEXTHOP_TLS", notes->nexthop_tls);
	add(r, "by", "SMTPD_BY", notes->by);
	add(r, "tried", "SMTPD_TRIED", notes->tried);
	if (notes->delay >= 0)
		add(r, "delay", "SMTPD_DELAY", text_join(r->delay,
		    sizeof r->delay, text_number(n[0],
		    (uint64_t)notes->delay / 1000, 1), ".", text_number(n[1],
		    (uint64_t)notes->delay % 1000, 3), NULL));
}

/* Octets of a value in a line, at most. */
static size_t
value_length(const char *value)
{
	size_t n = strlen(value);

	while ((value = strchr(value, '\n')) != NULL) {
		n += sizeof " / " - 2;
		value++;
	}
	return n;
}

/* Octets of its line, at most. */
static size_t
record_length(const struct record *r)
{
	size_t n = sizeof "<0>smtpd:\n";

	for (size_t i = 0; i < r->n; i++)
		n += strlen(r->items[i].key) + value_length(r->items[i].value) +
		    sizeof " =\"\"";
	return n;
}

/* Appends " key=value" to line[0..size), in which n octets are; a value with
   blanks is quoted; newlines become " / ", what cannot be shown becomes '?'. */
static size_t
put_item(char *line, size_t size, size_t n, const struct item *item)
{
	const char *value = item->value;
	bool quote = value[strcspn(value, " \"=\n")] != '\0';
	size_t end;

	if (n + strlen(item->key) + value_length(value) + 4 >= size)
		return n;
	text_join(line + n, size - n, " ", item->key, quote ? "=\"" : "=",
	    NULL);
	n += strlen(line + n);
	end = n + text_one_line(line + n, size - n, value);
	for (; n < end; n++)
		if (line[n] == '"')
			line[n] = '\'';
	if (quote)
		line[n++] = '"';
	line[n] = '\0';
	return n;
}

/* Adds "FIELD=value", to be freed, where there are both. */
static void
add_field(struct iovec *fields, int *n, const struct item *item)
{
	size_t size = strlen(item->field) + strlen(item->value) + 2;
	char *text = item->field[0] == '\0' || item->value[0] == '\0' ? NULL
	    : malloc(size);

	if (text != NULL)
		fields[(*n)++] = (struct iovec){ text_join(text, size,
			item->field, "=", item->value, NULL), size - 1 };
}

/* The record with a field for every fact.  Negative: it was not taken. */
static int
send_journal(const struct log *l, const struct record *r, int priority,
    const char *id, const char *line)
{
	char number[2][TEXT_NUMBER];
	const struct item more[] = {
		{ "", "PRIORITY", text_number(number[0], (unsigned)priority,
		    1) },
		{ "", "MESSAGE_ID", id },
		{ "", "SYSLOG_IDENTIFIER", "smtpd" },
		{ "", "SYSLOG_FACILITY", text_number(number[1], LOG_MAIL >> 3,
		    1) },
		{ "", "MESSAGE", line },
	};
	struct iovec fields[COUNT(more) + ITEMS_MAX];
	int n = 0, status;

	for (size_t i = 0; i < COUNT(more); i++)
		add_field(fields, &n, &more[i]);
	for (size_t i = 0; i < r->n; i++)
		add_field(fields, &n, &r->items[i]);
	status = l->systemd.journal(fields, n);
	while (n > 0)
		free(fields[--n].iov_base);
	return status;
}

void
log_event(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	struct log *l = ctx;
	const struct event *e = events;
	struct record r = { .n = 0 };
	static char large[RECORD_MAX];
	char level[TEXT_NUMBER], usual[RECORD_USUAL], *line = usual;
	size_t n, size = sizeof usual, kept = 0;

	if (priority > l->level)
		return;
	if (l->least != 0 && priority > l->least)
		priority = l->least;
	while (e->name[0] != '\0' && strcmp(e->name, event) != 0)
		e++;
	add(&r, "event", "SMTPD_EVENT", event);
	if (env == NULL)
		env = l->about;
	if (env != NULL)
		add_envelope(&r, env);
	if (env != NULL && e->tls)
		add_protection(&r, env);
	add(&r, "relay", "SMTPD_RELAY", !e->reply ? "" :
	    env != NULL && env->notes != NULL && env->notes->relay != NULL
	    ? env->notes->relay : l->relay);
	if (env != NULL && env->notes != NULL)
		add_notes(&r, env->notes);
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
		n = put_item(line, size - 1 - (i + 2 < r.n ? kept : 0), n,
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

void
log_about(void *ctx, const struct envelope *env)
{
	struct log *l = ctx;

	l->about = env;
}

void
log_show_status(void *ctx, const char *text, bool stopping)
{
	const struct log *l = ctx;
	char state[512];

	snprintf(state, sizeof state, "STATUS=%s%s", text,
	    stopping ? "\nSTOPPING=1" : "");
	l->systemd.notify(0, state);
}

/* Answers a client that is on a socket, whom we cannot serve.  At a terminal,
   a pipe or a file there is somebody who reads the sentence itself: false. */
static bool
turn_away(const struct stat std[3])
{
	static const char words[] = "421 4.3.5 Local configuration error\r\n";
	const char *fds = getenv("LISTEN_FDS");
	int client = S_ISSOCK(std[STDIN_FILENO].st_mode) &&
	    S_ISSOCK(std[STDOUT_FILENO].st_mode) ? STDOUT_FILENO
	    : fds != NULL && strcmp(fds, "1") == 0 ? 3 : -1;

	/* A listening socket, or none, is an errno. */
	if (client != -1)
		send(client, words, sizeof words - 1,
		    MSG_NOSIGNAL | MSG_DONTWAIT);
	return client != -1;
}

void
log_complain(const char *text)
{
	struct log l = { .level = LOG_ERR };
	struct stat std[3];
	bool client;

	descriptors_look(std);
	l.sink = log_choose_sink(std);
	client = turn_away(std);
	/* No session follows, so this may stand where replies would: a person
	   may have joined the two.  And the journal knows of a line, and not of
	   a record of a process that has ended meanwhile, which unit it is of:
	   `systemctl status' of a socket whose --check fails shows the line. */
	if (l.sink == SINK_STDERR || (l.sink == SINK_SYSLOG &&
	    !S_ISSOCK(std[STDOUT_FILENO].st_mode)) ||
	    (l.sink == SINK_JOURNAL && !client))
		dprintf(STDERR_FILENO, "%ssmtpd: %s\n",
		    l.sink == SINK_JOURNAL ? "<3>" : "", text);
	if (l.sink == SINK_STDERR || (l.sink == SINK_JOURNAL && !client))
		return;
	systemd_find(&l.systemd, l.sink == SINK_JOURNAL);
	log_event(&l, LOG_ERR, "config-error", NULL, text);
}

_Noreturn void
log_misused(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	log_complain(text);
	exit(EX_USAGE);
}
