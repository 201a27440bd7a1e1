/*
 * mailbox.c - reads who a header field names.
 *
 * An address begins with words and dots; what comes next says what they were:
 * '@' a local part, '<' a display name, ':' the name of a group, and anything
 * else a local part without a domain.
 */
#include "base/mailbox.h"

#include <string.h>

#include "base/text.h"

struct reader {
	const char *p, *end;
	struct mailbox_list *l;
	bool group;		/* we are in one */
};

/* Words with what separates them. */
struct words {
	struct span all;	/* from the first octet to the last */
	size_t count;		/* words */
	bool local;		/* they could be a local part */
};

/* Octets of a line end that a blank follows (RFC 5322 2.2.3), or 0. */
static size_t
fold_length(const char *p, const char *end)
{
	size_t n = p < end && *p == '\r';

	if (p + n >= end || p[n] != '\n' || p + n + 1 >= end ||
	    (p[n + 1] != ' ' && p[n + 1] != '\t'))
		return 0;
	return n + 1;
}

/* Moves after "\x", or an octet, of a comment or a quoted string.  False if
   none can stand there. */
static bool
skip_quoted(struct reader *r)
{
	size_t fold = fold_length(r->p, r->end);

	if (fold == 0 && *r->p == '\\' && ++r->p == r->end)
		return false;
	if (fold == 0 && text_is_control(*r->p) && *r->p != '\t')
		return false;
	r->p += fold > 0 ? fold : 1;
	return true;
}

static bool
skip_comment(struct reader *r)
{
	size_t depth = 0;

	while (r->p < r->end) {
		if (*r->p == '(')
			depth++;
		else if (*r->p == ')' && --depth == 0)
			return r->p++, true;
		if (!skip_quoted(r))
			return false;
	}
	return false;
}

/* Blanks and comments. */
static bool
skip_blanks(struct reader *r)
{
	size_t fold;

	while (r->p < r->end)
		if (*r->p == ' ' || *r->p == '\t')
			r->p++;
		else if ((fold = fold_length(r->p, r->end)) > 0)
			r->p += fold;
		else if (*r->p != '(')
			break;
		else if (!skip_comment(r))
			return false;
	return true;
}

/* "=?utf-8?Q?Jo?=": returns its octets, or 0.  RFC 2047 5 forbids special
   characters in it, and there are programs that write them. */
static size_t
encoded_length(const char *p, const char *end)
{
	const char *start = p;
	unsigned marks = 0;

	if (end - p < 2 || p[0] != '=' || p[1] != '?')
		return 0;
	for (p++; p < end && *p > ' ' && *p < '\177'; p++) {
		if (*p == '?' && ++marks == 4)
			return p + 1 < end && p[1] == '='
			    ? (size_t)(p + 2 - start) : 0;
		if (marks == 2 && *p != '?' && (strchr("bBqQ", *p) == NULL ||
		    p[-1] != '?'))
			return 0;
	}
	return 0;
}

/* RFC 5322 3.2.3, RFC 6532 3.2. */
static bool
is_atext(char c)
{
	return (unsigned char)c > ' ' && c != '\177' &&
	    strchr("()<>[]:;@\\,.\"", c) == NULL;
}

/* Moves after the word that begins at r->p; stays if there is none.  False if
   it has no end. */
static bool
skip_word(struct reader *r)
{
	size_t len = encoded_length(r->p, r->end);

	if (r->p < r->end && *r->p == '"') {
		for (r->p++; r->p < r->end && *r->p != '"';)
			if (!skip_quoted(r))
				return false;
		return r->p++ < r->end;
	}
	r->p += len;
	while (len == 0 && r->p < r->end && is_atext(*r->p))
		r->p++;
	return true;
}

/* Reads words and dots, as far as there are any, and the blanks after them. */
static bool
read_words(struct reader *r, struct words *w)
{
	bool dot = true;

	*w = (struct words){ { r->p, 0 }, 0, true };
	for (;;) {
		const char *start = r->p;

		if (r->p < r->end && *r->p == '.')
			r->p++;
		else if (!skip_word(r))
			return false;
		if (r->p == start)
			break;
		if (*start != '.') {
			w->local = w->local && dot;
			w->count++;
		}
		dot = *start == '.';
		w->all.len = (size_t)(r->p - w->all.p);
		if (!skip_blanks(r))
			return false;
	}
	w->local = w->local && w->count > 0;
	return true;
}

