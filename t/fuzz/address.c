/*
 * address.c - any address with any parameters, in MAIL and in RCPT.
 *
 * The first octet chooses settings; what follows, up to a line feed, stands
 * after "MAIL FROM:", and what follows that after "RCPT TO:".  If one is
 * accepted:
 *  - it has no control character, does not look like an option, is UTF-8, and
 *    nothing but ASCII unless SMTPUTF8 was asked for;
 *  - what could end it elsewhere stands in quotes alone;
 *  - the monitor, which does not trust this process, allows it;
 *  - written with brackets, as a next hop gets it, it is the same address;
 *  - a literal's IPv6 address is one for inet_pton(3) too.
 */
#include <arpa/inet.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "monitor/grammar.h"
#include "t/fuzz/fuzz.h"

#define LINE 4096
/* Octets after the colon; a command without angle brackets may be so near the
   limit that two more octets are too many. */
#define MAIL_MAX (510 + 26 + 17 + 10 + 500 + 500 - 10)
#define RCPT_MAX (510 + 500 - 8)

static const struct channel_hooks nothing;

/* Says a line and CRLF, and forgets what is answered. */
static void
say(struct channel *ch, const char *command, const char *arg, size_t len)
{
	char line[LINE + 64];
	size_t n, used;

	n = (size_t)snprintf(line, sizeof line, "%s", command);
	memcpy(line + n, arg, len);
	memcpy(line + n + len, "\r\n", 2);
	used = channel_feed(ch, line, n + len + 2);
	demand(used == n + len + 2 || ch->want == WANT_CLOSE,
	    "a line is not taken");
	channel_output(ch, &used);
	channel_sent(ch, used);
}

static void
begin(struct channel *ch, const struct channel_settings *set)
{
	channel_init(ch, set, &nothing, NULL);
	channel_greet(ch);
	say(ch, set->lmtp ? "LHLO client" : "EHLO client", "", 0);
}

/* RFC 3629 4, by its table. */
static bool
utf8(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t n, i;

	for (; *p != '\0'; p += n) {
		n = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 :
		    *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;
		for (i = 1; i < n; i++)
			if ((p[i] & 0xc0) != 0x80)
				return false;
		if (n == 0 || (*p == 0xe0 && p[1] < 0xa0) ||
		    (*p == 0xed && p[1] > 0x9f) ||
		    (*p == 0xf0 && p[1] < 0x90) ||
		    (*p == 0xf4 && p[1] > 0x8f))
			return false;
	}
	return true;
}

static void
check_text(const char *s, bool international)
{
	const char *p;

	for (p = s; *p != '\0'; p++) {
		demand((unsigned char)*p >= ' ' && *p != '\177',
		    "a control character");
		demand(*p != '\xc2' || (unsigned char)p[1] >= 0xa0,
		    "a C1 control character");
		demand(international || (unsigned char)*p < 128,
		    "not ASCII, without SMTPUTF8");
	}
	demand(utf8(s), "not UTF-8");
}

static void
check_literal(const char *domain)
{
	unsigned char to[16];
	char text[64];

	if (strncmp(domain, "[IPv6:", 6) != 0 || strchr(domain, '.') != NULL)
		return;
	demand(strlen(domain) < sizeof text, "a long address literal");
	domain += 6;
	snprintf(text, sizeof text, "%.*s", (int)strcspn(domain, "]"), domain);
	demand(inet_pton(AF_INET6, text, to) == 1, "not an IPv6 address");
}

static void
check_address(const char *s, bool international)
{
	bool quoted = false;
	const char *p;

	check_text(s, international);
	demand(*s != '-', "an address looks like an option");
	for (p = s; *p != '\0'; p++) {
		if (quoted && *p == '\\' && p[1] != '\0')
			p++;
		else if (*p == '"')
			quoted = !quoted;
		else
			demand(quoted || strchr(" <>(),;\\", *p) == NULL,
			    "an address with what would end it");
		if (!quoted && *p == '@') {
			demand(p[1] != '\0' && p[1] != '-' &&
			    strchr(p + 1, '@') == NULL, "a bad domain");
			check_literal(p + 1);
		}
	}
	demand(!quoted, "a quote that does not end");
}

