/*
 * header.c - keeps the client's first line out of the header fields that are
 * written in front of a message, and counts its Received: fields.
 *
 * Only the first line matters: a later one can continue nothing but a field of
 * the client's own.  It is held until it is known whether it is a field; a
 * line that is held too long is none.
 */
#include <stdint.h>
#include <string.h>

#include "session/header.h"

#define MAILBOX_LINE "X-Mailbox-Line: "

/* What the beginning of a message is. */
enum beginning {
	BEGINS_UNKNOWN,	/* more octets decide */
	BEGINS_FIELD,	/* a header field, maybe after mbox separators */
	BEGINS_EMPTY,	/* an empty line: the client sent no header */
	BEGINS_TEXT	/* neither */
};

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* RFC 5322 3.6.8 and 4.5: a name, maybe blanks, and a colon. */
static enum beginning
read_field_name(const char *p, size_t len)
{
	size_t i = 0;

	while (i < len && p[i] > ' ' && p[i] < '\177' && p[i] != ':')
		i++;
	if (i == 0 && len > 0)
		return BEGINS_TEXT;
	while (i < len && is_blank(p[i]))
		i++;
	if (i == len)
		return BEGINS_UNKNOWN;
	return p[i] == ':' ? BEGINS_FIELD : BEGINS_TEXT;
}

/* The length of the mbox separator at p[0..len) with its CRLF; 0 if there is
   none, SIZE_MAX if more octets decide. */
static size_t
separator_length(const char *p, size_t len)
{
	static const char from[] = "From ";
	size_t i = 0, n;

	while (i < len && p[i] == '>')
		i++;
	n = len - i < sizeof from - 1 ? len - i : sizeof from - 1;
	if (memcmp(p + i, from, n) != 0)
		return 0;
	for (i += n; i < len && ((unsigned char)p[i] >= ' ' || p[i] == '\t');)
		i++;
	if (i == len || (p[i] == '\r' && i + 1 == len))
		return SIZE_MAX;
	return p[i] == '\r' && p[i + 1] == '\n' ? i + 2 : 0;
}

/* Tells what p[0..len) begins with; *skip octets of it are separators. */
static enum beginning
read_beginning(const char *p, size_t len, size_t *skip)
{
	enum beginning is;
	size_t n;

	for (*skip = 0;; *skip += n, p += n, len -= n) {
		if (len > 0 && *p == '\r' && *skip == 0)
			return len == 1 ? BEGINS_UNKNOWN
			    : p[1] == '\n' ? BEGINS_EMPTY : BEGINS_TEXT;
		is = read_field_name(p, len);
		if (is != BEGINS_TEXT)
			return is;
		n = separator_length(p, len);
		if (n == 0)
			return BEGINS_TEXT;
		if (n == SIZE_MAX)
			return BEGINS_UNKNOWN;
	}
}

/* Counts Received: fields, up to the empty line. */
static void
count_received(struct header *h, const char *p, size_t len)
{
	static const char name[] = "received:";
	const size_t n = sizeof name - 1;
	const char *lf;
	char c;

	for (size_t i = 0; i < len && !h->body; i++) {
		if (h->column > n) {	/* only a line's first octets matter */
			lf = memchr(p + i, '\n', len - i);
			if (lf == NULL)
				return;
			i = (size_t)(lf - p);
		}
		c = p[i];
		if (h->column < n)
			h->start[h->column] =
			    c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
		h->column++;
		if (h->column == n && memcmp(h->start, name, n) == 0)
			h->received++;
		if (c != '\n')
			continue;
		h->body = h->column <= 2 &&
		    (h->start[0] == '\r' || h->start[0] == '\n');
		h->column = 0;
	}
}

/* Emits the beginning p[0..len), of which the first skip octets are mbox
   separators if it is BEGINS_FIELD. */
static void
emit_beginning(struct header *h, enum beginning is, const char *p, size_t len,
    size_t skip)
{
	size_t n;

	h->decided = true;
	if (is == BEGINS_TEXT && h->guard == GUARD_FIELDS) {
		h->emit(h->ctx, "\r\n", 2);
		h->body = true;
	}
	while (is == BEGINS_FIELD && skip > 0) {
		n = separator_length(p, len);
		h->emit(h->ctx, MAILBOX_LINE, sizeof MAILBOX_LINE - 1);
		h->emit(h->ctx, p, n);
		p += n;
		len -= n;
		skip -= n;
	}
	count_received(h, p, len);
	h->emit(h->ctx, p, len);
}

/* Holds as much of *text as there is room for. */
static void
hold(struct header *h, struct span *text)
{
	size_t n = HEADER_HELD - h->held;

	if (n > text->len)
		n = text->len;
	memcpy(h->hold + h->held, text->p, n);
	h->held += n;
	text->p += n;
	text->len -= n;
}

void
header_open(struct header *h, enum guard guard,
    void (*emit)(void *ctx, const char *p, size_t len), void *ctx)
{
	h->guard = guard;
	h->decided = guard == GUARD_NONE;
	h->body = false;
	h->received = 0;
	h->column = 0;
	h->held = 0;
	h->emit = emit;
	h->ctx = ctx;
}

void
header_feed(struct header *h, struct span text)
{
	enum beginning is;
	size_t skip;

	if (text.len == 0)
		return;
	if (h->decided) {
		count_received(h, text.p, text.len);
		h->emit(h->ctx, text.p, text.len);
		return;
	}
	if (h->held == 0) {	/* mostly it is all here */
		is = read_beginning(text.p, text.len, &skip);
		if (is != BEGINS_UNKNOWN) {
			emit_beginning(h, is, text.p, text.len, skip);
			return;
		}
	}
	hold(h, &text);
	is = read_beginning(h->hold, h->held, &skip);
	if (is == BEGINS_UNKNOWN && h->held < HEADER_HELD)
		return;
	emit_beginning(h, is == BEGINS_UNKNOWN ? BEGINS_TEXT : is, h->hold,
	    h->held, skip);
	header_feed(h, text);
}

void
header_close(struct header *h)
{
	if (!h->decided && h->held > 0)
		emit_beginning(h, BEGINS_TEXT, h->hold, h->held, 0);
}
