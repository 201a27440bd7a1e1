/*
 * channel.c - the server's side of one SMTP or LMTP conversation.
 *
 * It does no I/O and knows no clock, environment or log: octets go in by
 * channel_feed(), replies are collected in out, the program's opinion is
 * asked for in hooks.
 *
 * - channel_feed() hands the octets to the taker that fits where the dialogue
 *   stands: a PROXY header, BDAT octets, text behind DATA, or a command line.
 * - A line is gathered whole and looked up in a table.  The table knows where
 *   each verb is legal and answers for it where it is not.
 * - A handler parses, asks its hook, and commits if the reply is below 400.
 * - Text is never copied: the decoder lends runs of the caller's buffer to the
 *   body hook, and breaks a run only where the text has to change.
 * - Whatever is wrong with a message is remembered in verdict, the rest of it
 *   is drained, and the answer comes at its end.
 * - forget() ends every transaction, however it ends.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "channel.h"

#define OUT_HIGH 16384	/* octets of replies that may wait before we stop */
#define COMMAND_MAX 512	/* octets of a command with CRLF; RFC 5321 4.5.3.1.4 */
#define DOMAIN_MAX 255	/* RFC 5321 4.5.3.1.2 */
#define REPLY_LINE 480	/* octets of text in one line; RFC 5321 4.5.3.1.5 */
#define LIMIT_MAX 999999	/* what LIMITS has digits for; RFC 9422 4 */
#define PROXY_V1_MAX 107	/* octets of a version 1 header with CRLF */
#define BLOCK 128	/* octets that are looked at together: n * 16 */
#define PROXY_V2_HEAD 16	/* octets of a version 2 header's fixed part */

#define IN(phase) (1U << PHASE_##phase)
#define ANY (IN(CONNECT) | IN(READY) | IN(MAIL) | IN(RCPT) | IN(BDAT))

/* Where the text decoder stands. */
enum at {
	BOL,	/* at the beginning of a line */
	TEXT,	/* within one */
	CR,	/* behind a CR that is held back */
	DOT,	/* behind a line's first octet, a dot, which is dropped */
	DOTCR	/* behind that and a CR */
};

static const char crlf[] = "\r\n";

/* ---- spans ------------------------------------------------------------- */

static struct span
span(const char *s)
{
	return (struct span){ s, strlen(s) };
}

static struct span
skip(struct span s, size_t n)
{
	return (struct span){ s.p + n, s.len - n };
}

static char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* In ASCII, whatever the locale. */
static bool
starts(struct span s, const char *word)
{
	size_t i = 0;

	while (i < s.len && word[i] != '\0' && lower(s.p[i]) == lower(word[i]))
		i++;
	return word[i] == '\0';
}

static bool
same(struct span s, const char *word)
{
	return s.len == strlen(word) && starts(s, word);
}

static struct span
trim(struct span s)
{
	while (s.len > 0 && s.p[0] == ' ')
		s = skip(s, 1);
	while (s.len > 0 && s.p[s.len - 1] == ' ')
		s.len--;
	return s;
}

/* Takes the first word off *s, and the blanks behind it. */
static struct span
word(struct span *s)
{
	struct span w = *s;

	while (s->len > 0 && s->p[0] != ' ')
		*s = skip(*s, 1);
	w.len -= s->len;
	*s = trim(*s);
	return w;
}

static bool
alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
	    (c >= 'A' && c <= 'Z');
}

static bool
control(char c)
{
	return (unsigned char)c < ' ' || c == '\177';
}

static bool
high(char c)
{
	return ((unsigned char)c & 0x80) != 0;
}

static bool
clean(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (control(s.p[i]))
			return false;
	return true;
}

static bool
ascii(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (high(s.p[i]))
			return false;
	return true;
}

/* Copies s into to[0..size), which it must fit.  False if it does not. */
static bool
copy(char *to, size_t size, struct span s)
{
	if (s.len >= size)
		return false;
	if (s.len > 0)
		memcpy(to, s.p, s.len);
	to[s.len] = '\0';
	return true;
}

/*
 * One octet of UTF-8 (RFC 3629 4).  *state is 0 between characters, else the
 * octets that are missing and, above them, the bounds of the next one.
 */
static bool
utf8(unsigned *state, char octet)
{
	unsigned c = (unsigned char)octet, missing = *state & 0xff;
	unsigned low = 0x80, top = 0xbf;

	if (missing != 0) {
		if (c < (*state >> 8 & 0xff) || c > *state >> 16)
			return false;
		missing--;
	} else if (c >= 0xc2 && c <= 0xdf) {
		missing = 1;
	} else if (c >= 0xe0 && c <= 0xef) {
		missing = 2;
		low = c == 0xe0 ? 0xa0 : low;
		top = c == 0xed ? 0x9f : top;
	} else if (c >= 0xf0 && c <= 0xf4) {
		missing = 3;
		low = c == 0xf0 ? 0x90 : low;
		top = c == 0xf4 ? 0x8f : top;
	} else if (c >= 0x80) {
		return false;
	}
	*state = missing == 0 ? 0 : missing | low << 8 | top << 16;
	return true;
}

static bool
valid_utf8(struct span s)
{
	unsigned state = 0;

	for (size_t i = 0; i < s.len; i++)
		if (!utf8(&state, s.p[i]))
			return false;
	return state == 0;
}

/* Overwrites what was secret, in a way that is not optimized away. */
static void
wipe(char *p, size_t len)
{
	volatile char *v = p;

	while (len-- > 0)
		*v++ = '\0';
}

/* ---- replies ----------------------------------------------------------- */

/* Refuses by r unless it is a refusal already: the first reason counts. */
static void
deny(struct reply *r, int code, const char *enh, const char *text)
{
	if (r->code < 400)
		reply_set(r, code, enh, text);
}

static void
append(struct channel *ch, const char *p, size_t len)
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

/* One line of a reply.  UTF-8 goes only to clients that asked for it
   (RFC 6531 3.7.4.2). */
static void
say_line(struct channel *ch, int code, bool more, const char *enh,
    struct span text)
{
	const char head[] = { (char)('0' + code / 100),
		(char)('0' + code / 10 % 10), (char)('0' + code % 10),
		more ? '-' : ' ' };
	size_t start = ch->outlen;
	char c;

	append(ch, head, sizeof head);
	append(ch, enh, strlen(enh));
	append(ch, " ", enh[0] != '\0');
	for (size_t i = 0; i < text.len; i++) {
		c = text.p[i];
		if (control(c) || (high(c) && !ch->smtp_utf8))
			c = '?';
		append(ch, &c, 1);
	}
	if (ch->hooks->dialogue != NULL && !ch->failed)
		ch->hooks->dialogue(ch->ctx, true, (struct span){
		    ch->out + start, ch->outlen - start });
	append(ch, crlf, 2);
}

/* The next line of *text, no longer than one of a reply may be: but a
   challenge must not be broken (RFC 4954 4). */
static struct span
next_line(int code, const char **text)
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

/* Writes a reply.  Enhanced codes are for those who said EHLO, and for
   classes that have any (RFC 2034 3); 221 and 421 hang up. */
static void
say(struct channel *ch, int code, const char *enh, const char *text)
{
	char named[REPLY_TEXT];
	struct span line;
	bool bye = code == 221 || code == 421;

	assert(200 <= code && code <= 599);
	if (ch->smtp_state == PHASE_CLOSED)
		return;
	if (!ch->extended_smtp || code / 100 == 3)
		enh = "";
	if (bye) {	/* RFC 5321 4.2 */
		text = text_join(named, sizeof named, ch->set->fqdn, " ", text,
		    NULL);
		ch->smtp_state = PHASE_CLOSED;
		ch->want = WANT_CLOSE;
	}
	do {
		line = next_line(code, &text);
		say_line(ch, code, *text != '\0', enh, line);
	} while (*text != '\0');
}

/* Counts a reply if it is an error, and keeps the first, which is often the
   cause of the others, for the program. */
static void
note(struct channel *ch, int code, const char *enh, const char *text)
{
	if (code >= 400 && ch->errors++ == 0)
		reply_set(&ch->refusal, code, enh, text);
}

void
channel_reply(struct channel *ch, int code, const char *enh, const char *text)
{
	unsigned max = ch->set->max_errors;

	note(ch, code, enh, text);
	if (code >= 400 && code != 421 && ch->errors > max && max != 0)
		say(ch, 421, "4.7.0", "Too many errors");
	else
		say(ch, code, enh, text);
}

static void
answer(struct channel *ch, const struct reply *r)
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
	if (ch->outsent > ch->outlen / 2) {	/* also all of it */
		ch->outlen -= ch->outsent;
		memmove(ch->out, ch->out + ch->outsent, ch->outlen);
		ch->outsent = 0;
	}
}

/* ---- the transaction --------------------------------------------------- */

/* What does not fit in the channel's own memory. */
struct channel_kept {
	struct channel_kept *next;
	char text[];
};

/* Keeps two strings until the transaction ends; *second points behind the
   first.  NULL: no memory. */
static char *
keep(struct channel *ch, struct span a, struct span b, char **second)
{
	size_t n = a.len + b.len + 2;
	char *p = ch->kept + ch->keptlen;
	struct channel_kept *more;

	if (n > sizeof ch->kept - ch->keptlen) {
		more = malloc(sizeof *more + n);
		if (more == NULL)
			return NULL;
		more->next = ch->more;
		ch->more = more;
		p = more->text;
	} else {
		ch->keptlen += n;
	}
	*second = p + a.len + 1;
	copy(p, a.len + 1, a);
	copy(*second, b.len + 1, b);
	return p;
}

