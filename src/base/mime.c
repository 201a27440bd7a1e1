/*
 * mime.c - finds the parts of a message.
 *
 * Entities are read one after the other, as they stand: a header, then a body
 * up to the next delimiter of any multipart that is open (RFC 2046 5.1.2: an
 * outer delimiter ends the inner ones too).  A multipart whose delimiter does
 * not come, or comes as its end, is text.
 */
#include "base/mime.h"

#include <string.h>
#include <strings.h>

#include "base/field.h"
#include "base/text.h"

#define BOUNDARY_MAX 256	/* octets, with NUL; RFC 2046 5.1.1 says 70 */

struct reader {
	struct span message;
	bool crlf;
	char boundary[MIME_DEPTH][BOUNDARY_MAX];	/* of open multiparts */
	size_t depth;		/* how many are open */
	size_t at;		/* the next octet */
};

/* The values of an entity's fields; p is NULL where there is none. */
struct header {
	struct span type, disposition, encoding, subject;
};

/* A line that ends a body. */
struct delimiter {
	bool found;
	bool close;		/* it ends the multipart */
	size_t at, next;	/* its first octet, and the next line's */
	size_t level;		/* whose it is */
};

static void
read_fields(struct reader *r, struct header *h)
{
	struct span rest = { r->message.p + r->at, r->message.len - r->at };
	struct field_reader f;
	enum field_found found = FIELD_MORE;
	size_t used = 0, n;
	const struct { const char *name; struct span *to; } wanted[] = {
		{ "content-type", &h->type }, { "subject", &h->subject },
		{ "content-disposition", &h->disposition },
		{ "content-transfer-encoding", &h->encoding }
	};

	memset(h, 0, sizeof *h);
	field_open(&f, r->crlf);
	while (found != FIELD_BODY) {
		if (used < rest.len) {
			found = field_feed(&f, rest.p + used, rest.len - used,
			    &n);
			used += n;
		} else {
			found = field_finish(&f);
		}
		for (size_t i = 0; found == FIELD_ONE && i < COUNT(wanted); i++)
			if (f.field.name == strlen(wanted[i].name) &&
			    strncasecmp(rest.p + f.field.at, wanted[i].name,
			    f.field.name) == 0 && wanted[i].to->p == NULL)
				*wanted[i].to = (struct span){
					rest.p + f.field.value,
					(size_t)(f.field.end - f.field.value)
				};
	}
	r->at += (size_t)f.body;
}

/* Copies the word that a value begins with, in lower case, cut to fit. */
static void
copy_word(struct span s, char *to, size_t size)
{
	size_t n = 0;

	while (s.len > 0 && strchr(" \t\r\n", *s.p) != NULL && *s.p != '\0') {
		s.p++;
		s.len--;
	}
	for (; s.len > 0 && n + 1 < size && *s.p > ' ' && *s.p < '\177' &&
	    strchr(";(,", *s.p) == NULL; s.p++, s.len--)
		to[n++] = *s.p >= 'A' && *s.p <= 'Z' ? (char)(*s.p | 0x20)
		    : *s.p;
	to[n] = '\0';
}

/* What a header says of the part. */
static void
describe_part(const struct header *h, struct mime_part *p)
{
	char word[32];

	memset(p, 0, sizeof *p);
	copy_word(h->type, p->type, sizeof p->type);
	if (strchr(p->type, '/') == NULL)	/* RFC 2045 5.2 */
		text_copy(p->type, sizeof p->type, "text/plain");
	copy_word(h->encoding, word, sizeof word);
	p->encoding = strcmp(word, "base64") == 0 ? MIME_BASE64
	    : strcmp(word, "quoted-printable") == 0 ? MIME_QUOTED : MIME_PLAIN;
	copy_word(h->disposition, word, sizeof word);
	p->attachment = strcmp(word, "attachment") == 0;
	mime_parameter(h->type, "charset", word, sizeof word);
	copy_word(span_of(word), p->charset, sizeof p->charset);
	if (!mime_parameter(h->disposition, "filename", p->name,
	    sizeof p->name))
		mime_parameter(h->type, "name", p->name, sizeof p->name);
}

