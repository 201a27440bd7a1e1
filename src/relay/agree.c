/*
 * agree.c - one reply for all recipients of a message that went to several
 * places.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "base/reply.h"
#include "base/text.h"
#include "relay/agree.h"

#define REASON_TEXT 200		/* octets of one recipient's reply when it is
				   quoted within the reply for all */

size_t
agree_count(const struct reply r[], size_t n, size_t *failed)
{
	size_t i, good = 0;

	*failed = 0;
	for (i = 0; i < n; i++) {
		good += r[i].code != 0 && r[i].code < 400;
		*failed += r[i].code >= 400;
	}
	return good;
}

/*
 * Appends to text[0..size) a line for each recipient that has the message, or
 * for each that was refused, as far as there is room; margin octets are left.
 */
static void
list_recipients(const struct envelope *env, const struct reply r[], bool good,
    char *text, size_t size, size_t margin)
{
	size_t total, done = 0, len = strlen(text), i;
	const struct reply *one;
	char line[640], reason[REASON_TEXT], *p;

	total = agree_count(r, env->nrecipients, &i);
	total = good ? total : i;
	for (i = 0; i < env->nrecipients; i++) {
		one = &r[i];
		if (one->code == 0 || (one->code < 400) != good)
			continue;
		text_copy(reason, sizeof reason, one->text);
		for (p = reason; (p = strchr(p, '\n')) != NULL; )
			*p = ' ';
		snprintf(line, sizeof line, good ?
		    "\nDelivered to <%.320s>" :
		    "\nNot delivered to <%.320s>: %d%s%s %s",
		    env->recipients[i].address, one->code, *one->enh ? " " : "",
		    one->enh, reason);
		if (strlen(line) + len + margin >= size)
			break;
		text_copy(text + len, size - len, line);
		len += strlen(line);
		done++;
	}
	if (done < total)
		snprintf(text + len, size - len, "\nand %zu more",
		    total - done);
}

/* Tells the administrator which recipients have the message. */
static void
log_partial(const struct logger *log, const struct envelope *env,
    const struct reply r[], size_t good, size_t bad)
{
	const struct reply *one;
	size_t i;

	logger_printf(log, LOG_WARNING, "partial", env,
	    "%zu recipients have the message and %zu have not: if it is sent "
	    "again, duplicates are possible", good, bad);
	for (i = 0; i < env->nrecipients; i++) {
		one = &r[i];
		logger_printf(log, LOG_WARNING, "partial", env,
		    "<%s>: %d %s %s", env->recipients[i].address, one->code,
		    one->enh, one->text);
	}
}

void
agree(const struct logger *log, const struct envelope *env,
    const struct reply r[], size_t places, struct reply *all)
{
	size_t n = env->nrecipients, good, bad, alike = 0, i;
	const struct reply *worst = NULL;
	char text[REPLY_TEXT];

	good = agree_count(r, n, &bad);
	for (i = 0; i < n; i++) {
		if (r[i].code == 0 || (bad > 0 && r[i].code < 400))
			continue;
		if (worst == NULL || (worst->code >= 500 && r[i].code < 500))
			worst = &r[i];
	}
	assert(worst != NULL);	/* at least one place has replied */
	for (i = 0; i < n; i++)
		alike += reply_same(&r[i], worst);
	if (alike == n || (bad == 0 && places == 1)) {
		*all = *worst;
		return;
	}
	if (bad == 0)
		return;
	text_copy(text, sizeof text, good == 0 ?
	    "The message was not accepted for anyone" :
	    "Some recipients have the message, and some have not");
	list_recipients(env, r, false, text, sizeof text,
	    good == 0 ? 40 : 440);
	if (good > 0) {
		list_recipients(env, r, true, text, sizeof text, 40);
		log_partial(log, env, r, good, bad);
	}
	reply_set(all, worst->code, worst->enh, text);
}