/* Drops what was kept last. */
static void
drop(struct channel *ch, const char *p)
{
	struct channel_kept *more = ch->more;

	if (more != NULL && p == more->text) {
		ch->more = more->next;
		free(more);
	} else if (p != NULL) {
		ch->keptlen = (size_t)(p - ch->kept);
	}
}

/* Ends the transaction, if there is one: RSET, EHLO, STARTTLS, end of text. */
static void
forget(struct channel *ch)
{
	if (ch->mailfrom != NULL && ch->hooks->forget != NULL)
		ch->hooks->forget(ch->ctx);
	while (ch->more != NULL)
		drop(ch, ch->more->text);
	ch->keptlen = 0;
	if (ch->rcptsize > CHANNEL_FEW)
		free(ch->rcpttos);
	ch->rcpttos = NULL;
	ch->nrcpttos = ch->rcptsize = 0;
	ch->mailfrom = ch->mail_options = NULL;
	ch->smtp_utf8 = false;
	ch->body = BODY_7BIT;
	ch->size = ch->declared = 0;
	ch->at = BOL;
	ch->utf8 = 0;
	ch->verdict.code = 0;
	if (ch->smtp_state >= PHASE_READY && ch->smtp_state < PHASE_CLOSED)
		ch->smtp_state = PHASE_READY;
}

/* ---- message text ------------------------------------------------------ */

/* The message that is coming in will be refused; the first reason counts. */
static void
refuse(struct channel *ch, int code, const char *enh, const char *text)
{
	if (ch->verdict.code == 0)
		reply_set(&ch->verdict, code, enh, text);
}

/* Lends text to the program.  Octets are counted as RFC 1870 5 does: with
   CRLF, without stuffed dots.  What is wrong first is the reason, however the
   text came in pieces. */
static void
emit(struct channel *ch, const char *p, size_t len)
{
	uint64_t limit = ch->set->data_size_limit;

	for (size_t i = 0; ch->set->decode_data && i < len; i++)
		if (!utf8(&ch->utf8, p[i])) {
			if (limit == 0 || ch->size + i < limit)
				refuse(ch, 554, "5.6.0",
				    "Message is not UTF-8");
			break;
		}
	ch->size += len;
	if (limit != 0 && ch->size > limit)
		refuse(ch, 552, "5.3.4", "Message is larger than the limit");
	if (len > 0 && ch->verdict.code == 0 && ch->hooks->body != NULL)
		ch->hooks->body(ch->ctx, (struct span){ p, len });
}

/* A CR or LF that stands alone: see enum bare_newline. */
static void
bare(struct channel *ch, char c)
{
	ch->at = TEXT;
	switch (ch->set->bare_newline) {
	case BARE_UNIX:
		if (c == '\n') {
			emit(ch, crlf, 2);
			ch->at = BOL;
			return;
		}
		break;
	case BARE_NORMALIZE:
		emit(ch, crlf, 2);
		return;
	case BARE_REJECT:
		break;
	}
	refuse(ch, 550, "5.6.0", c == '\n' ? "Bare LF in message text"
					   : "Bare CR in message text");
}

/* So many octets are compared by one instruction, where there is one. */
#define OCTETS __attribute__((vector_size(16))) unsigned char

/*
 * Goes on from p[i], which is no LF, over blocks in which nothing has to
 * change: each CR has its LF, each LF its CR, no line begins with a dot.
 * Returns where a closer look is due.
 */
static size_t
leap(const char *p, size_t i, size_t len)
{
	OCTETS first, second, third, odd = { 0 };
	uint64_t half[2];

	while (len - i > BLOCK + 1) {
#pragma GCC unroll 8
		for (size_t k = i; k < i + BLOCK; k += sizeof first) {
			memcpy(&first, p + k, sizeof first);
			memcpy(&second, p + k + 1, sizeof second);
			memcpy(&third, p + k + 2, sizeof third);
			second = (OCTETS)(second == '\n');
			odd |= ((OCTETS)(first == '\r') ^ second) |
			    (second & (OCTETS)(third == '.'));
		}
		memcpy(half, &odd, sizeof half);
		if ((half[0] | half[1]) != 0)
			break;
		i += BLOCK;
	}
	return i > 0 && p[i - 1] == '\r' ? i - 1 : i;
}

/*
 * Emits lines, in one span as long as nothing has to change, up to a dot that
 * begins a line behind DATA.  Returns how many octets that were, at least one.
 * It never looks far for an LF: a flood of bare CRs would have it look as far
 * for each of them.
 */
static size_t
run(struct channel *ch, const char *p, size_t len)
{
	const char *lf, *cr;
	size_t i = 0, end;

	for (;;) {
		if (p[i] != '\n')
			i = leap(p, i, len);
		end = len - i > 2 * BLOCK ? i + 2 * BLOCK : len;
		lf = memchr(p + i, '\n', end - i);
		if (lf != NULL)
			end = (size_t)(lf - p);
		cr = memchr(p + i, '\r', end - i);
		if (cr != NULL)
			end = (size_t)(cr - p);
		if (lf == NULL && cr == NULL && end < len) {
			i = end;
			continue;
		}
		if (end == len || (cr != NULL && end + 1 == len)) {
			emit(ch, p, end);
			ch->at = end == len ? TEXT : CR;
			return len;
		}
		if (cr == NULL || p[end + 1] != '\n') {
			emit(ch, p, end);
			bare(ch, p[end]);
			return end + 1;
		}
		i = end + 2;
		if (i == len ||
		    (p[i] == '.' && ch->smtp_state == PHASE_DATA)) {
			emit(ch, p, i);
			ch->at = BOL;
			return i;
		}
	}
}

/* The last word on a message.  It is never turned into another one, for the
   client acts on it; and 421 must not cut short what LMTP still has to say. */
static void
conclude(struct channel *ch, const struct reply *r, bool more)
{
	note(ch, r->code, r->enh, r->text);
	say(ch, more && r->code == 421 ? 451 : r->code, r->enh, r->text);
}

/* Says what became of the message, once or (LMTP) once per recipient. */
static void
finish(struct channel *ch)
{
	size_t n = ch->set->lmtp ? ch->nrcpttos : 1;
	struct reply one = { .code = 0 }, *r = NULL;
	bool taken = false;

	if (ch->at == CR)
		bare(ch, '\r');
	if (ch->utf8 != 0)
		refuse(ch, 554, "5.6.0", "Message is not UTF-8");
	if (ch->verdict.code == 0) {
		r = n == 1 ? &one : calloc(n + 1, sizeof *r);
		if (r == NULL)
			refuse(ch, 452, "4.3.1", "Out of memory");
	}
	for (size_t i = 0; r != NULL && i < n + (n == 0); i++)
		reply_set(&r[i], 250, "2.0.0", "Message accepted");
	if (r != NULL && ch->hooks->end != NULL)
		ch->hooks->end(ch->ctx, r, n);
	if (r == NULL && n > 0 && ch->hooks->refused != NULL)
		ch->hooks->refused(ch->ctx, &ch->verdict);
	for (size_t i = 0; i < n; i++) {
		taken = taken || (r != NULL && r[i].code < 400);
		conclude(ch, r != NULL ? &r[i] : &ch->verdict, i + 1 < n);
	}
	if (r != &one)
		free(r);
	ch->messages += taken;
	forget(ch);
}

/* The octet behind a dot that began a line.  Only CRLF ends the message
   (RFC 5321 4.5.2), or in unix mode LF.  True at the end. */
static bool
dot(struct channel *ch, char c)
{
	bool cr = ch->at == DOTCR;

	if (c == '\n' && (cr || ch->set->bare_newline == BARE_UNIX)) {
		finish(ch);
		return true;
	}
	ch->at = !cr && c == '\r' ? DOTCR : TEXT;
	if (cr)
		bare(ch, '\r');
	return false;
}

/* Text behind DATA, or of a BDAT chunk.  Returns how much of it was used: all
   of it, or up to the end of the message. */
static size_t
text(struct channel *ch, const char *p, size_t len)
{
	size_t i = 0;

	while (i < len)
		switch (ch->at) {
		case BOL:
			ch->at = TEXT;
			if (p[i] == '.' && ch->smtp_state == PHASE_DATA) {
				ch->at = DOT;
				i++;
			}
			break;
		case TEXT:
			i += run(ch, p + i, len - i);
			break;
		case CR:
			if (p[i] == '\n') {
				emit(ch, crlf, 2);
				ch->at = BOL;
				i++;
			} else
				bare(ch, '\r');
			break;
		default:
			if (dot(ch, p[i]))
				return i + 1;
			if (ch->at == DOTCR)
				i++;
			break;
		}
	return len;
}

/* ---- addresses and parameters ------------------------------------------ */

static bool
atext(char c)
{
	return alnum(c) || high(c) ||
	    (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL);
}

/* Length of a quoted string at the start of s, 0 if there is none. */
static size_t
quoted(struct span s)
{
	for (size_t i = 1; i < s.len; i++) {
		if (s.p[i] == '"')
			return i + 1;
		if (s.p[i] == '\\')
			i++;
	}
	return 0;
}

