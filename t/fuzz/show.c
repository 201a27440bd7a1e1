/*
 * show.c - any message, as a person reads it.
 *
 * The first octet says whether there are colours.
 *  - Each octet that comes out is harmless to a terminal, but for colours.
 *  - Three lines come first, and nothing else begins at the left margin.
 *  - Parts are in the message, one after the other.
 *  - Lines that end in CRLF read the same as lines that end in LF.
 */
#include <unistd.h>

#include "base/mime.h"
#include "base/text.h"
#include "relay/show.h"
#include "t/fuzz/fuzz.h"

#define OUT_MAX (1 << 20)

/* Shows a message; returns the length of what is in out then. */
static size_t
show(const char *p, size_t len, bool colours, char *out)
{
	static struct spool s;
	struct recipient to = { "you\033@example.net", "" };
	struct envelope env = { .recipients = &to, .nrecipients = 1 };
	ssize_t n;

	for (size_t i = 0; i < FACTS; i++)
		env.fact[i] = "";
	spool_open(&s, SPOOL_CRLF, NULL, NULL);
	show_message(&s, &env, (struct span){ p, len }, colours);
	demand(spool_finish(&s) != -1, "not written");
	n = pread(s.fd, out, OUT_MAX, 0);
	demand(n >= 0 && n < OUT_MAX, "too much comes out");
	spool_close(&s);
	return (size_t)n;
}

static void
look_at(const char *p, size_t len, bool colours)
{
	static const char *const ours[] = { "\033[0m", "\033[1m", "\033[2m",
	    "\033[36m" };
	size_t n, lines = 0;
	bool left = true;

	while (len > 0) {
		n = text_printable(p, len);
		for (size_t i = 0; n == 0 && colours && i < COUNT(ours); i++)
			if (len > strlen(ours[i]) &&
			    memcmp(p, ours[i], strlen(ours[i])) == 0)
				n = strlen(ours[i]);
		demand(n > 0 || *p == '\n' || *p == '\t',
		    "a control character");
		if (left && *p != '\n' && *p != '\033') {
			demand(*p == (lines++ == 0 ? '=' : ' '),
			    "a line at the left margin");
			left = false;
		}
		if (*p == '\n')
			left = true;
		p += n > 0 ? n : 1;
		len -= n > 0 ? n : 1;
	}
	demand(lines >= 3, "fewer than three lines");
}

static void
look_at_parts(const char *p, size_t len)
{
	static struct mime m;
	const char *at = p;

	mime_read(&m, (struct span){ p, len });
	demand(m.n > 0 && m.n <= MIME_PARTS, "no parts, or too many");
	for (size_t i = 0; i < m.n; i++) {
		const struct mime_part *q = &m.part[i];

		if (len == 0)
			continue;
		demand(q->body.p >= at && q->body.p + q->body.len <= p + len,
		    "a part out of place");
		at = q->body.p + q->body.len;
		demand(strchr(q->type, '/') != NULL, "a part without a type");
	}
}

/* Are both alike but for the third line, which has sizes? */
static bool
same_texts(const char *a, size_t alen, const char *b, size_t blen)
{
	const char *const aend = a + alen, *const bend = b + blen;

	for (int i = 0; i < 3; i++) {
		const char *p = memchr(a, '\n', (size_t)(aend - a));
		const char *q = memchr(b, '\n', (size_t)(bend - b));

		demand(p != NULL && q != NULL, "no three lines");
		if (i < 2 && (p - a != q - b ||
		    memcmp(a, b, (size_t)(p - a)) != 0))
			return false;
		a = p + 1;
		b = q + 1;
	}
	return aend - a == bend - b && memcmp(a, b, (size_t)(aend - a)) == 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char out[OUT_MAX], again[OUT_MAX], crlf[1 << 14];
	const char *p = (const char *)data + 1;
	bool colours;
	size_t n, len = 0, i;

	if (size < 1 || size > sizeof crlf / 2)
		return 0;
	colours = (*data & 1) != 0;
	n = show(p, size - 1, colours, out);
	look_at(out, n, colours);
	look_at_parts(p, size - 1);
	for (i = 0; i < size - 1; i++) {
		if (p[i] == '\n')
			crlf[len++] = '\r';
		crlf[len++] = p[i];
	}
	look_at_parts(crlf, len);
	if (memchr(p, '\r', size - 1) != NULL)
		return 0;
	demand(same_texts(out, n, again, show(crlf, len, colours, again)),
	    "line ends matter");
	return 0;
}
