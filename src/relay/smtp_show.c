/*
 * smtp_show.c - the dialogue with a next hop in the log: for -d, and where a
 * message went.
 *
 * Message text is not shown, and of AUTH nothing but the mechanism and replies
 * that do not quote our secret.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "base/text.h"
#include "relay/smtp_private.h"

#define QUOTED 8		/* octets of a secret that betray it */

/* Logs a line of the dialogue; whose: 'C' for ours, 'S' for the next hop's. */
static void
show(const struct nexthop *h, char whose, const char *line, size_t len,
    const char *masked)
{
	char name[SMTP_NAME_MAX];

	logger_printf(&h->set->log, LOG_DEBUG, "dialogue", h->env,
	    "%s %c: %.*s%s", smtp_name(h, name), whose, (int)len, line, masked);
}

bool
smtp_is_secret(enum step step)
{
	return step == STEP_AUTH || step == STEP_CHALLENGE || step == STEP_SASL;
}

/* How much of a line of AUTH may be shown: "AUTH PLAIN" of the first. */
static size_t
shown_length(const char *line)
{
	const size_t verb = sizeof "AUTH " - 1;

	if (strncmp(line, "AUTH ", verb) != 0)
		return 0;
	return verb + strcspn(line + verb, " \r\n");
}

void
smtp_show_group(const struct nexthop *h, enum step step)
{
	const char *p = h->out, *end = h->out + h->held, *lf;
	size_t len, shown;

	if (!h->set->debug || step == STEP_END)
		return;
	for (; p < end; p = lf + 1) {
		lf = memchr(p, '\n', (size_t)(end - p));
		if (lf == NULL)
			return;
		len = (size_t)(lf - p);
		len -= len > 0 && p[len - 1] == '\r';
		shown = smtp_is_secret(step) ? shown_length(p) : len;
		show(h, 'C', p, shown, shown == len ? "" : shown == 0 ? "***"
		    : " ***");
	}
}

/* Is a run of the secret in p[0..len), or the whole of a short one? */
static bool
has_run(const char *secret, const char *p, size_t len)
{
	const size_t n = strlen(secret), run = n < QUOTED ? n : QUOTED;

	for (size_t i = 0; run > 0 && i + run <= len; i++)
		for (size_t at = 0; at + run <= n; at++)
			if (memcmp(secret + at, p + i, run) == 0)
				return true;
	return false;
}

/* The same of what base64 digits at p[0..len) stand for, wherever the first of
   four begins.  At the end of them zeros are thought. */
static bool
has_coded_run(const char *secret, const char *p, size_t len)
{
	char digits[REPLY_TEXT + 4], text[REPLY_TEXT + 4];
	bool found = false;
	long n;

	if (len < 2 || len >= REPLY_TEXT)
		return false;
	memcpy(digits, p, len);
	memcpy(digits + len, "AAA", 4);
	for (size_t at = 0; at < 4 && at < len && !found; at++) {
		n = text_decode_base64(text, sizeof text,
		    (struct span){ digits + at, (len - at + 3) / 4 * 4 });
		found = n > 0 && has_run(secret, text, (size_t)n);
	}
	explicit_bzero(digits, sizeof digits);
	explicit_bzero(text, sizeof text);
	return found;
}

bool
smtp_quotes_secret(const struct nexthop *h, const char *text)
{
	size_t n;

	if (h->secret == NULL)
		return false;
	if (has_run(h->secret, text, strlen(text)))
		return true;
	for (; *text != '\0'; text += n + (text[n] != '\0')) {
		n = text_base64_digits(text);
		if (has_coded_run(h->secret, text, n))
			return true;
	}
	return false;
}

bool
smtp_may_repeat(const struct nexthop *h, enum step step, const char *line)
{
	return (smtp_is_secret(step) || smtp_is_trusted(h)) &&
	    text_digits(line) != 3;
}

void
smtp_show_reply(const struct nexthop *h, enum step step, const char *line)
{
	size_t n = strlen(line), shown = n;

	if (!h->set->debug)
		return;
	if (smtp_may_repeat(h, step, line))
		shown = 0;
	else if (smtp_is_secret(step) && text_starts(line, "334"))
		shown = 3;
	else if (smtp_is_secret(step) && n > 4 && (h->set->through ||
	    smtp_quotes_secret(h, line + 4)))
		/* With --auth relay: it may repeat what our client said. */
		shown = text_enhanced(line + 4) == 0 ? 3
		    : 4 + text_enhanced(line + 4);
	show(h, 'S', line, shown, shown == n ? "" : shown == 0 ? "***"
	    : " ***");
}

void
nexthop_where(const struct nexthop *h, char *name, char *tls, size_t size)
{
	char all[SMTP_NAME_MAX];

	text_copy(name, size, h->place.host[0] == '\0' ? "" : smtp_name(h,
	    all));
	text_copy(tls, size, h->tls);
}