/* Length of atoms with single dots between them; 0 if there are none. */
static size_t
dotted(struct span s, bool (*fits)(char))
{
	size_t i = 0;

	for (;;) {
		if (i == s.len || !fits(s.p[i]))
			return 0;
		while (i < s.len && fits(s.p[i]))
			i++;
		if (i == s.len || s.p[i] != '.')
			return i;
		i++;
	}
}

/* What Postfix takes in host names too: underscores. */
static bool
domain_octet(char c)
{
	return alnum(c) || high(c) || c == '-' || c == '_';
}

/* Four numbers below 256 with dots between them: RFC 5321 4.1.3. */
static bool
ipv4(struct span s)
{
	unsigned dots = 0;
	uint64_t octet;
	size_t n;

	for (;;) {
		for (n = 0; n < s.len && s.p[n] != '.'; n++)
			;
		if (n > 3 || !text_parse_number((struct span){ s.p, n }, &octet) ||
		    octet > 255)
			return false;
		if (n == s.len)
			return dots == 3;
		s = skip(s, n + 1);
		dots++;
	}
}

/* Up to four hexadecimal digits at the start of s: how many there are. */
static size_t
hex16(struct span s)
{
	size_t n = 0;

	while (n < s.len && n < 5 && s.p[n] != '\0' &&
	    strchr("0123456789ABCDEFabcdef", s.p[n]) != NULL)
		n++;
	return n > 4 ? 0 : n;
}

/* RFC 4291 2.2: eight groups, "::" once for some of them, and the last two
   perhaps as IPv4. */
static bool
ipv6(struct span s)
{
	unsigned groups = 0;
	bool gap = s.len >= 2 && s.p[0] == ':' && s.p[1] == ':';
	size_t n;

	if (gap)
		s = skip(s, 2);
	while (s.len > 0 || !gap) {
		if (s.len > 0 && memchr(s.p, ':', s.len) == NULL && ipv4(s)) {
			groups += 2;
			break;
		}
		n = hex16(s);
		if (n == 0)
			return false;
		groups++;
		s = skip(s, n);
		if (s.len == 0)
			break;
		if (s.p[0] != ':' || s.len == 1)
			return false;
		s = skip(s, 1);
		if (s.p[0] == ':') {
			if (gap)
				return false;
			gap = true;
			s = skip(s, 1);
		}
	}
	return gap ? groups < 8 : groups == 8;
}

/* What stands between the brackets of an address literal: RFC 5321 4.1.3. */
static bool
literal(struct span s)
{
	static const char tag[] = "IPv6:";
	size_t n = sizeof tag - 1;

	return ipv4(s) || (s.len > n && starts(s, tag) && ipv6(skip(s, n)));
}

/* Length of a domain or address literal; 0 if there is none. */
static size_t
domain(struct span s)
{
	size_t i;

	if (s.len == 0 || s.p[0] == '-')
		return 0;
	if (s.p[0] != '[') {
		i = dotted(s, domain_octet);
		return i > DOMAIN_MAX ? 0 : i;
	}
	for (i = 1; i < s.len && s.p[i] != ']'; i++)
		;
	return i < s.len && literal((struct span){ s.p + 1, i - 1 }) ? i + 1
								     : 0;
}

/* Length of a source route "@a,@b:", which is ignored (RFC 5321 4.1.1.3). */
static size_t
route(struct span s)
{
	size_t i = 0, n;

	while (i < s.len && s.p[i] == '@') {
		n = domain(skip(s, i + 1));
		i += n + 1;
		if (n == 0 || i == s.len)
			return 0;
		if (s.p[i] == ':')
			return i + 1;
		if (s.p[i] != ',')
			return 0;
		i++;
	}
	return 0;
}

/* Length of a mailbox (RFC 5321 4.1.2), the domain being optional; 0 if there
   is none, or if it could be taken for an option elsewhere. */
static size_t
mailbox(struct span s)
{
	size_t i, n;

	if (s.len == 0 || s.p[0] == '-')
		return 0;
	i = s.p[0] == '"' ? quoted(s) : dotted(s, atext);
	if (i == 0 || i == s.len || s.p[i] != '@')
		return i;
	n = domain(skip(s, i + 1));
	return n == 0 ? 0 : i + 1 + n;
}

/*
 * Takes a path off *s: "<mailbox>", "<>", or a mailbox without brackets, as
 * the seed modules and Postfix do.  False if there is none.
 */
static bool
path(struct span *s, struct span *out)
{
	bool angle;
	size_t n = 0;

	*s = trim(*s);
	angle = s->len > 0 && s->p[0] == '<';
	if (angle) {
		*s = skip(*s, 1);
		n = route(*s);
		*s = skip(*s, n);
	}
	out->p = s->p;
	out->len = mailbox(*s);
	*s = skip(*s, out->len);
	if (angle && (s->len == 0 || s->p[0] != '>'))
		return false;
	*s = skip(*s, angle);
	return (out->len > 0 || (angle && n == 0)) &&
	    (s->len == 0 || s->p[0] == ' ') && valid_utf8(*out);
}

static bool
always(const struct channel_settings *set)
{
	(void)set;
	return true;
}

static bool
eight_bit(const struct channel_settings *set)
{
	return !set->decode_data;
}

static bool
international(const struct channel_settings *set)
{
	return set->enable_SMTPUTF8;
}

static bool
dsn(const struct channel_settings *set)
{
	return set->dsn;
}

static bool
authenticates(const struct channel_settings *set)
{
	return set->auth != NULL;
}

/* RFC 1870 6.1: up to 20 digits, which may be more than 64 bits hold. */
static bool
take_size(struct channel *ch, struct span value)
{
	for (size_t i = 0; i < value.len; i++)
		if (value.p[i] < '0' || value.p[i] > '9')
			return false;
	if (!text_parse_number(value, &ch->declared))
		ch->declared = UINT64_MAX;
	return value.len > 0 && value.len <= 20;
}

/* RFC 6152 2, RFC 3030 3. */
static bool
take_body(struct channel *ch, struct span value)
{
	if (same(value, "7BIT"))
		ch->body = BODY_7BIT;
	else if (same(value, "8BITMIME"))
		ch->body = BODY_8BITMIME;
	else if (same(value, "BINARYMIME"))
		ch->body = BODY_BINARYMIME;
	else
		return false;
	return true;
}

/* RFC 6531 3.4: it takes no value. */
static bool
take_smtputf8(struct channel *ch, struct span value)
{
	ch->smtp_utf8 = true;
	return value.p == NULL;
}

/* RFC 3461 4.3. */
static bool
take_ret(struct channel *ch, struct span value)
{
	(void)ch;
	return same(value, "FULL") || same(value, "HDRS");
}

/* RFC 3461 4.4: ENVID; RFC 4954 5: AUTH. */
static bool
take_xtext(struct channel *ch, struct span value)
{
	(void)ch;
	return text_decode_xtext(NULL, 0, value) > 0;
}

/* RFC 3461 4.1: NEVER, or a list of the others. */
static bool
take_notify(struct channel *ch, struct span value)
{
	struct span one;

	(void)ch;
	if (same(value, "NEVER"))
		return true;
	for (;;) {
		one = value;
		for (one.len = 0; one.len < value.len; one.len++)
			if (value.p[one.len] == ',')
				break;
		if (!same(one, "SUCCESS") && !same(one, "FAILURE") &&
		    !same(one, "DELAY"))
			return false;
		if (one.len == value.len)
			return true;
		value = skip(value, one.len + 1);
	}
}

/* RFC 3461 4.2: addr-type ";" xtext; RFC 6533 3 adds UTF-8 to it. */
static bool
take_orcpt(struct channel *ch, struct span value)
{
	const char *semi;
	size_t n;

	semi = value.len == 0 ? NULL : memchr(value.p, ';', value.len);
	n = semi == NULL ? 0 : (size_t)(semi - value.p);
	if (n == 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!alnum(value.p[i]) && value.p[i] != '-')
			return false;
	value = skip(value, n + 1);
	return ch->smtp_utf8 ? value.len > 0 && valid_utf8(value)
	    : text_decode_xtext(NULL, 0, value) > 0;
}

/* A parameter of MAIL or RCPT.  take says whether its value (p NULL: none)
   makes sense. */
struct parameter {
	const char *name;
	bool (*offered)(const struct channel_settings *set);
	bool (*take)(struct channel *ch, struct span value);
};

static const struct parameter mail_parameters[] = {
	{ "SIZE", always, take_size },
	{ "BODY", eight_bit, take_body },
	{ "SMTPUTF8", international, take_smtputf8 },
	{ "RET", dsn, take_ret },
	{ "ENVID", dsn, take_xtext },
	{ "AUTH", authenticates, take_xtext },
	{ NULL, NULL, NULL },
};

static const struct parameter rcpt_parameters[] = {
	{ "NOTIFY", dsn, take_notify },
	{ "ORCPT", dsn, take_orcpt },
	{ NULL, NULL, NULL },
};

/* Takes "name" or "name=value" off *s.  False if it is neither. */
static bool
split_parameter(struct span *s, struct span *name, struct span *value)
{
	struct span w = word(s);

	*name = w;
	*value = (struct span){ NULL, 0 };
	for (size_t i = 0; i < w.len; i++) {
		if (w.p[i] == '=') {
			name->len = i;
			*value = skip(w, i + 1);
			break;
		}
		if (!alnum(w.p[i]) && w.p[i] != '-')
			return false;
	}
	if (name->len == 0 || w.p[0] == '-' ||
	    (value->p != NULL && value->len == 0))
		return false;
	for (size_t i = 0; i < value->len; i++)
		if (value->p[i] == '=')
			return false;
	return true;
}

