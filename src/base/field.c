/*
 * field.c - finds the header fields of a message in its octets.
 *
 * A field is over where a line begins that does not continue it, so it is told
 * when that line's first octet is there.  A line's name is known at its colon:
 * until then a line may turn out to be the body's first.
 */
#include "base/field.h"

#include <string.h>

enum state {
	AT_LINE,	/* at the first octet of a line */
	IN_NAME,	/* before the colon or blanks */
	IN_BLANKS,	/* between name and colon */
	IN_VALUE,
	AT_CR,		/* a line begins with CR: is LF next? */
	IN_BODY
};

#define HASH_START 2166136261U

/* FNV-1a. */
static uint32_t
add_octet(uint32_t hash, char c)
{
	if (c >= 'A' && c <= 'Z')
		c = (char)(c | 0x20);
	return (hash ^ (unsigned char)c) * 16777619U;
}

uint32_t
field_hash(const char *name, size_t len)
{
	uint32_t hash = HASH_START;

	for (size_t i = 0; i < len; i++)
		hash = add_octet(hash, name[i]);
	return hash;
}

void
field_open(struct field_reader *r, bool crlf)
{
	memset(r, 0, sizeof *r);
	r->crlf = crlf;
	r->state = AT_LINE;
}

/* Hands out the field that was read. */
static void
end_field(struct field_reader *r)
{
	r->field = r->next;
	r->next.value = 0;
}

/* The header is over at offset body. */
static void
end_header(struct field_reader *r, uint64_t body, bool empty_line)
{
	r->state = IN_BODY;
	r->body = body;
	r->empty_line = empty_line;
}

/* Takes the rest of a line whose value is being read. */
static void
take_value(struct field_reader *r, const char *p, size_t len)
{
	const char *lf = memchr(p, '\n', len);
	size_t n = lf == NULL ? len : (size_t)(lf - p) + 1;
	bool cr = lf == NULL || lf == p ? r->cr && lf == p : lf[-1] == '\r';

	r->at += n;
	r->cr = lf == NULL && p[len - 1] == '\r';
	if (lf != NULL && (cr || !r->crlf)) {
		r->next.lines++;
		r->next.end = r->at;
		r->state = AT_LINE;
	}
}

/* Takes one octet of a line that may begin a field. */
static void
take_name(struct field_reader *r, char c)
{
	struct field *f = &r->next;

	r->at++;
	if (c == ':' && f->name > 0) {
		f->value = r->at;
		r->cr = false;
		r->state = IN_VALUE;
	} else if (c == ' ' || c == '\t') {
		r->state = IN_BLANKS;
	} else if (r->state == IN_NAME && c > ' ' && c < '\177' && c != ':' &&
	    f->name < FIELD_NAME_MAX) {
		f->name++;
		f->hash = add_octet(f->hash, c);
	} else {
		end_header(r, r->line, false);
	}
}

/* A line begins with c.  Returns false if that is not used yet: a field is to
   be handed out first. */
static bool
begin_line(struct field_reader *r, char c)
{
	if ((c == ' ' || c == '\t') && r->next.value != 0) {
		r->cr = false;
		r->state = IN_VALUE;
		return true;
	}
	if (r->next.value != 0)
		return false;
	r->line = r->at;
	if (c == '\r' && r->crlf) {
		r->at++;
		r->state = AT_CR;
	} else if (c == '\n' && !r->crlf) {
		r->at++;
		end_header(r, r->at, true);
	} else if (c == ' ' || c == '\t') {
		end_header(r, r->line, false);
	} else {
		memset(&r->next, 0, sizeof r->next);
		r->next.at = r->at;
		r->next.hash = HASH_START;
		r->state = IN_NAME;
		take_name(r, c);
	}
	return true;
}

enum field_found
field_feed(struct field_reader *r, const char *p, size_t len, size_t *used)
{
	const uint64_t start = r->at;

	for (*used = 0; *used < len; *used = (size_t)(r->at - start)) {
		switch ((enum state)r->state) {
		case AT_LINE:
			if (!begin_line(r, p[*used])) {
				end_field(r);
				return FIELD_ONE;
			}
			break;
		case IN_NAME:
		case IN_BLANKS:
			take_name(r, p[*used]);
			break;
		case IN_VALUE:
			take_value(r, p + *used, len - *used);
			break;
		case AT_CR:
			r->at++;
			if (p[*used] == '\n')
				end_header(r, r->at, true);
			else
				end_header(r, r->line, false);
			break;
		case IN_BODY:
			return FIELD_BODY;
		}
	}
	return r->state == IN_BODY ? FIELD_BODY : FIELD_MORE;
}

enum field_found
field_finish(struct field_reader *r)
{
	if (r->state == IN_VALUE)	/* its last line has no end */
		r->next.end = r->at;
	if (r->next.value != 0) {
		end_field(r);
		r->line = r->at;
		r->state = AT_LINE;
		return FIELD_ONE;
	}
	if (r->state != IN_BODY)
		end_header(r, r->state == AT_LINE ? r->at : r->line, false);
	return FIELD_BODY;
}
