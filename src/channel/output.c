/*
 * output.c - replies: how they are written, counted and kept until sent.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "channel/private.h"

#define REPLY_LINE 480	/* octets of text in one line; RFC 5321 4.5.3.1.5 */

static const char crlf[] = "\r\n", stars[] = "********";

void
reply_deny(struct reply *r, int code, const char *enh, const char *text)
{
	if (r->code < 400)
		reply_set(r, code, enh, text);
}

static void
append_output(struct channel *ch, const char *p, size_t len)
{
	size_t size = ch->outsize;
	char *out;

	while (size - ch->outlen < len)
		size *= 2;
	if (size != ch->outsize && !ch->failed) {
		out = realloc(ch->out == ch->first ? NULL : ch->out, size);
		if (out == NULL) {
			ch->failed = true;
			ch->want = WANT_CLOSE;
		} else {
			if (ch->out == ch->first)
				memcpy(out, ch->first, ch->outlen);
			ch->out = out;
			ch->outsize = size;
		}
	}
	if (ch->failed)
		return;
	memcpy(ch->out + ch->outlen, p, len);
	ch->outlen += len;
}

/* Tells the log the line of a reply that begins at start of the output; so many
   octets of it are its codes. */
static void
log_reply(const struct channel *ch, size_t start, size_t codes)
{
	struct span line = { ch->out + start, ch->outlen - start };
	char masked[32];

	if (ch->hooks->dialogue == NULL || ch->failed)
		return;
	if (ch->hushed && codes + sizeof stars <= sizeof masked) {
		memcpy(masked, line.p, codes);
		memcpy(masked + codes, stars, sizeof stars);
		line = span_of(masked);
	}
	ch->hooks->dialogue(ch->ctx, true, line);
}

/* UTF-8 goes only to clients that asked for it (RFC 6531 3.7.4.2). */
void
reply_line(struct channel *ch, int code, bool more, const char *enh,
    struct span text)
{
	const char head[] = { (char)('0' + code / 100),
		(char)('0' + code / 10 % 10), (char)('0' + code % 10),
		more ? '-' : ' ' };
	size_t start = ch->outlen, codes;
	char c;

	append_output(ch, head, sizeof head);
	append_output(ch, enh, strlen(enh));
	append_output(ch, " ", enh[0] != '\0');
	codes = ch->outlen - start;
	for (size_t i = 0; i < text.len; i++) {
		c = text.p[i];
		if (text_is_control(c) || (octet_high(c) && !ch->smtp_utf8))
			c = '?';
		append_output(ch, &c, 1);
	}
	log_reply(ch, start, codes);
	append_output(ch, crlf, 2);
}

struct span
reply_next_line(int code, const char **text)
{
	struct span s = { *text, 0 };
	size_t most = code == 334 ? REPLY_TEXT : REPLY_LINE;

	while (s.p[s.len] != '\0' && s.p[s.len] != '\n' && s.len < most)
		s.len++;
	*text += s.len;
	if (**text == '\n')
		++*text;
	return s;
}

void
reply_say(struct channel *ch, int code, const char *enh, const char *text)
{
	char named[REPLY_TEXT];
	const char *unnamed;
	struct span line;
	bool bye = code == 221 || code == 421;

	assert(200 <= code && code <= 599);
	if (ch->smtp_state == PHASE_CLOSED)
		return;
	if (!ch->extended_smtp || code / 100 == 3 ||
	    is_hidden(ch, EXT_ENHANCEDSTATUSCODES))
		enh = "";
	if (bye) {	/* RFC 5321 4.2 */
		unnamed = text;
		text = text_join(named, sizeof named, ch->set->fqdn, " ", text,
		    NULL);
		if (code == 421)
			text_join(ch->farewell, sizeof ch->farewell, "421 ",
			    enh, *enh == '\0' ? "" : " ", unnamed, NULL);
		ch->smtp_state = PHASE_CLOSED;
		ch->want = WANT_CLOSE;
	}
	do {
		line = reply_next_line(code, &text);
		reply_line(ch, code, *text != '\0', enh, line);
	} while (*text != '\0');
}

void
reply_note(struct channel *ch, int code, const char *enh, const char *text)
{
	if (code >= 400 && ch->errors++ == 0)
		reply_set(&ch->refusal, code, enh, ch->hushed ? stars : text);
}

void
channel_reply(struct channel *ch, int code, const char *enh, const char *text)
{
	unsigned max = ch->set->max_errors;

	reply_note(ch, code, enh, text);
	if (code >= 400 && code != 421 && ch->errors > max && max != 0)
		reply_say(ch, 421, "4.7.0", "Too many errors");
	else
		reply_say(ch, code, enh, text);
}

void
reply_answer(struct channel *ch, const struct reply *r)
{
	channel_reply(ch, r->code, r->enh, r->text);
}

void
channel_close(struct channel *ch, int code, const char *enh, const char *text)
{
	channel_reply(ch, code, enh, text);
	ch->smtp_state = PHASE_CLOSED;
	ch->want = WANT_CLOSE;
}

const char *
channel_output(const struct channel *ch, size_t *len)
{
	*len = ch->outlen - ch->outsent;
	return *len == 0 ? "" : ch->out + ch->outsent;
}

void
channel_sent(struct channel *ch, size_t len)
{
	assert(len <= ch->outlen - ch->outsent);
	ch->outsent += len;
	if (ch->outsent > ch->outlen / 2) {	/* true if all is sent */
		ch->outlen -= ch->outsent;
		memmove(ch->out, ch->out + ch->outsent, ch->outlen);
		ch->outsent = 0;
	}
}