/*
 * Reads the parameters s of MAIL or RCPT by table.  r becomes 501 for bad
 * syntax, 555 for what is not offered (RFC 5321 4.1.1.11).
 */
static void
parameters(struct channel *ch, struct span s, const struct parameter *table,
    struct reply *r)
{
	const struct parameter *t;
	struct span name, value;
	unsigned seen = 0, bit;

	if (s.len > 0 && !ch->extended_smtp)
		deny(r, 501, "5.5.4", "Parameters need EHLO");
	while (s.len > 0 && r->code < 400) {
		if (!split_parameter(&s, &name, &value)) {
			deny(r, 501, "5.5.4", "Malformed parameter");
			return;
		}
		for (t = table; t->name != NULL; t++)
			if (same(name, t->name) && t->offered(ch->set))
				break;
		bit = 1U << (t - table);
		if (t->name == NULL)
			deny(r, 555, "5.5.4", "Parameter not recognized");
		else if ((seen & bit) != 0)
			deny(r, 501, "5.5.4", "Parameter given twice");
		else if (!t->take(ch, value))
			deny(r, 501, "5.5.4", "Bad value of a parameter");
		seen |= bit;
	}
}

/* ---- session verbs ----------------------------------------------------- */

static void
greet(struct channel *ch)
{
	struct reply r;
	char line[CHANNEL_NAME_MAX + 16];

	text_join(line, sizeof line, ch->set->fqdn,
	    ch->set->lmtp ? " LMTP" : " ESMTP", NULL);
	reply_set(&r, 220, "", line);
	if (ch->hooks->connect != NULL)
		ch->hooks->connect(ch->ctx, &r);
	ch->smtp_state = r.code < 400 ? PHASE_CONNECT : PHASE_REFUSED;
	answer(ch, &r);
	if (r.code == 521)	/* RFC 7504 3 */
		ch->want = WANT_CLOSE;
}

/* One EHLO line: name, and behind it its argument, blank included, or "". */
static void
keyword(struct channel *ch, bool on, const char *name, const char *arg)
{
	char line[1024];

	if (!on)
		return;
	text_join(line, sizeof line, name, arg, NULL);
	say_line(ch, 250, true, "", span(line));
}

/* RFC 9422 4: what is limited at all, a blank in front of each. */
static void
write_limits(const struct channel_settings *set, char *to, size_t size)
{
	char n[TEXT_NUMBER], mails[40] = "", rcpts[40] = "";

	if (set->max_messages != 0 && set->max_messages <= LIMIT_MAX)
		text_join(mails, sizeof mails, " MAILMAX=",
		    text_number(n, set->max_messages, 1), NULL);
	if (set->max_recipients != 0 && set->max_recipients <= LIMIT_MAX)
		text_join(rcpts, sizeof rcpts, " RCPTMAX=",
		    text_number(n, set->max_recipients, 1), NULL);
	text_join(to, size, mails, rcpts, NULL);
}

static void
keywords(struct channel *ch)
{
	const struct channel_settings *set = ch->set;
	const char *auth = set->auth == NULL ? "" : set->auth;
	char size[TEXT_NUMBER], limits[80];

	write_limits(set, limits, sizeof limits);
	keyword(ch, true, "PIPELINING", "");
	keyword(ch, true, "SIZE ", text_number(size, set->data_size_limit, 1));
	keyword(ch, !set->decode_data, "8BITMIME", "");
	keyword(ch, set->enable_SMTPUTF8, "SMTPUTF8", "");
	keyword(ch, true, "CHUNKING", "");
	keyword(ch, !set->decode_data, "BINARYMIME", "");
	keyword(ch, set->dsn, "DSN", "");
	keyword(ch, true, "ENHANCEDSTATUSCODES", "");
	keyword(ch, limits[0] != '\0', "LIMITS", limits);
	keyword(ch, set->tls && !ch->ssl, "STARTTLS", "");
	keyword(ch, *auth != '\0' && (ch->ssl || !set->auth_require_tls),
	    "AUTH ", auth);
	keyword(ch, set->xclient, "XCLIENT ",
	    "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT");
	for (size_t i = 0; set->keywords != NULL && set->keywords[i] != NULL;
	    i++)
		keyword(ch, true, set->keywords[i], "");
	say_line(ch, 250, false, "", span("HELP"));
}

/* HELO, EHLO, LHLO: RFC 5321 4.1.1.1, RFC 2033 4.1. */
static void
hello(struct channel *ch, struct span name, bool extended)
{
	struct reply r;
	const char *rest;

	if (name.len >= sizeof ch->seen_greeting || !ascii(name)) {
		channel_reply(ch, 501, "5.5.4", "That is not a host name");
		return;
	}
	reply_set(&r, 250, "", ch->set->fqdn);
	if (ch->hooks->helo != NULL)
		ch->hooks->helo(ch->ctx, name, extended, &r);
	if (r.code >= 400) {
		answer(ch, &r);
		return;
	}
	forget(ch);
	copy(ch->seen_greeting, sizeof ch->seen_greeting, name);
	ch->extended_smtp = extended;
	ch->smtp_state = PHASE_READY;
	if (!extended) {
		answer(ch, &r);
		return;
	}
	for (rest = r.text; *rest != '\0';)
		say_line(ch, 250, true, "", next_line(250, &rest));
	keywords(ch);
}

static void
do_helo(struct channel *ch, struct span arg)
{
	hello(ch, arg, false);
}

static void
do_ehlo(struct channel *ch, struct span arg)
{
	hello(ch, arg, true);
}

static void
do_noop(struct channel *ch, struct span arg)
{
	struct reply r;

	reply_set(&r, 250, "2.0.0", "OK");
	if (ch->hooks->noop != NULL)
		ch->hooks->noop(ch->ctx, arg, &r);
	answer(ch, &r);
}

static void
do_rset(struct channel *ch, struct span arg)
{
	struct reply r;

	(void)arg;
	reply_set(&r, 250, "2.0.0", "OK");
	if (ch->hooks->rset != NULL)
		ch->hooks->rset(ch->ctx, &r);
	forget(ch);
	answer(ch, &r);
}

static void
do_quit(struct channel *ch, struct span arg)
{
	struct reply r;

	(void)arg;
	reply_set(&r, 221, "2.0.0", "Bye");
	if (ch->hooks->quit != NULL)
		ch->hooks->quit(ch->ctx, &r);
	answer(ch, &r);
}

/* RFC 5321 3.5.3: 252 neither confirms nor denies.  RFC 6531 3.7.4.2: there
   may be a parameter, which only allows the reply to be in UTF-8. */
static void
do_vrfy(struct channel *ch, struct span arg)
{
	struct reply r;
	struct span rest = arg, address;
	bool ok = path(&rest, &address);

	rest = trim(rest);
	if (!international(ch->set) || !same(rest, "SMTPUTF8"))
		ok = ok && rest.len == 0;
	if (!ok)
		reply_set(&r, 502, "5.5.2", "That is not an address");
	else
		reply_set(&r, 252, "2.1.5", "Cannot verify, but will accept "
		    "the message and try to deliver it");
	if (ok && ch->hooks->vrfy != NULL)
		ch->hooks->vrfy(ch->ctx, address, &r);
	answer(ch, &r);
}

static void
do_expn(struct channel *ch, struct span arg)
{
	struct reply r;

	reply_set(&r, 502, "5.5.1", "Lists are not expanded here");
	if (ch->hooks->expn != NULL)
		ch->hooks->expn(ch->ctx, arg, &r);
	answer(ch, &r);
}

/* RFC 3207 4: what was pipelined behind it must not be used. */
static void
do_starttls(struct channel *ch, struct span arg)
{
	struct reply r;

	(void)arg;
	if (ch->ssl) {
		channel_reply(ch, 503, "5.5.1", "TLS is active already");
		return;
	}
	if (!ch->set->tls) {
		channel_reply(ch, 454, "4.7.0", "TLS is not available");
		return;
	}
	reply_set(&r, 220, "2.0.0", "Ready to start TLS");
	if (ch->hooks->starttls != NULL)
		ch->hooks->starttls(ch->ctx, &r);
	answer(ch, &r);
	if (r.code < 400)
		ch->want = WANT_TLS;
}

/* RFC 3207 4.2: forget what was said in the clear. */
void
channel_tls(struct channel *ch, const struct channel_tls *tls)
{
	assert(ch->want == WANT_TLS);
	forget(ch);
	ch->want = WANT_INPUT;
	ch->smtp_state = PHASE_CONNECT;
	ch->ssl = true;
	ch->tls = *tls;
	ch->seen_greeting[0] = '\0';
	ch->extended_smtp = false;
	ch->authenticated = false;
	ch->auth_user[0] = ch->auth_method[0] = '\0';
	ch->linelen = 0;
	if (ch->set->tls_on_connect)
		greet(ch);
}

void
channel_set_user(struct channel *ch, const char *user)
{
	snprintf(ch->auth_user, sizeof ch->auth_user, "%s", user);
}

/* ---- transaction verbs ------------------------------------------------- */