/* Moves after "[192.0.2.1]". */
static bool
skip_literal(struct reader *r)
{
	for (r->p++; r->p < r->end && *r->p != ']'; r->p++)
		if (*r->p <= ' ' || *r->p == '\177' || *r->p == '[' ||
		    *r->p == '\\')
			return false;
	return r->p++ < r->end;
}

/* Reads a domain and the blanks after it; *end becomes where it ends. */
static bool
read_domain(struct reader *r, const char **end)
{
	bool word = false;

	if (!skip_blanks(r))
		return false;
	if (r->p < r->end && *r->p == '[') {
		if (!skip_literal(r))
			return false;
		*end = r->p;
		return skip_blanks(r);
	}
	while (r->p < r->end && (is_atext(*r->p) || *r->p == '.')) {
		/* A dot is between two labels. */
		if ((*r->p == '.') != word)
			return false;
		if (*r->p == '.')
			r->p++;
		while (!word && r->p < r->end && is_atext(*r->p))
			r->p++;
		word = !word;
		*end = r->p;
		if (!skip_blanks(r))
			return false;
	}
	return word;
}

/* "@a.example,@b.example:", which is obsolete and means nothing. */
static bool
skip_route(struct reader *r)
{
	const char *end;

	if (r->p >= r->end || *r->p != '@')
		return true;
	while (r->p < r->end && *r->p != ':') {
		if (*r->p == ',')
			r->p++;
		else if (*r->p != '@' || (r->p++, !read_domain(r, &end)))
			return false;
		if (!skip_blanks(r))
			return false;
	}
	return r->p++ < r->end && skip_blanks(r);
}

static void
add_mailbox(struct reader *r, struct span address, bool domain)
{
	struct mailbox_list *l = r->l;

	if (l->count++ == 0)
		l->address = address;
	l->whole = l->whole && domain;
	l->one = l->one && l->count == 1 && !r->group;
}

static void
add_name(struct reader *r, const struct words *w)
{
	if (r->l->name.len == 0)
		r->l->name = w->all;
}

/* What follows the words of a local part: its domain, perhaps. */
static bool
read_address(struct reader *r, const struct words *w, bool *domain,
    const char **end)
{
	*end = w->all.p + w->all.len;
	*domain = r->p < r->end && *r->p == '@';
	if (!w->local)
		return false;
	if (!*domain)
		return true;
	r->p++;
	return read_domain(r, end);
}

/* "<jo@example.org>". */
static bool
read_angle(struct reader *r)
{
	const char *start = ++r->p, *end;
	struct words w;
	bool domain;

	if (!skip_blanks(r) || !skip_route(r) || !read_words(r, &w) ||
	    !read_address(r, &w, &domain, &end) || r->p >= r->end ||
	    *r->p != '>')
		return false;
	add_mailbox(r, (struct span){ start, (size_t)(r->p - start) }, domain);
	r->p++;
	return skip_blanks(r);
}

/* One element of a list, if there is any: RFC 5322 4.4 has empty ones. */
static bool
read_element(struct reader *r)
{
	const char *end;
	struct words w;
	bool domain;

	if (!skip_blanks(r) || !read_words(r, &w))
		return false;
	if (r->p < r->end && *r->p == '<') {
		if (w.all.len > 0 && w.count == 0)
			return false;
		add_name(r, &w);
		return read_angle(r);
	}
	if (r->p < r->end && *r->p == ':' && !r->group && w.count > 0) {
		r->p++;
		add_name(r, &w);
		r->l->one = false;
		r->group = true;
		return true;
	}
	if (w.all.len == 0)
		return true;
	if (!read_address(r, &w, &domain, &end))
		return false;
	add_mailbox(r, (struct span){ w.all.p, (size_t)(end - w.all.p) },
	    domain);
	return true;
}

bool
mailbox_read(struct span value, struct mailbox_list *l)
{
	struct reader r = { value.p, value.p + value.len, l, false };
	bool groups = false, inside;

	*l = (struct mailbox_list){ .whole = true, .one = true };
	for (;;) {
		inside = r.group;
		if (!read_element(&r))
			return false;
		if (r.group && !inside) {	/* its list comes */
			groups = true;
			continue;
		}
		if (r.group && r.p < r.end && *r.p == ';') {
			r.p++;
			r.group = false;
			if (!skip_blanks(&r))
				return false;
		}
		if (r.p == r.end)
			break;
		if (*r.p != ',')
			return false;
		r.p++;
	}
	l->one = l->one && l->count == 1;
	return !r.group && (l->count > 0 || groups);
}