/* Whose delimiter is the line s, without its line end?  False: nobody's. */
static bool
is_delimiter(const struct reader *r, struct span s, struct delimiter *d)
{
	size_t n, i;

	if (s.len < 3 || s.p[0] != '-' || s.p[1] != '-')
		return false;
	for (d->level = r->depth; d->level-- > 0; ) {
		n = strlen(r->boundary[d->level]);
		if (s.len - 2 < n ||
		    memcmp(s.p + 2, r->boundary[d->level], n) != 0)
			continue;
		i = n + 2;
		d->close = s.len - i >= 2 && s.p[i] == '-' && s.p[i + 1] == '-';
		if (d->close)
			return true;
		while (i < s.len && (s.p[i] == ' ' || s.p[i] == '\t' ||
		    s.p[i] == '\r'))
			i++;
		if (i == s.len)
			return true;
	}
	return false;
}

/* Finds the next delimiter, from the beginning of a line on. */
static struct delimiter
find_delimiter(const struct reader *r, size_t at)
{
	struct delimiter d = { .found = false };
	const struct span m = r->message;
	const char *lf;

	for (; r->depth > 0 && at < m.len; at = d.next) {
		lf = memchr(m.p + at, '\n', m.len - at);
		d.next = lf == NULL ? m.len : (size_t)(lf + 1 - m.p);
		if (!is_delimiter(r, (struct span){ m.p + at, d.next - at -
		    (lf != NULL) }, &d))
			continue;
		d.at = at;
		d.found = true;
		return d;
	}
	d.at = d.next = m.len;
	return d;
}

/* The body from at up to a delimiter, to which the line end before it
   belongs. */
static struct span
body_before(const struct reader *r, size_t at, const struct delimiter *d)
{
	size_t end = d->at;

	if (d->found && end > at) {
		end--;
		if (end > at && r->message.p[end - 1] == '\r')
			end--;
	}
	return (struct span){ r->message.p + at, end - at };
}

/* Goes to the next entity after a delimiter.  False if there is none. */
static bool
next_entity(struct reader *r, struct delimiter d)
{
	while (d.found) {
		r->depth = d.level + !d.close;
		r->at = d.next;
		if (!d.close)
			return true;
		d = find_delimiter(r, d.next);
	}
	return false;
}

/* Reads one entity: what it is goes to p.  Returns whether that is a part; *d
   becomes the delimiter at which to go on. */
static bool
read_entity(struct reader *r, const struct header *h, struct mime_part *p,
    struct delimiter *d)
{
	describe_part(h, p);
	if (text_starts(p->type, "multipart/") && r->depth < MIME_DEPTH &&
	    mime_parameter(h->type, "boundary", r->boundary[r->depth],
	    BOUNDARY_MAX) && r->boundary[r->depth][0] != '\0') {
		r->depth++;
		*d = find_delimiter(r, r->at);
		if (d->found && d->level == r->depth - 1 && !d->close)
			return false;
		r->depth--;
	} else {
		*d = find_delimiter(r, r->at);
	}
	p->body = body_before(r, r->at, d);
	return true;
}

void
mime_read(struct mime *m, struct span message)
{
	static const struct span none = { "", 0 };
	const char *lf = message.len > 0 ? memchr(message.p, '\n', message.len)
	    : NULL;
	struct reader r = { .message = message.len > 0 ? message : none,
		.crlf = lf != NULL && lf > message.p && lf[-1] == '\r' };
	struct delimiter d;
	struct mime_part *p;
	struct header h;

	m->n = 0;
	m->more = false;
	read_fields(&r, &h);
	mime_words(h.subject, m->subject, sizeof m->subject);
	for (;;) {
		p = &m->part[m->n];
		if (!read_entity(&r, &h, p, &d)) {
			if (!next_entity(&r, d))
				break;
			read_fields(&r, &h);
			continue;
		}
		m->n++;
		p->message = strcmp(p->type, "message/rfc822") == 0 &&
		    p->encoding == MIME_PLAIN;
		if (!p->message && !next_entity(&r, d))
			break;
		if (m->n == MIME_PARTS) {
			m->more = true;
			break;
		}
		read_fields(&r, &h);
		if (p->message) {
			p->body.len = 0;
			mime_words(h.subject, p->name, sizeof p->name);
		}
	}
}
