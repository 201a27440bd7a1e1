/*
 * show.c - a message as a person reads it, for "show:" and --show.
 *
 *	==> me@example.org to you@example.net
 *	    Subject: Hello
 *	    text/plain 10 octets; "photo.jpg" image/jpeg 1.2 MB
 *
 *	    It works.
 */
#include "relay/show.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mime.h"
#include "base/text.h"

#define NAMES_MAX 10	/* recipients that are named */

#define BOLD "\033[1m"
#define CYAN "\033[36m"
#define FAINT "\033[2m"
#define PLAIN "\033[0m"

/* Does the character at p, of n octets, change the direction of writing?
   U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069. */
static bool
turns(const char *p, size_t n)
{
	const unsigned char *u = (const unsigned char *)p;

	return n == 3 && u[0] == 0xe2 && ((u[1] == 0x80 &&
	    ((u[2] | 1) == 0x8f || (u[2] >= 0xaa && u[2] <= 0xae))) ||
	    (u[1] == 0x81 && u[2] >= 0xa6 && u[2] <= 0xa9));
}

void
show_visibly(struct spool *to, const char *p, size_t len)
{
	char code[8];
	size_t n, run = 0;

	while (run < len) {
		n = text_printable(p + run, len - run);
		if (n == 0 && (p[run] == '\n' || p[run] == '\t'))
			n = 1;
		if (n > 0 && !turns(p + run, n)) {
			run += n;
			continue;
		}
		spool_write(to, p, run);
		snprintf(code, sizeof code, "\\x%02x", (unsigned char)p[run]);
		spool_write(to, code, strlen(code));
		p += run + 1;
		len -= run + 1;
		run = 0;
	}
	spool_write(to, p, run);
}

bool
show_colours(int fd)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(fd) && (no == NULL || *no == '\0') && term != NULL &&
	    strcmp(term, "dumb") != 0;
}

/* One message that is being shown. */
struct show {
	struct spool *to;
	bool colours;
	/* Text, of which the last octets may be the beginning of a character,
	   or of CRLF: */
	char text[4096];
	size_t len;
	char last;		/* octet that was shown */
};

static void
put(struct show *s, const char *text)
{
	spool_write(s->to, text, strlen(text));
}

static void
paint(struct show *s, const char *colour)
{
	if (s->colours)
		put(s, colour);
}

/* A name, which is one line whatever is in it. */
static void
put_name(struct show *s, const char *name)
{
	size_t n;

	while (n = strcspn(name, "\n\t"), n > 0 || *name != '\0') {
		show_visibly(s->to, name, n);
		name += n;
		if (*name != '\0') {
			put(s, " ");
			name++;
		}
	}
}

/* "12 octets", "1.2 kB", "3.4 MB" */
static void
put_size(struct show *s, uint64_t size)
{
	char text[48];

	if (size < 1000)
		snprintf(text, sizeof text, " %u octet%s", (unsigned)size,
		    size == 1 ? "" : "s");
	else if (size < 1000000)
		snprintf(text, sizeof text, " %.1f kB", (double)size / 1e3);
	else
		snprintf(text, sizeof text, " %.1f MB", (double)size / 1e6);
	put(s, text);
}

static void
put_path(struct show *s, const char *address)
{
	if (*address == '\0')
		put(s, "<>");
	put_name(s, address);
}

static void
put_envelope(struct show *s, const struct envelope *env)
{
	char more[48];
	size_t i;

	paint(s, BOLD);
	put(s, "==> ");
	put_path(s, env->fact[FACT_SENDER]);
	put(s, " to ");
	for (i = 0; i < env->nrecipients && i < NAMES_MAX; i++) {
		put(s, i > 0 ? ", " : "");
		put_path(s, env->recipients[i].address);
	}
	if (i < env->nrecipients) {
		snprintf(more, sizeof more, " and %zu more",
		    env->nrecipients - i);
		put(s, more);
	}
	paint(s, PLAIN);
	put(s, "\n");
}

static bool
is_text(const struct mime_part *p)
{
	return !p->attachment && (text_starts(p->type, "text/") ||
	    text_starts(p->type, "multipart/"));
}

