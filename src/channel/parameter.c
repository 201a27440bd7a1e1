/*
 * parameter.c - the parameters of MAIL and RCPT.
 */
#include <string.h>

#include "base/text.h"
#include "channel/private.h"

bool
is_hidden(const struct channel *ch, enum extension e)
{
	return ((ch->hidden | (ch->next == NULL ? 0 : ch->next->hidden)) &
	    1U << e) != 0;
}

bool
offers_8bit(const struct channel *ch)
{
	return !ch->set->decode_data;
}

bool
offers_smtputf8(const struct channel *ch)
{
	return ch->set->enable_SMTPUTF8 && !is_hidden(ch, EXT_SMTPUTF8);
}

bool
offers_dsn(const struct channel *ch)
{
	return ch->set->dsn && !is_hidden(ch, EXT_DSN);
}

bool
offers_tls(const struct channel *ch)
{
	return ch->set->tls && !is_hidden(ch, EXT_STARTTLS);
}

bool
offers_auth(const struct channel *ch)
{
	return ch->auth != NULL && !is_hidden(ch, EXT_AUTH);
}

bool
auth_is_short(const struct channel *ch)
{
	return ch->auth[strcspn(ch->auth, "?")] == '?' || *ch->auth == '\0';
}

static bool
offers_size(const struct channel *ch)
{
	return !is_hidden(ch, EXT_SIZE);
}

/* BODY belongs to 8BITMIME and to BINARYMIME. */
static bool
offers_body(const struct channel *ch)
{
	return offers_8bit(ch) && (!is_hidden(ch, EXT_8BITMIME) ||
	    !is_hidden(ch, EXT_BINARYMIME));
}

/* RFC 1870 6.1: up to 20 digits, which may be more than 64 bits hold. */
static bool
take_size(struct channel *ch, struct span value)
{
	if (span_digits(value) != value.len)
		return false;
	if (!text_parse_number(value, &ch->declared))
		ch->declared = UINT64_MAX;
	return value.len > 0 && value.len <= 20;
}

/* RFC 6152 2, RFC 3030 3. */
static bool
take_body(struct channel *ch, struct span value)
{
	if (span_same(value, "7BIT"))
		ch->body = BODY_7BIT;
	else if (span_same(value, "8BITMIME") && !is_hidden(ch, EXT_8BITMIME))
		ch->body = BODY_8BITMIME;
	else if (span_same(value, "BINARYMIME") &&
	    !is_hidden(ch, EXT_BINARYMIME))
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
	return span_same(value, "FULL") || span_same(value, "HDRS");
}

/* Is value xtext of a text without control characters?  Those who decode it
   later would write them into a report or a log. */
static bool
is_printable_xtext(struct span value)
{
	char text[CHANNEL_LINE_MAX];
	long n = text_decode_xtext(text, sizeof text, value);

	return n > 0 && span_printable((struct span){ text, (size_t)n });
}

/* RFC 3461 4.4: ENVID; RFC 4954 5: AUTH. */
static bool
take_xtext(struct channel *ch, struct span value)
{
	(void)ch;
	return is_printable_xtext(value);
}

/* RFC 3461 4.1: NEVER, or a list of SUCCESS, FAILURE and DELAY. */
static bool
take_notify(struct channel *ch, struct span value)
{
	struct span one;

	(void)ch;
	if (span_same(value, "NEVER"))
		return true;
	for (;;) {
		one = value;
		for (one.len = 0; one.len < value.len; one.len++)
			if (value.p[one.len] == ',')
				break;
		if (!span_same(one, "SUCCESS") && !span_same(one, "FAILURE") &&
		    !span_same(one, "DELAY"))
			return false;
		if (one.len == value.len)
			return true;
		value = span_skip(value, one.len + 1);
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
		if (!text_is_alnum(value.p[i]) && value.p[i] != '-')
			return false;
	value = span_skip(value, n + 1);
	return ch->smtp_utf8 && text_decode_xtext(NULL, 0, value) == -1
	    ? span_printable(value) : is_printable_xtext(value);
}

/* A parameter of MAIL or RCPT.  take returns false if its value is invalid; the
   value's p is NULL if there is none. */
struct parameter {
	const char *name;
	bool (*offered)(const struct channel *ch);
	bool (*take)(struct channel *ch, struct span value);
};

static const struct parameter mail_parameters[] = {
	{ "SIZE", offers_size, take_size },
	{ "BODY", offers_body, take_body },
	{ "SMTPUTF8", offers_smtputf8, take_smtputf8 },
	{ "RET", offers_dsn, take_ret },
	{ "ENVID", offers_dsn, take_xtext },
	{ "AUTH", offers_auth, take_xtext },
	{ NULL, NULL, NULL },
};

static const struct parameter rcpt_parameters[] = {
	{ "NOTIFY", offers_dsn, take_notify },
	{ "ORCPT", offers_dsn, take_orcpt },
	{ NULL, NULL, NULL },
};

bool
parse_parameter(struct span *s, struct span *name, struct span *value)
{
	struct span w = span_word(s);

	*name = w;
	*value = (struct span){ NULL, 0 };
	for (size_t i = 0; i < w.len; i++) {
		if (w.p[i] == '=') {
			name->len = i;
			*value = span_skip(w, i + 1);
			break;
		}
		if (!text_is_alnum(w.p[i]) && w.p[i] != '-')
			return false;
	}
	if (name->len == 0 || name->p[0] == '-')
		return false;
	return value->p == NULL || (value->len > 0 &&
	    memchr(value->p, '=', value->len) == NULL);
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
	unsigned seen = 0, passed = 0, bit;

	if (s.len > 0 && !ch->extended_smtp)
		reply_deny(r, 501, "5.5.4", "Parameters need EHLO");
	while (s.len > 0 && r->code < 400) {
		if (!parse_parameter(&s, &name, &value)) {
			reply_deny(r, 501, "5.5.4", "Malformed parameter");
			return;
		}
		for (t = table; t->name != NULL; t++)
			if (span_same(name, t->name) && t->offered(ch))
				break;
		bit = 1U << (t - table);
		if (t->name == NULL && next_parameter(ch, name, value,
		    table == mail_parameters, &passed, r))
			continue;
		if (t->name == NULL)
			reply_deny(r, 555, "5.5.4", "Parameter not recognized");
		else if ((seen & bit) != 0)
			reply_deny(r, 501, "5.5.4", "Parameter given twice");
		else if (!t->take(ch, value))
			reply_deny(r, 501, "5.5.4", "Bad value of a parameter");
		seen |= bit;
	}
}

void
parse_mail_parameters(struct channel *ch, struct span s, struct reply *r)
{
	parameters(ch, s, mail_parameters, r);
}

void
parse_rcpt_parameters(struct channel *ch, struct span s, struct reply *r)
{
	parameters(ch, s, rcpt_parameters, r);
}
