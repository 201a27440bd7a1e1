/*
 * next.c - what the next hop can carry, where the session has one that is
 * asked during the dialogue: its answer to EHLO, and the parameters of the
 * extensions that are its own affair.
 */
#include <string.h>

#include "base/text.h"
#include "channel/private.h"

/* RFC 2852 4: [+-] 1*9DIGIT ";" mode ["T"].  To return a message (R) there
   must be time for its delivery. */
static bool
is_by(struct span s)
{
	bool sign = s.len > 0 && (s.p[0] == '+' || s.p[0] == '-');
	bool negative = sign && s.p[0] == '-', zero = true;
	size_t n;

	if (sign)
		s = span_skip(s, 1);
	n = span_digits(s);
	for (size_t i = 0; i < n; i++)
		zero = zero && s.p[i] == '0';
	if (n == 0 || n > 9 || n == s.len || s.p[n] != ';')
		return false;
	s = span_skip(s, n + 1);
	if (span_same(s, "N") || span_same(s, "NT"))
		return true;
	return (span_same(s, "R") || span_same(s, "RT")) && !negative && !zero;
}

/* RFC 4865 4: seconds, 1*9DIGIT. */
static bool
is_seconds(struct span s)
{
	return s.len > 0 && s.len <= 9 && span_digits(s) == s.len;
}

/* Does s have the form of like, in which 0 is a digit? */
static bool
has_form(struct span s, const char *like)
{
	for (size_t i = 0; like[i] != '\0'; i++)
		if (i >= s.len || (like[i] == '0' ? !text_is_digit(s.p[i])
		    : (s.p[i] | 32) != (like[i] | 32)))
			return false;
	return true;
}

static unsigned
two_digits(const char *p)
{
	return (unsigned)(p[0] - '0') * 10 + (unsigned)(p[1] - '0');
}

/* Takes a date and time of RFC 3339 5.6 off *s. */
static bool
take_time(struct span *s)
{
	const char *p = s->p;
	size_t n;

	if (!has_form(*s, "0000-00-00T00:00:00"))
		return false;
	if (two_digits(p + 5) < 1 || two_digits(p + 5) > 12 ||
	    two_digits(p + 8) < 1 || two_digits(p + 8) > 31 ||
	    two_digits(p + 11) > 23 || two_digits(p + 14) > 59 ||
	    two_digits(p + 17) > 60)
		return false;
	*s = span_skip(*s, 19);
	if (s->len > 0 && s->p[0] == '.') {
		n = span_digits(span_skip(*s, 1));
		if (n == 0)
			return false;
		*s = span_skip(*s, n + 1);
	}
	if (has_form(*s, "Z")) {
		*s = span_skip(*s, 1);
		return true;
	}
	if (!has_form(*s, "+00:00") && !has_form(*s, "-00:00"))
		return false;
	if (two_digits(s->p + 1) > 23 || two_digits(s->p + 4) > 59)
		return false;
	*s = span_skip(*s, 6);
	return true;
}

static bool
is_time(struct span s)
{
	return take_time(&s) && s.len == 0;
}

/* RFC 7293 3.1: a time, and perhaps whether to continue or to reject. */
static bool
is_since(struct span s)
{
	return take_time(&s) &&
	    (s.len == 0 || span_same(s, ";C") || span_same(s, ";R"));
}

/* RFC 6710 4.1: from -9 to 9. */
static bool
is_priority(struct span s)
{
	if (s.len > 0 && s.p[0] == '-')
		s = span_skip(s, 1);
	return s.len == 1 && text_is_digit(s.p[0]);
}

/* RFC 8689 2: it takes no value. */
static bool
is_nothing(struct span s)
{
	return s.p == NULL;
}

static const char keywords[][14] = {
	[NEXT_DELIVERBY] = "DELIVERBY",
	[NEXT_FUTURERELEASE] = "FUTURERELEASE",
	[NEXT_MT_PRIORITY] = "MT-PRIORITY",
	[NEXT_REQUIRETLS] = "REQUIRETLS",
	[NEXT_RRVS] = "RRVS",
};
_Static_assert(COUNT(keywords) == NEXT_EXTENSIONS, "each has a keyword");

/* Their parameters.  Of one extension only one may be given: RFC 4865 4. */
static const struct {
	const char *name;
	enum next_extension of;
	bool mail;		/* of MAIL, else of RCPT */
	bool (*valid)(struct span value);
} rows[] = {
	{ "BY", NEXT_DELIVERBY, true, is_by },
	{ "HOLDFOR", NEXT_FUTURERELEASE, true, is_seconds },
	{ "HOLDUNTIL", NEXT_FUTURERELEASE, true, is_time },
	{ "MT-PRIORITY", NEXT_MT_PRIORITY, true, is_priority },
	{ "REQUIRETLS", NEXT_REQUIRETLS, true, is_nothing },
	{ "RRVS", NEXT_RRVS, false, is_since },
};

bool
offers_next(const struct channel *ch, enum next_extension e)
{
	return ch->next != NULL && ch->next->lines[e][0] != '\0' &&
	    (e != NEXT_REQUIRETLS || ch->ssl);
}

bool
next_parameter(const struct channel *ch, struct span name, struct span value,
    bool mail, unsigned *seen, struct reply *r)
{
	unsigned bit;

	for (size_t i = 0; i < COUNT(rows); i++) {
		if (rows[i].mail != mail || !span_same(name, rows[i].name) ||
		    !offers_next(ch, rows[i].of))
			continue;
		bit = 1U << rows[i].of;
		if ((*seen & bit) != 0)
			reply_deny(r, 501, "5.5.4", "Parameter given twice");
		else if (!rows[i].valid(value))
			reply_deny(r, 501, "5.5.4", "Bad value of a parameter");
		*seen |= bit;
		return true;
	}
	return false;
}

uint64_t
smaller_limit(uint64_t ours, uint64_t theirs)
{
	return ours == 0 || (theirs != 0 && theirs < ours) ? theirs : ours;
}

uint64_t
size_limit(const struct channel *ch)
{
	return smaller_limit(ch->set->data_size_limit,
	    ch->next == NULL ? 0 : ch->next->size);
}

void
channel_next_open(struct channel_next *n)
{
	memset(n, 0, sizeof *n);
	n->hidden = 1U << EXT_8BITMIME | 1U << EXT_SMTPUTF8 |
	    1U << EXT_BINARYMIME | 1U << EXT_DSN;
}

/* Takes the number of "NAME=NUMBER". */
static void
take_limit(struct span word, const char *name, uint64_t *to)
{
	uint64_t n;

	if (span_starts(word, name) &&
	    text_parse_number(span_skip(word, strlen(name)), &n))
		*to = n;
}

void
channel_next_line(struct channel_next *n, struct span line)
{
	struct span rest = span_trim(line), name = span_word(&rest), word;
	int ours = channel_extension(name);

	if (ours != -1)
		n->hidden &= ~(1U << ours);
	if (ours == EXT_SIZE && !text_parse_number(rest, &n->size))
		n->size = 0;
	while (ours == EXT_LIMITS && rest.len > 0) {
		word = span_word(&rest);
		take_limit(word, "RCPTMAX=", &n->recipients);
		take_limit(word, "MAILMAX=", &n->messages);
	}
	for (size_t i = 0; i < COUNT(keywords); i++)
		if (span_same(name, keywords[i]) &&
		    line.len < sizeof n->lines[i] && span_printable(line))
			span_copy(n->lines[i], sizeof n->lines[i], line);
}

void
channel_offer_next(struct channel *ch, const struct channel_next *n)
{
	ch->next = n;
}