/* Takes what follows the verb in form, "FROM:" or "TO:", and a path off *arg,
   and the blanks behind it. */
static void
sender_or_recipient(const char *form, struct span *arg, struct span *out,
    const char *enh, struct reply *r)
{
	const char *prefix = strchr(form, ' ') + 1;
	char text[80];
	size_t n = strlen(prefix);

	if (!starts(*arg, prefix)) {
		snprintf(text, sizeof text, "Syntax: %s<address>", form);
		deny(r, 501, enh, text);
		return;
	}
	*arg = skip(*arg, n);
	if (!path(arg, out))
		deny(r, 501, enh, "Bad address syntax");
	*arg = trim(*arg);
}

/* RFC 6531 3.5: an address of UTF-8 needs the parameter SMTPUTF8. */
static void
check_ascii(const struct channel *ch, struct span address, struct reply *r)
{
	if (!ch->smtp_utf8 && !ascii(address))
		deny(r, 553, "5.6.7", "That address needs SMTPUTF8");
}

static void
do_mail(struct channel *ch, struct span arg)
{
	const struct channel_settings *set = ch->set;
	struct reply r;
	struct span from = { "", 0 };
	char *kept = NULL, *options = NULL;

	if (set->max_messages != 0 && ch->mails >= set->max_messages) {
		channel_reply(ch, 421, "4.7.0", "Too many messages");
		return;
	}
	reply_set(&r, 250, "2.1.0", "Sender OK");
	sender_or_recipient("MAIL FROM:", &arg, &from, "5.1.7", &r);
	parameters(ch, arg, mail_parameters, &r);
	check_ascii(ch, from, &r);
	if (set->data_size_limit != 0 && ch->declared > set->data_size_limit)
		deny(&r, 552, "5.3.4", "Message is larger than the limit");
	kept = keep(ch, from, arg, &options);
	if (kept == NULL)
		deny(&r, 452, "4.3.1", "Out of memory");
	if (r.code < 400 && ch->hooks->mail != NULL)
		ch->hooks->mail(ch->ctx, from, arg, &r);
	answer(ch, &r);
	if (r.code >= 400) {
		forget(ch);
		return;
	}
	ch->mailfrom = kept;
	ch->mail_options = options;
	ch->smtp_state = PHASE_MAIL;
	ch->mails++;
}

/* Room for one more recipient: false if there is no memory. */
static bool
room(struct channel *ch)
{
	size_t size = ch->rcptsize * 2;
	struct recipient *rows;

	if (ch->nrcpttos < ch->rcptsize)
		return true;
	if (ch->rcptsize == 0) {
		ch->rcpttos = ch->few;
		ch->rcptsize = CHANNEL_FEW;
		return true;
	}
	rows = realloc(ch->rcpttos == ch->few ? NULL : ch->rcpttos,
	    size * sizeof *rows);
	if (rows == NULL)
		return false;
	if (ch->rcpttos == ch->few)
		memcpy(rows, ch->few, sizeof ch->few);
	ch->rcpttos = rows;
	ch->rcptsize = size;
	return true;
}

static void
do_rcpt(struct channel *ch, struct span arg)
{
	struct reply r;
	struct span to = { "", 0 };
	size_t max = ch->set->max_recipients;
	char *address, *options = NULL;

	reply_set(&r, 250, "2.1.5", "Recipient OK");
	sender_or_recipient("RCPT TO:", &arg, &to, "5.1.3", &r);
	if (to.len == 0)
		deny(&r, 501, "5.1.3", "A recipient is needed");
	parameters(ch, arg, rcpt_parameters, &r);
	check_ascii(ch, to, &r);
	if (max != 0 && ch->nrcpttos >= max)
		deny(&r, 452, "4.5.3", "Too many recipients");
	address = keep(ch, to, arg, &options);
	if (address == NULL || !room(ch))
		deny(&r, 452, "4.3.1", "Out of memory");
	if (r.code < 400 && ch->hooks->rcpt != NULL)
		ch->hooks->rcpt(ch->ctx, to, arg, &r);
	if (r.code < 400) {
		ch->rcpttos[ch->nrcpttos++] =
		    (struct recipient){ address, options };
		ch->smtp_state = PHASE_RCPT;
	} else {
		drop(ch, address);
	}
	answer(ch, &r);
}

static void
do_data(struct channel *ch, struct span arg)
{
	struct reply r;

	(void)arg;
	if (ch->body == BODY_BINARYMIME) {	/* RFC 3030 3 */
		channel_reply(ch, 503, "5.5.1", "BINARYMIME needs BDAT");
		return;
	}
	reply_set(&r, 354, "", "End data with <CR><LF>.<CR><LF>");
	if (ch->hooks->data != NULL)
		ch->hooks->data(ch->ctx, &r);
	if (r.code < 400)
		ch->smtp_state = PHASE_DATA;
	answer(ch, &r);
}

/* The octets of a chunk are all there: RFC 3030 2. */
static void
chunk_end(struct channel *ch)
{
	char text[64];

	if (ch->drop)
		channel_reply(ch, 503, "5.5.1", "Bad sequence of commands: "
		    "BDAT needs MAIL and RCPT");
	else if (ch->last)
		finish(ch);
	else if (ch->verdict.code != 0)
		answer(ch, &ch->verdict);
	else {
		snprintf(text, sizeof text, "%llu octets so far",
		    (unsigned long long)ch->size);
		channel_reply(ch, 250, "2.0.0", text);
	}
}

/* The first chunk of a message asks the data hook. */
static void
chunk_begin(struct channel *ch)
{
	struct reply r;

	reply_set(&r, 250, "2.0.0", "OK");
	if (ch->smtp_state == PHASE_MAIL)	/* nobody to send it to */
		deny(&r, 503, "5.5.1", "No recipients");
	if (ch->smtp_state == PHASE_RCPT && ch->hooks->data != NULL)
		ch->hooks->data(ch->ctx, &r);
	if (r.code >= 400)
		ch->verdict = r;
	ch->smtp_state = PHASE_BDAT;
}

/*
 * The octets follow whether we like the command or not, so it is never
 * refused before they came.  A count that can not be read leaves no way to
 * stay in step: 421.  In LMTP, LAST for no recipients gets no reply at all
 * (RFC 2033 4.3).
 */
static void
do_bdat(struct channel *ch, struct span arg)
{
	struct span count = word(&arg);
	uint64_t limit = ch->set->data_size_limit;

	ch->last = same(arg, "LAST");
	if (ch->overlong || !text_parse_number(count, &ch->chunk) ||
	    (arg.len > 0 && !ch->last)) {
		channel_reply(ch, 421, "4.5.4", "BDAT count is unreadable");
		return;
	}
	ch->drop = ch->smtp_state != PHASE_RCPT &&
	    ch->smtp_state != PHASE_BDAT &&
	    !(ch->smtp_state == PHASE_MAIL && ch->set->lmtp && ch->last);
	if (!ch->drop) {
		chunk_begin(ch);
		if (limit != 0 && ch->chunk > limit - (ch->size < limit ?
		    ch->size : limit))
			refuse(ch, 552, "5.3.4", "Message is larger than the "
			    "limit");
	}
	if (ch->chunk == 0)
		chunk_end(ch);
}

/* Octets of a chunk. */
static size_t
chunk(struct channel *ch, const char *p, size_t len)
{
	if (len > ch->chunk)
		len = (size_t)ch->chunk;
	ch->chunk -= len;
	if (!ch->drop && ch->body == BODY_BINARYMIME)
		emit(ch, p, len);
	else if (!ch->drop)
		text(ch, p, len);
	if (ch->chunk == 0)
		chunk_end(ch);
	return len;
}

/* ---- AUTH: RFC 4954 ---------------------------------------------------- */

/* True for "=", for nothing, and for base64. */
static bool
auth_base64(struct span s)
{
	return same(s, "=") || text_decode_base64(NULL, 0, s) != -1;
}

/* Is w one of the words of list? */
static bool
listed(const char *list, struct span w)
{
	struct span rest = span(list);

	while (rest.len > 0) {
		struct span one = word(&rest);

		if (one.len == w.len && strncasecmp(one.p, w.p, w.len) == 0)
			return true;
	}
	return false;
}

static void
auth_failed(struct channel *ch, struct reply *r)
{
	unsigned max = ch->set->max_auth_failures;

	if (max != 0 && ++ch->auth_failures >= max)
		reply_set(r, 421, "4.7.0", "Too many failed authentications");
}

/* One step: asks the hook, and answers. */
static void
auth_step(struct channel *ch, struct span mechanism, struct span response,
    bool given)
{
	struct reply r;

	if (response.len == 1 && response.p[0] == '=')
		response.len = 0;
	reply_set(&r, 454, "4.7.0", "Authentication is not available");
	if (ch->hooks->auth != NULL)
		ch->hooks->auth(ch->ctx, mechanism, response, given, &r);
	ch->smtp_state = r.code == 334 ? PHASE_AUTH : PHASE_READY;
	ch->authenticated = r.code == 235;
	if (ch->authenticated)
		snprintf(ch->auth_method, sizeof ch->auth_method, "%s",
		    ch->mechanism);
	else
		ch->auth_user[0] = '\0';
	if (r.code == 535)
		auth_failed(ch, &r);
	answer(ch, &r);
}

