/*
 * smtp_show.c - the dialogue with a next hop in the log: for -d, and where a
 * message went.
 *
 * Message text is not shown, and of AUTH nothing but the mechanism.
 */
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "base/text.h"
#include "relay/smtp_private.h"

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

bool
smtp_may_repeat(const struct nexthop *h, enum step step, const char *line)
{
	return (smtp_is_secret(step) || smtp_is_trusted(h)) &&
	    strspn(line, "0123456789") != 3;
}

void
smtp_show_reply(const struct nexthop *h, enum step step, const char *line)
{
	size_t n = strlen(line), shown = n;

	if (!h->set->debug)
		return;
	if (smtp_may_repeat(h, step, line))
		shown = 0;
	else if (smtp_is_secret(step) && strncmp(line, "334", 3) == 0)
		shown = 3;
	else if (smtp_is_secret(step) && h->set->through && n > 4)
		/* It may repeat what our client said. */
		shown = text_enhanced(line + 4) == 0 ? 3
		    : 4 + text_enhanced(line + 4);
	show(h, 'S', line, shown, shown == n ? "" : shown == 0 ? "***"
	    : " ***");
}

void
nexthop_where(const struct nexthop *h, char *name, char *tls, size_t size)
{
	char all[SMTP_NAME_MAX];

	snprintf(name, size, "%s", h->place.host[0] == '\0' ? ""
	    : smtp_name(h, all));
	snprintf(tls, size, "%s", h->tls);
}
