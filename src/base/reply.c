/*
 * reply.c - making, comparing and spreading replies.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/reply.h"
#include "base/text.h"

void
reply_set(struct reply *r, int code, const char *enh, const char *text)
{
	char *to = r->text;
	size_t len;

	assert(code >= 200 && code <= 599);
	r->code = code;
	/* RFC 2034 4: its class is that of the reply.  enh may be r->enh. */
	len = text_enhanced(enh);
	if (*enh != '\0' && (enh[len] != '\0' || enh[0] != '0' + code / 100)) {
		memcpy(r->enh, "x.0.0", sizeof "x.0.0");
		r->enh[0] = (char)('0' + code / 100);
		len = code / 100 == 3 ? 0 : sizeof "x.0.0" - 1;
	} else
		memmove(r->enh, enh, len);
	r->enh[len] = '\0';
	for (; *text != '\0' && to < r->text + REPLY_TEXT - 1; text++)
		if (text[0] != '\r' || text[1] != '\n')
			*to++ = *text;
	while (to > r->text && (to[-1] == '\n' || to[-1] == '\r'))
		to--;
	*to = '\0';
	text_make_safe(r->text, r->text, true);
}

void
reply_printf(struct reply *r, int code, const char *enh,
    const char *fmt, ...)
{
	char text[REPLY_TEXT];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	reply_set(r, code, enh, text);
}

bool
reply_same(const struct reply *a, const struct reply *b)
{
	return a->code == b->code && strcmp(a->enh, b->enh) == 0 &&
	    strcmp(a->text, b->text) == 0;
}

void
reply_spread(struct reply r[], size_t n)
{
	size_t i;

	for (i = 1; i < n; i++)
		r[i] = r[0];
}

/* What the client is told when the system refuses something: */
enum told { NO_ROOM, TOO_MANY, NO_MEMORY, MISTAKE, TROUBLE };

static const struct {
	short code;
	char enh[6], text[28];
} told[] = {
	[NO_ROOM] = { 452, "4.3.1", "No room for the message" },
	[TOO_MANY] = { 452, "4.5.3", "Too many recipients" },
	[MISTAKE] = { 451, "4.3.5", "Local configuration error" },
	[NO_MEMORY] = { 452, "4.3.1", "Out of memory" },
	[TROUBLE] = { 451, "4.3.0", "Local error in processing" },
};

static const struct {
	unsigned short error, told;
} failures[] = {
	{ ENOSPC, NO_ROOM }, { EDQUOT, NO_ROOM }, { EFBIG, NO_ROOM },
	{ E2BIG, TOO_MANY }, { EACCES, MISTAKE }, { EISDIR, MISTAKE },
	{ ELOOP, MISTAKE }, { ENAMETOOLONG, MISTAKE }, { ENOENT, MISTAKE },
	{ ENOEXEC, MISTAKE }, { ENOTDIR, MISTAKE }, { ENXIO, MISTAKE },
	{ EPERM, MISTAKE }, { EROFS, MISTAKE }, { 0, TROUBLE },
};

static void
set_told(struct reply *r, enum told n)
{
	reply_set(r, told[n].code, told[n].enh, told[n].text);
}

void
reply_no_memory(struct reply *r)
{
	set_told(r, NO_MEMORY);
}

void
reply_local_error(struct reply *r)
{
	set_told(r, TROUBLE);
}

void
reply_config_error(struct reply *r)
{
	set_told(r, MISTAKE);
}

void
reply_errno(struct reply *r, int error)
{
	size_t i = 0;

	while (failures[i].error != 0 && failures[i].error != error)
		i++;
	set_told(r, (enum told)failures[i].told);
}