/* Makes r a refusal if an exchange can not begin. */
static void
auth_check(struct channel *ch, struct span mechanism, struct span rest,
    struct reply *r)
{
	const char *list = ch->set->auth;

	if (list == NULL)
		deny(r, 502, "5.5.1", "AUTH is not offered");
	else if (*list == '\0')
		deny(r, 454, "4.7.0", "Authentication is not available");
	else if (!ch->extended_smtp)
		deny(r, 503, "5.5.1", "Send EHLO first");
	else if (!ch->ssl && ch->set->auth_require_tls)
		deny(r, 538, "5.7.11", "AUTH needs TLS: send STARTTLS");
	else if (ch->authenticated)
		deny(r, 503, "5.5.1", "Authenticated already");
	else if (!listed(list, mechanism) ||
	    !copy(ch->mechanism, sizeof ch->mechanism, mechanism))
		deny(r, 504, "5.5.4", "Mechanism is not offered");
	else if (rest.len > 0 && memchr(rest.p, ' ', rest.len) != NULL)
		deny(r, 501, "5.5.4", "Too many arguments");
	else if (!auth_base64(rest))
		deny(r, 501, "5.5.2", "Response is not base64");
}

static void
do_auth(struct channel *ch, struct span arg)
{
	struct span mechanism = word(&arg);
	struct reply r = { .code = 334 };

	auth_check(ch, mechanism, arg, &r);
	if (r.code >= 400) {
		answer(ch, &r);
		return;
	}
	for (char *p = ch->mechanism; *p != '\0'; p++)
		if (*p >= 'a' && *p <= 'z')
			*p = (char)(*p - 'a' + 'A');
	auth_step(ch, span(ch->mechanism), arg, arg.len > 0);
}

/* A line that answers a challenge.  "*" gives up: 501 (RFC 4954 4). */
static void
auth_response(struct channel *ch, struct span line)
{
	struct span none = { NULL, 0 };
	struct reply r;

	if (!ch->overlong && auth_base64(line)) {
		auth_step(ch, span(""), line, true);
		return;
	}
	if (ch->overlong)
		reply_set(&r, 500, "5.5.6", "Authentication line too long");
	else if (same(line, "*"))
		reply_set(&r, 501, "5.7.0", "Authentication aborted");
	else
		reply_set(&r, 501, "5.5.2", "Response is not base64");
	if (ch->hooks->auth != NULL)
		ch->hooks->auth(ch->ctx, none, none, false, &r);
	ch->smtp_state = PHASE_READY;
	answer(ch, &r);
}

/* ---- who the client is: XCLIENT and the PROXY protocol ----------------- */

/* Decodes xtext into to[0..size).  Returns false if it does not fit, is empty,
   or has control characters. */
static bool
xdecode(char *to, size_t size, struct span s)
{
	long n = text_decode_xtext(to, size - 1, s);

	if (n <= 0 || (size_t)n >= size)
		return false;
	to[n] = '\0';
	return clean((struct span){ to, (size_t)n });
}

/* A port, 0 among them, without leading zeros. */
static bool
port(const char *s)
{
	return s[0] == '0' ? s[1] == '\0' : text_parse_port(s) != 0;
}

/* An IPv4 or IPv6 address in text. */
static bool
address(const char *s)
{
	return ipv4(span(s)) || ipv6(span(s));
}

/* What XCLIENT says, until all of it proved readable. */
struct identity {
	struct channel_peer peer;
	char helo[CHANNEL_NAME_MAX];
	char login[CHANNEL_NAME_MAX];
};

/* One attribute of XCLIENT, its value decoded.  False if it makes no sense. */
static bool
take_attribute(struct identity *id, struct span name, const char *value)
{
	bool unknown = strcmp(value, "[UNAVAILABLE]") == 0 ||
	    strcmp(value, "[TEMPUNAVAIL]") == 0;
	struct span v = span(unknown ? "" : value);

	if (same(name, "HELO"))
		return copy(id->helo, sizeof id->helo, v);
	if (same(name, "LOGIN"))
		return copy(id->login, sizeof id->login, v);
	if (same(name, "PROTO"))
		return unknown || same(v, "SMTP") || same(v, "ESMTP");
	if (same(name, "PORT"))
		return copy(id->peer.port, sizeof id->peer.port, v) &&
		    (unknown || port(id->peer.port));
	if (same(name, "DESTPORT"))
		return copy(id->peer.server_port, sizeof id->peer.server_port,
		    v) && (unknown || port(id->peer.server_port));
	if (unknown)
		v = span("unknown");
	if (same(name, "NAME"))
		return copy(id->peer.name, sizeof id->peer.name, v);
	if (v.len > 5 && strncasecmp(v.p, "IPV6:", 5) == 0)
		v = skip(v, 5);
	if (same(name, "ADDR"))
		return copy(id->peer.address, sizeof id->peer.address, v) &&
		    (unknown || address(id->peer.address));
	return same(name, "DESTADDR") &&
	    copy(id->peer.server_address, sizeof id->peer.server_address, v) &&
	    (unknown || address(id->peer.server_address));
}

/* Postfix's XCLIENT_README: all attributes or none; on success the session
   starts anew, with a greeting.  It is another client's, who has not
   authenticated unless LOGIN says so. */
static void
do_xclient(struct channel *ch, struct span arg)
{
	struct identity id = { .peer = ch->peer };
	struct span name, value;
	char decoded[CHANNEL_NAME_MAX];

	if (!ch->set->xclient) {
		channel_reply(ch, 550, "5.7.0", "XCLIENT is not for you");
		return;
	}
	while (arg.len > 0)
		if (!split_parameter(&arg, &name, &value) ||
		    !xdecode(decoded, sizeof decoded, value) ||
		    !take_attribute(&id, name, decoded)) {
			channel_reply(ch, 501, "5.5.4", "Bad attribute");
			return;
		}
	forget(ch);
	ch->peer = id.peer;
	copy(ch->seen_greeting, sizeof ch->seen_greeting, span(id.helo));
	channel_set_user(ch, id.login);
	ch->authenticated = id.login[0] != '\0';
	copy(ch->auth_method, sizeof ch->auth_method,
	    span(ch->authenticated ? "XCLIENT" : ""));
	ch->extended_smtp = false;
	greet(ch);
}

/* The IPv4 address in "::ffff:192.0.2.1", or s itself: a proxy that accepts
   both families with one socket names its IPv4 clients so. */
static struct span
unmap(struct span s)
{
	static const char mapped[] = "::ffff:";
	size_t n = sizeof mapped - 1;

	return starts(s, mapped) && ipv4(skip(s, n)) ? skip(s, n) : s;
}

/* The PROXY protocol's version 1: "PROXY TCP4 src dst sport dport", with
   single blanks; behind UNKNOWN anything. */
static bool
proxy_v1(struct channel *ch, struct span s)
{
	static const char tcp4[] = "PROXY TCP4 ", tcp6[] = "PROXY TCP6 ";
	static const char unknown[] = "PROXY UNKNOWN";
	struct channel_peer *peer = &ch->peer;
	struct span field[6];
	bool (*fits)(struct span);
	size_t n = 0, i;

	i = sizeof unknown - 1;
	if (s.len >= i && memcmp(s.p, unknown, i) == 0)
		return s.len == i || s.p[i] == ' ';
	if (s.len < sizeof tcp4 || s.p[s.len - 1] == ' ')
		return false;
	if (memcmp(s.p, tcp4, sizeof tcp4 - 1) == 0)
		fits = ipv4;
	else if (memcmp(s.p, tcp6, sizeof tcp6 - 1) == 0)
		fits = ipv6;
	else
		return false;
	for (i = 1; i < s.len; i++)
		if (s.p[i] == ' ' && s.p[i - 1] == ' ')
			return false;
	for (; s.len > 0 && n < 6; n++)
		field[n] = word(&s);
	return s.len == 0 && n == 6 && fits(field[2]) && fits(field[3]) &&
	    copy(peer->address, sizeof peer->address, unmap(field[2])) &&
	    copy(peer->server_address, sizeof peer->server_address,
	    unmap(field[3])) &&
	    copy(peer->port, sizeof peer->port, field[4]) &&
	    copy(peer->server_port, sizeof peer->server_port, field[5]) &&
	    port(peer->port) && port(peer->server_port);
}

static void
write_v4(char *to, size_t size, const unsigned char a[4])
{
	snprintf(to, size, "%u.%u.%u.%u", a[0], a[1], a[2], a[3]);
}

/* RFC 5952 4: lower case, no leading zeros, the longest run of zeros short.
   What a socket for both families calls an IPv4 client is one: see unmap(). */
static void
write_v6(char *to, size_t size, const unsigned char a[16])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	unsigned group[8], at = 8, best = 1, run = 0;
	size_t n = 0;

	if (memcmp(a, mapped, sizeof mapped) == 0) {
		write_v4(to, size, a + sizeof mapped);
		return;
	}
	for (unsigned i = 0; i < 8; i++) {
		group[i] = (unsigned)a[2 * i] << 8 | a[2 * i + 1];
		run = group[i] == 0 ? run + 1 : 0;
		if (run > best) {
			best = run;
			at = i + 1 - run;
		}
	}
	to[0] = '\0';
	for (unsigned i = 0; i < 8; i++) {
		if (i == at) {
			n += (size_t)snprintf(to + n, size - n, "::");
			i += best - 1;
			continue;
		}
		n += (size_t)snprintf(to + n, size - n, "%s%x",
		    i == 0 || i == at + best ? "" : ":", group[i]);
	}
}