/* Is it the same transaction when it is told to a next hop? */
static void
tell(const struct channel *from, const struct channel_settings *set)
{
	struct channel *ch = malloc(sizeof *ch);
	char text[LINE];
	size_t i;
	int n;

	demand(ch != NULL, "no memory");
	begin(ch, set);
	n = snprintf(text, sizeof text, "<%s>%s%s", from->mailfrom,
	    *from->mail_options == '\0' ? "" : " ", from->mail_options);
	if (n > MAIL_MAX)
		goto out;
	say(ch, "MAIL FROM:", text, (size_t)n);
	demand(ch->mailfrom != NULL &&
	    strcmp(ch->mailfrom, from->mailfrom) == 0 &&
	    strcmp(ch->mail_options, from->mail_options) == 0 &&
	    ch->smtp_utf8 == from->smtp_utf8 && ch->body == from->body &&
	    ch->declared == from->declared,
	    "the sender changes when it is handed on");
	for (i = 0; i < from->nrcpttos; i++) {
		n = snprintf(text, sizeof text, "<%s>%s%s",
		    from->rcpttos[i].address,
		    *from->rcpttos[i].options == '\0' ? "" : " ",
		    from->rcpttos[i].options);
		if (n > RCPT_MAX)
			break;
		say(ch, "RCPT TO:", text, (size_t)n);
		demand(ch->nrcpttos == i + 1 &&
		    strcmp(ch->rcpttos[i].address,
		    from->rcpttos[i].address) == 0 &&
		    strcmp(ch->rcpttos[i].options,
		    from->rcpttos[i].options) == 0,
		    "a recipient changes when it is handed on");
	}
out:
	channel_free(ch);
	free(ch);
}

/* The monitor gets it as an envelope. */
static void
show_monitor(const struct channel *ch)
{
	struct envelope env = { .recipients = ch->rcpttos,
		.nrecipients = ch->nrcpttos };

	for (size_t i = 0; i < FACTS; i++)
		env.fact[i] = "";
	env.fact[FACT_SENDER] = ch->mailfrom;
	env.fact[FACT_MAIL_OPTIONS] = ch->mail_options;
	env.fact[FACT_CLIENT_HELO] = ch->seen_greeting;
	demand(grammar_allows(&env), "the monitor does not allow it");
}

/* What inet_pton(3) takes must be taken. */
static void
try_ipv6(struct channel *ch, const char *p, size_t len)
{
	char text[64];
	unsigned char to[16];
	size_t n = ch->nrcpttos;

	if (len >= 40 || memchr(p, '\0', len) != NULL)
		return;
	snprintf(text, sizeof text, "%.*s", (int)len, p);
	if (inet_pton(AF_INET6, text, to) != 1)
		return;
	snprintf(text, sizeof text, "<a@[IPv6:%.*s]>", (int)len, p);
	say(ch, "RCPT TO:", text, strlen(text));
	demand(ch->nrcpttos == n + 1, "an IPv6 address is refused");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *p = (const char *)data + 1, *lf;
	struct channel *ch;
	struct channel_settings set = { .fqdn = "mx.example.org" };
	size_t i;

	if (size < 1 || size > LINE)
		return 0;
	set.enable_SMTPUTF8 = data[0] & 1;
	set.dsn = (data[0] & 2) != 0;
	set.auth = data[0] & 4 ? "PLAIN" : NULL;
	set.lmtp = (data[0] & 8) != 0;
	set.decode_data = (data[0] & 17) == 16;
	ch = malloc(sizeof *ch);
	demand(ch != NULL, "no memory");
	begin(ch, &set);
	lf = memchr(p, '\n', size - 1);
	if (lf == NULL)
		lf = p + size - 1;
	say(ch, "MAIL FROM:", p, (size_t)(lf - p));
	if (ch->mailfrom != NULL) {
		check_address(ch->mailfrom, ch->smtp_utf8);
		check_text(ch->mail_options, ch->smtp_utf8);
	} else
		say(ch, "MAIL FROM:", "<>", 2);
	if (lf < p + size - 1 && memchr(lf + 1, '\n', (size_t)(p + size - 1 -
	    lf - 1)) == NULL)
		say(ch, "RCPT TO:", lf + 1, (size_t)(p + size - 1 - lf - 1));
	for (i = 0; i < ch->nrcpttos; i++) {
		demand(ch->rcpttos[i].address[0] != '\0',
		    "an empty recipient is accepted");
		check_address(ch->rcpttos[i].address, ch->smtp_utf8);
		check_text(ch->rcpttos[i].options, ch->smtp_utf8);
	}
	if (ch->mailfrom != NULL) {
		show_monitor(ch);
		tell(ch, &set);
	}
	try_ipv6(ch, p, (size_t)(lf - p));
	channel_free(ch);
	free(ch);
	return 0;
}