/* Octets of a part once it is decoded. */
static uint64_t
decoded_size(const struct mime_part *p)
{
	char octets[4096];
	uint64_t size = 0;
	size_t at = 0, n;

	if (p->encoding == MIME_PLAIN)
		return p->body.len;
	while ((n = mime_decode(p->encoding, p->body, &at, octets,
	    sizeof octets)) > 0)
		size += n;
	return size;
}

static void
put_part(struct show *s, const struct mime_part *p)
{
	if (p->name[0] != '\0') {
		put(s, "\"");
		put_name(s, p->name);
		put(s, "\" ");
	} else if (p->attachment) {
		put(s, "attachment ");
	}
	put_name(s, p->type);
	if (is_text(p) && !mime_charset_known(p->charset)) {
		put(s, " in ");
		put_name(s, p->charset);
	}
}

static void
put_parts(struct show *s, const struct mime *m)
{
	paint(s, FAINT);
	for (size_t i = 0; i < m->n; i++) {
		put(s, i > 0 ? "; " : "    ");
		put_part(s, &m->part[i]);
		if (!m->part[i].message)
			put_size(s, decoded_size(&m->part[i]));
	}
	put(s, m->more ? "; and more\n" : "\n");
	paint(s, PLAIN);
}

/* Shows lines, each further to the right than ours: none can pass for one of
   them, or for a record in the log. */
static void
put_lines(struct show *s, const char *p, size_t len)
{
	size_t n;

	for (; len > 0; p += n, len -= n) {
		n = text_line(p, len);
		if (s->last == '\n' && *p != '\n')
			put(s, "    ");
		show_visibly(s->to, p, n);
		s->last = p[n - 1];
	}
}

/* Shows what is gathered, but for what may be half of something, unless this
   is the end. */
static void
flush_text(struct show *s, bool end)
{
	size_t keep = 0;

	for (size_t i = 1; !end && i < 4 && i <= s->len; i++) {
		unsigned char c = (unsigned char)s->text[s->len - i];

		if ((c >= 0xc0 && text_printable(s->text + s->len - i,
		    i) == 0) || (i == 1 && c == '\r'))
			keep = i;
		if (c < 0x80 || c >= 0xc0)
			break;
	}
	put_lines(s, s->text, s->len - keep);
	memmove(s->text, s->text + s->len - keep, keep);
	s->len = keep;
}

static void
add_shown(struct show *s, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (s->len == sizeof s->text)
			flush_text(s, false);
		if (p[i] == '\n' && s->len > 0 && s->text[s->len - 1] == '\r')
			s->len--;
		s->text[s->len++] = p[i];
	}
}

/* The text of a part, decoded, and a line end after it. */
static void
put_text(struct show *s, const struct mime_part *p)
{
	char octets[4096], utf8[4];
	size_t at = 0, n, len;

	s->last = '\n';
	while ((n = mime_decode(p->encoding, p->body, &at, octets,
	    sizeof octets)) > 0)
		for (size_t i = 0; i < n; i++) {
			len = mime_utf8(p->charset, (unsigned char)octets[i],
			    utf8);
			add_shown(s, utf8, len);
		}
	flush_text(s, true);
	if (s->last != '\n')
		put(s, "\n");
}

static void
put_texts(struct show *s, const struct mime *m)
{
	for (size_t i = 0; i < m->n; i++) {
		const struct mime_part *p = &m->part[i];

		if (!is_text(p) && !p->message)
			continue;
		put(s, "\n");
		if (m->n > 1) {
			paint(s, FAINT);
			put(s, "    -- ");
			put_part(s, p);
			put(s, "\n");
			paint(s, PLAIN);
		}
		if (!p->message)
			put_text(s, p);
	}
}

void
show_message(struct spool *to, const struct envelope *env,
    struct span message, bool colours)
{
	struct show *s = calloc(1, sizeof *s);
	struct mime *m = malloc(sizeof *m);

	if (s == NULL || m == NULL) {
		to->error = ENOMEM;
		goto out;
	}
	s->to = to;
	s->colours = colours;
	mime_read(m, message);
	put_envelope(s, env);
	paint(s, CYAN);
	put(s, m->subject[0] != '\0' ? "    Subject: " : "    No subject");
	put_name(s, m->subject);
	paint(s, PLAIN);
	put(s, "\n");
	put_parts(s, m);
	put_texts(s, m);
	put(s, "\n");
out:
	free(m);
	free(s);
}