static unsigned
two(const unsigned char *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

/* A TLV of a version 2 header; p is moved behind it.  False at the end, and
   if the rest is no TLV. */
static bool
next_tlv(const unsigned char **p, size_t *len, unsigned *type, struct span *v)
{
	if (*len < 3 || two(*p + 1) > *len - 3)
		return false;
	*type = **p;
	v->len = two(*p + 1);
	v->p = (const char *)*p + 3;
	*p += 3 + v->len;
	*len -= 3 + v->len;
	return true;
}

/* What the proxy tells of the client's TLS with it: PP2_TYPE_SSL. */
static void
take_ssl(struct channel *ch, const unsigned char *p, size_t len)
{
	struct channel_tls *tls = &ch->tls;
	bool verified;
	unsigned type;
	struct span v;

	if (len < 5 || (p[0] & 1) == 0)
		return;
	verified = (p[0] & 6) != 0 && (p[1] | p[2] | p[3] | p[4]) == 0;
	ch->ssl = true;
	p += 5;
	len -= 5;
	while (next_tlv(&p, &len, &type, &v)) {
		if (!clean(v))
			continue;
		if (type == 0x21)
			copy(tls->protocol, sizeof tls->protocol, v);
		else if (type == 0x22 && verified)
			copy(tls->subject, sizeof tls->subject, v);
		else if (type == 0x23)
			copy(tls->cipher, sizeof tls->cipher, v);
	}
}

/* Version 2, already known to be complete: see proxy_missing().  False if the
   addresses are cut short. */
static bool
proxy_v2(struct channel *ch, const unsigned char *p, size_t len)
{
	struct channel_peer *peer = &ch->peer;
	bool tcp4 = p[13] == 0x11, tcp6 = p[13] == 0x21;
	size_t used = tcp4 ? 12 : tcp6 ? 36 : 0;
	unsigned type;
	struct span v;

	if ((p[12] & 15) == 0 || used == 0)
		return true;	/* LOCAL, or addresses that say nothing */
	if (len - PROXY_V2_HEAD < used)
		return false;
	p += PROXY_V2_HEAD;
	len -= PROXY_V2_HEAD + used;
	if (tcp4) {
		write_v4(peer->address, sizeof peer->address, p);
		write_v4(peer->server_address, sizeof peer->server_address,
		    p + 4);
	} else {
		write_v6(peer->address, sizeof peer->address, p);
		write_v6(peer->server_address, sizeof peer->server_address,
		    p + 16);
	}
	p += used;
	snprintf(peer->port, sizeof peer->port, "%u", two(p - 4));
	snprintf(peer->server_port, sizeof peer->server_port, "%u", two(p - 2));
	while (next_tlv(&p, &len, &type, &v))
		if (type == 0x20)
			take_ssl(ch, (const unsigned char *)v.p, v.len);
		else if (type == 0x02 && clean(v))
			copy(ch->tls.sni, sizeof ch->tls.sni, v);
	return true;
}

/* How the header in line stands: octets that must still come at least, 0 when
   it is complete, -1 when it is none. */
static int
proxy_missing(const struct channel *ch)
{
	static const char v1[] = "PROXY ";
	static const char v2[] = "\r\n\r\n\0\r\nQUIT\n";
	const char *p = ch->line;
	size_t n = ch->linelen;
	size_t total;

	if (n <= 6 && memcmp(p, v1, n) == 0)
		return 1;
	if (memcmp(p, v1, n < 6 ? n : 6) == 0) {
		if (p[n - 1] == '\n')
			return p[n - 2] == '\r' ? 0 : -1;
		return n < PROXY_V1_MAX ? 1 : -1;
	}
	if (memcmp(p, v2, n < 12 ? n : 12) != 0)
		return -1;
	if (n < PROXY_V2_HEAD)
		return 1;
	total = PROXY_V2_HEAD + two((const unsigned char *)p + 14);
	if ((p[12] & ~1) != 0x20 || (p[13] & 0xf0) > 0x30 ||
	    (p[13] & 15) > 2 || total > CHANNEL_LINE_MAX)
		return -1;
	return total == n ? 0 : 1;
}

static void
begin(struct channel *ch)
{
	ch->smtp_state = PHASE_CONNECT;
	if (ch->set->tls_on_connect && !ch->ssl)
		ch->want = WANT_TLS;
	else
		greet(ch);
}

/* The PROXY header that must come first; whoever sends anything else is hung
   up on without a word.  Takes not an octet more than the header. */
static size_t
proxy(struct channel *ch, const char *p, size_t len)
{
	const char *line = ch->line;
	struct span s;
	int missing = 1;
	size_t i = 0;

	while (i < len && missing > 0) {
		ch->line[ch->linelen++] = p[i++];
		missing = proxy_missing(ch);
	}
	s = (struct span){ line, ch->linelen };
	if (missing == 0 && line[0] == 'P')
		s.len -= 2;
	if (missing == 0 && line[0] == 'P' && (!clean(s) || !proxy_v1(ch, s)))
		missing = -1;
	else if (missing == 0 && line[0] != 'P' &&
	    !proxy_v2(ch, (const unsigned char *)line, s.len))
		missing = -1;
	if (missing > 0)
		return i;
	ch->linelen = 0;
	if (missing == 0) {
		begin(ch);
	} else {
		ch->smtp_state = PHASE_CLOSED;
		ch->want = WANT_CLOSE;
	}
	return i;
}

/* ---- the table of verbs, and who reads it ------------------------------ */

static void do_help(struct channel *ch, struct span arg);

static const struct verb verbs[] = {
	{ "HELO", ANY, VERB_ARG | VERB_ANON | VERB_SMTP, do_helo,
	    "HELO hostname", 0 },
	{ "EHLO", ANY, VERB_ARG | VERB_CLEAR | VERB_ANON | VERB_SMTP, do_ehlo,
	    "EHLO hostname", 0 },
	{ "LHLO", ANY, VERB_ARG | VERB_CLEAR | VERB_ANON | VERB_LMTP, do_ehlo,
	    "LHLO hostname", 0 },
	/* RFC 1870 3: 26, 6152 2: 17, 6531 3.1: 10, 3461 5: 500, 4954 3: 500 */
	{ "MAIL", IN(READY), VERB_ARG, do_mail,
	    "MAIL FROM:<address> [SP parameters]", 26 + 17 + 10 + 500 + 500 },
	{ "RCPT", IN(MAIL) | IN(RCPT), VERB_ARG, do_rcpt,
	    "RCPT TO:<address> [SP parameters]", 500 },
	{ "DATA", IN(RCPT), VERB_NOARG, do_data, "DATA", 0 },
	{ "BDAT", ANY, VERB_RAW, do_bdat, "BDAT octets [SP LAST]", 0 },
	{ "RSET", ANY, VERB_NOARG | VERB_ANON, do_rset, "RSET", 0 },
	{ "NOOP", ANY, VERB_CLEAR | VERB_ANON, do_noop, "NOOP [SP string]", 0 },
	{ "QUIT", ANY | IN(REFUSED), VERB_CLEAR | VERB_ANON, do_quit, "QUIT",
	    0 },
	{ "HELP", ANY, VERB_ANON, do_help, "HELP [SP verb]", 0 },
	{ "VRFY", ANY, VERB_ARG, do_vrfy, "VRFY <address>", 10 },
	{ "EXPN", ANY, VERB_ARG, do_expn, NULL, 10 },
	{ "STARTTLS", IN(CONNECT) | IN(READY), VERB_NOARG | VERB_CLEAR |
	    VERB_ANON, do_starttls, "STARTTLS", 0 },
	{ "AUTH", IN(READY), VERB_ARG | VERB_ANON, do_auth,
	    "AUTH mechanism [SP initial-response]", CHANNEL_LINE_MAX },
	{ "XCLIENT", IN(CONNECT) | IN(READY), VERB_ARG | VERB_CLEAR | VERB_ANON,
	    do_xclient, NULL, 512 },
	{ NULL, 0, 0, NULL, NULL, 0 },
};

/* What is expected in each phase, for 503. */
static const char *const expected[] = {
	[PHASE_PROXY] = "",
	[PHASE_REFUSED] = "only QUIT is taken",
	[PHASE_CONNECT] = "HELO or EHLO comes first",	/* in LMTP, LHLO */
	[PHASE_READY] = "there is no transaction, MAIL begins one",
	[PHASE_MAIL] = "there is a sender already, RCPT comes next",
	[PHASE_RCPT] = "there are sender and recipients already",
	[PHASE_DATA] = "",
	[PHASE_BDAT] = "BDAT is not finished",
	[PHASE_AUTH] = "",
	[PHASE_CLOSED] = "",
};

static bool
exists(const struct channel *ch, const struct verb *v)
{
	return (v->flags & (ch->set->lmtp ? VERB_SMTP : VERB_LMTP)) == 0;
}

static const struct verb *
find_in(const struct channel *ch, const struct verb *table, struct span name)
{
	if (table == NULL)
		return NULL;
	for (; table->name != NULL; table++)
		if (same(name, table->name) && exists(ch, table))
			return table;
	return NULL;
}

bool
channel_verb(const char *name)
{
	const struct verb *v = verbs;

	while (v->name != NULL && !same(span(name), v->name))
		v++;
	return v->name != NULL;
}

/* The embedder's verbs come first. */
static const struct verb *
find(const struct channel *ch, struct span name)
{
	const struct verb *v = find_in(ch, ch->set->verbs, name);

	return v != NULL ? v : find_in(ch, verbs, name);
}

/* HELP does not speak of what this session can not have. */
static bool
helpful(const struct channel *ch, const struct verb *v)
{
	return v->help != NULL && exists(ch, v) &&
	    (v->run != do_starttls || ch->set->tls) &&
	    (v->run != do_auth || authenticates(ch->set));
}

static void
list_verbs(const struct channel *ch, const struct verb *table, char *text,
    size_t size)
{
	size_t n = strlen(text);

	for (; table != NULL && table->name != NULL; table++)
		if (helpful(ch, table) && n < size)
			n += (size_t)snprintf(text + n, size - n, " %s",
			    table->name);
}

/* RFC 5321 4.1.1.8. */
static void
do_help(struct channel *ch, struct span arg)
{
	const struct verb *v = find(ch, arg);
	char text[512] = "Commands:";

	if (arg.len > 0 && (v == NULL || !helpful(ch, v))) {
		channel_reply(ch, 504, "5.5.4", "There is no help on that");
		return;
	}
	if (v != NULL) {
		snprintf(text, sizeof text, "Syntax: %s", v->help);
	} else {
		list_verbs(ch, ch->set->verbs, text, sizeof text);
		list_verbs(ch, verbs, text, sizeof text);
	}
	channel_reply(ch, 214, "2.0.0", text);
}

/* Where calls counts this verb: the embedder's behind our own. */
static unsigned *
calls(struct channel *ch, const struct verb *v)
{
	size_t ours = sizeof verbs / sizeof *verbs, i;

	if (v >= verbs && v < verbs + ours)
		i = (size_t)(v - verbs);
	else
		i = ours + (size_t)(v - ch->set->verbs);
	return &ch->calls[i < CHANNEL_VERBS_MAX ? i : CHANNEL_VERBS_MAX - 1];
}

/* Counts one more use of v.  False if that is one too many. */
static bool
within_limit(struct channel *ch, const struct verb *v)
{
	const struct command_limit *l = ch->set->command_limits;
	const struct command_limit *found = NULL;
	bool any = v->run != do_rcpt && v->run != do_bdat;

	for (; l != NULL && l->verb != NULL; l++)
		if (same(span(v->name), l->verb))
			found = l;
		else if (any && found == NULL && strcmp(l->verb, "*") == 0)
			found = l;
	return found == NULL || ++*calls(ch, v) <= found->max;
}

/* What is required may be what we can not do: then it is not the client's
   mail that is wrong, and he shall keep it. */
static void
want_tls(const struct channel_settings *set, struct reply *r)
{
	if (set->tls)
		deny(r, 530, "5.7.0", "Send STARTTLS first");
	else
		deny(r, 454, "4.7.0", "TLS is not available");
}

static void
want_auth(const struct channel_settings *set, struct reply *r)
{
	if (set->auth == NULL || *set->auth != '\0')
		deny(r, 530, "5.7.0", "Authentication required");
	else
		deny(r, 454, "4.7.0", "Authentication is not available");
}

/* Makes r a refusal if v can not be used now, whatever its handler thinks. */
static void
check(struct channel *ch, const struct verb *v, struct span line,
    struct span arg, struct reply *r)
{
	char text[128];
	size_t max = COMMAND_MAX - 2 + (ch->extended_smtp ? v->more : 0);
	bool missing = arg.len == 0 && (v->flags & VERB_ARG) != 0;
	bool extra = arg.len > 0 && (v->flags & VERB_NOARG) != 0;

	if (!clean(line))
		deny(r, 500, "5.5.2", "Control characters in a command");
	if (ch->overlong || line.len > max)
		deny(r, 500, "5.5.2", "Line too long");
	if ((v->when & 1U << ch->smtp_state) == 0) {
		snprintf(text, sizeof text, "Bad sequence of commands: %s",
		    ch->smtp_state == PHASE_CONNECT && ch->set->lmtp
		    ? "LHLO comes first" : expected[ch->smtp_state]);
		deny(r, 503, "5.5.1", text);
	}
	if (ch->set->require_starttls && !ch->ssl &&
	    (v->flags & VERB_CLEAR) == 0)
		want_tls(ch->set, r);
	if (ch->set->auth_required && !ch->authenticated &&
	    (v->flags & VERB_ANON) == 0)
		want_auth(ch->set, r);
	if (missing || extra) {
		snprintf(text, sizeof text, "Syntax: %s",
		    v->help == NULL ? v->name : v->help);
		deny(r, 501, "5.5.4", text);
	}
}

static void
command(struct channel *ch, struct span line)
{
	struct span arg = line, name = word(&arg);
	const struct verb *v = find(ch, name);
	struct reply r = { .code = 250 };
	char text[64];

	if (v == NULL && ch->smtp_state == PHASE_REFUSED)
		deny(&r, 503, "5.5.1", expected[PHASE_REFUSED]);
	else if (v == NULL && ch->overlong)
		deny(&r, 500, "5.5.2", "Line too long");
	else if (v == NULL)
		deny(&r, 500, "5.5.2", "Command not recognized");
	else if (!within_limit(ch, v)) {
		snprintf(text, sizeof text, "%s sent too many times", v->name);
		deny(&r, 421, "4.7.0", text);
	} else if ((v->flags & VERB_RAW) == 0)
		check(ch, v, line, arg, &r);
	if (r.code < 400)
		v->run(ch, arg);
	else
		answer(ch, &r);
}

/* Tells the log what was heard, but no credentials. */
static void
heard(const struct channel *ch, struct span line)
{
	static const char secret[] = "********";
	struct span rest = trim(line), verb = word(&rest);
	struct span mechanism = word(&rest);
	bool exact = same(verb, "AUTH");
	char text[64];

	if (ch->hooks->dialogue == NULL)
		return;
	if (ch->smtp_state == PHASE_AUTH) {
		line = span(secret);
	} else if (starts(verb, "AUTH") && (rest.len > 0 || !exact)) {
		snprintf(text, sizeof text, "AUTH %.*s %s",
		    exact ? (int)(mechanism.len < 32 ? mechanism.len : 32) : 0,
		    mechanism.p, secret);
		line = span(text);
	}
	ch->hooks->dialogue(ch->ctx, false, line);
}

/* Gathers a line, to its LF; a CR before it belongs to the line's end.
   Credentials do not stay in memory. */
static size_t
line(struct channel *ch, const char *p, size_t len)
{
	const char *lf = memchr(p, '\n', len);
	size_t used = lf == NULL ? len : (size_t)(lf - p) + 1;
	size_t n = lf == NULL ? len : used - 1;
	struct span s;

	if (n > CHANNEL_LINE_MAX - ch->linelen) {
		n = CHANNEL_LINE_MAX - ch->linelen;
		ch->overlong = true;
	}
	memcpy(ch->line + ch->linelen, p, n);
	ch->linelen += n;
	if (lf == NULL)
		return used;
	s = (struct span){ ch->line, ch->linelen };
	if (s.len > 0 && s.p[s.len - 1] == '\r' && !ch->overlong)
		s.len--;
	ch->linelen = 0;
	heard(ch, s);
	if (ch->smtp_state == PHASE_AUTH) {
		auth_response(ch, s);
		wipe(ch->line, s.len);
	} else {
		command(ch, s);
		if (starts(s, "AUTH"))
			wipe(ch->line, s.len);
	}
	ch->overlong = false;
	return used;
}

size_t
channel_feed(struct channel *ch, const char *bytes, size_t len)
{
	size_t used = 0;

	while (used < len && ch->want == WANT_INPUT &&
	    ch->outlen - ch->outsent < OUT_HIGH) {
		const char *p = bytes + used;
		size_t n = len - used;

		if (ch->smtp_state == PHASE_PROXY)
			used += proxy(ch, p, n);
		else if (ch->chunk > 0)
			used += chunk(ch, p, n);
		else if (ch->smtp_state == PHASE_DATA)
			used += text(ch, p, n);
		else
			used += line(ch, p, n);
	}
	return used;
}

void
channel_init(struct channel *ch, const struct channel_settings *set,
    const struct channel_hooks *hooks, void *ctx)
{
	static const struct span unknown = { "unknown", 7 };

	memset(ch, 0, offsetof(struct channel, first));
	ch->out = ch->first;
	ch->outsize = sizeof ch->first;
	ch->set = set;
	ch->hooks = hooks;
	ch->ctx = ctx;
	ch->smtp_state = PHASE_PROXY;
	ch->want = WANT_INPUT;
	copy(ch->peer.address, sizeof ch->peer.address, unknown);
	copy(ch->peer.name, sizeof ch->peer.name, unknown);
}

void
channel_greet(struct channel *ch)
{
	if (!ch->set->proxy_protocol)
		begin(ch);
}

void
channel_free(struct channel *ch)
{
	if (ch->set != NULL)
		forget(ch);
	if (ch->out != ch->first)
		free(ch->out);
	ch->out = ch->first;
	ch->outsize = sizeof ch->first;
	ch->outlen = ch->outsent = 0;
	ch->smtp_state = PHASE_CLOSED;
	ch->want = WANT_CLOSE;
}
