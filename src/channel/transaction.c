/*
 * transaction.c - MAIL, RCPT, the envelope's memory, and its end.
 *
 * transaction_forget() ends every transaction, however it ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "channel/private.h"

/* Strings that do not fit in the channel's own memory. */
struct channel_kept {
	struct channel_kept *next;
	char text[];
};

/* Keeps two strings until the transaction ends, and returns the first.  NULL:
   no memory. */
static char *
keep_strings(struct channel *ch, struct span a, struct span b, char **second)
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
	span_copy(p, a.len + 1, a);
	span_copy(*second, b.len + 1, b);
	return p;
}

/* Drops the strings that were kept last. */
static void
drop_strings(struct channel *ch, const char *p)
{
	struct channel_kept *more = ch->more;

	if (more != NULL && p == more->text) {
		ch->more = more->next;
		free(more);
	} else if (p != NULL) {
		ch->keptlen = (size_t)(p - ch->kept);
	}
}

void
transaction_forget(struct channel *ch)
{
	if (ch->mailfrom != NULL && ch->hooks->forget != NULL)
		ch->hooks->forget(ch->ctx);
	while (ch->more != NULL)
		drop_strings(ch, ch->more->text);
	ch->keptlen = 0;
	if (ch->rcptsize > CHANNEL_FEW)
		free(ch->rcpttos);
	ch->rcpttos = NULL;
	ch->nrcpttos = ch->rcptsize = 0;
	ch->mailfrom = ch->mail_options = NULL;
	ch->forwarded = false;
	ch->smtp_utf8 = false;
	ch->body = BODY_7BIT;
	ch->size = ch->declared = 0;
	ch->mail_waits = false;
	ch->waiting = 0;
	ch->at = BOL;
	ch->utf8 = 0;
	ch->verdict.code = 0;
	if (ch->smtp_state >= PHASE_READY && ch->smtp_state < PHASE_CLOSED)
		ch->smtp_state = PHASE_READY;
}

/* Takes "FROM:" or "TO:", which follows the verb in form, and a path off *arg,
   and the blanks after them. */
static void
sender_or_recipient(const char *form, struct span *arg, struct span *out,
    const char *enh, struct reply *r)
{
	const char *prefix = strchr(form, ' ') + 1;
	char text[80];
	size_t n = strlen(prefix);

	if (!span_starts(*arg, prefix)) {
		snprintf(text, sizeof text, "Syntax: %s<address>", form);
		reply_deny(r, 501, enh, text);
		return;
	}
	*arg = span_skip(*arg, n);
	if (!parse_path(arg, out))
		reply_deny(r, 501, enh, "Bad address syntax");
	*arg = span_trim(*arg);
}

/* RFC 6531 3.5: an address of UTF-8 needs the parameter SMTPUTF8. */
static void
check_ascii(const struct channel *ch, struct span address, struct reply *r)
{
	if (!ch->smtp_utf8 && !text_is_ascii(address.p, address.len))
		reply_deny(r, 553, "5.6.7", "That address needs SMTPUTF8");
}

void
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
	parse_mail_parameters(ch, arg, &r);
	check_ascii(ch, from, &r);
	if (size_limit(ch) != 0 && ch->declared > size_limit(ch))
		reply_deny(&r, 552, "5.3.4",
		    "Message is larger than the limit");
	kept = keep_strings(ch, from, arg, &options);
	if (kept == NULL)
		reply_deny(&r, 452, "4.3.1", "Out of memory");
	if (r.code < 400 && ch->hooks->group != NULL) {
		ch->mailfrom = kept;
		ch->mail_options = options;
		ch->smtp_state = PHASE_MAIL;
		ch->mail_waits = true;
		return;
	}
	if (r.code < 400 && ch->hooks->mail != NULL)
		ch->hooks->mail(ch->ctx, from, arg, &r);
	reply_answer(ch, &r);
	if (r.code >= 400) {
		transaction_forget(ch);
		return;
	}
	ch->mailfrom = kept;
	ch->mail_options = options;
	ch->smtp_state = PHASE_MAIL;
	ch->mails++;
}

bool
transaction_waits(const struct channel *ch)
{
	return ch->mail_waits || ch->waiting > 0;
}

/* Answers MAIL.  Returns false if it was refused. */
static bool
answer_mail(struct channel *ch, const struct reply *r)
{
	if (r->code < 400) {
		ch->mails++;
		reply_answer(ch, r);
		return true;
	}
	/* There was no transaction that the program could forget. */
	ch->mailfrom = NULL;
	transaction_forget(ch);
	reply_answer(ch, r);
	return false;
}

/* Answers the i-th of the recipients that waited, which stand from first on.
   Those that were accepted close up. */
static void
answer_rcpt(struct channel *ch, size_t first, size_t i, const struct reply *r)
{
	if (r->code < 400) {
		ch->rcpttos[ch->nrcpttos++] = ch->rcpttos[first + i];
		ch->smtp_state = PHASE_RCPT;
	}
	reply_answer(ch, r);
}

/* Asks about what waits. */
static void
ask_group(struct channel *ch, bool mail, size_t n, struct reply r[])
{
	const struct recipient *to = n > 0 ? ch->rcpttos + ch->nrcpttos : NULL;
	const struct channel_hooks *h = ch->hooks;

	if (mail)
		reply_set(&r[0], 250, "2.1.0", "Sender OK");
	for (size_t i = 0; i < n; i++)
		reply_set(&r[mail + i], 250, "2.1.5", "Recipient OK");
	if (mail + n > 1)
		h->group(ch->ctx, mail, to, n, r);
	else if (mail && h->mail != NULL)
		h->mail(ch->ctx, span_of(ch->mailfrom),
		    span_of(ch->mail_options), r);
	else if (!mail && h->rcpt != NULL)
		h->rcpt(ch->ctx, span_of(to->address), span_of(to->options),
		    r);
}

void
transaction_settle(struct channel *ch)
{
	const bool mail = ch->mail_waits;
	const size_t n = ch->waiting, first = ch->nrcpttos;
	struct reply one = { .code = 0 }, *r = &one;
	bool good = true, memory = true;

	if (!transaction_waits(ch))
		return;
	if (mail + n > 1)
		memory = (r = malloc((mail + n) * sizeof *r)) != NULL;
	if (memory)
		ask_group(ch, mail, n, r);
	else
		reply_set(&one, 452, "4.3.1", "Out of memory");
	ch->mail_waits = false;
	ch->waiting = 0;
	if (mail)
		good = answer_mail(ch, memory ? r : &one);
	for (size_t i = 0; i < n && ch->want != WANT_CLOSE; i++) {
		if (good) {
			answer_rcpt(ch, first, i, memory ? &r[mail + i] : &one);
			continue;
		}
		one.code = 250;
		reply_deny_sequence(ch, &one);
		reply_answer(ch, &one);
	}
	/* The last strings that were kept can be dropped: so a client that
	   guesses names costs no memory. */
	for (size_t i = n; good && i > 0 &&
	    (memory ? r[mail + i - 1].code : one.code) >= 400; i--)
		drop_strings(ch, ch->rcpttos[first + i - 1].address);
	if (r != &one)
		free(r);
}

/* Makes room for one more recipient.  Returns false if there is no memory. */
static bool
grow_recipients(struct channel *ch)
{
	size_t size = ch->rcptsize * 2;
	struct recipient *rows;

	if (ch->nrcpttos + ch->waiting < ch->rcptsize)
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

/* Refuses a recipient, after the commands that wait are answered: their outcome
   may make it another refusal, or none. */
static void
refuse_rcpt(struct channel *ch, struct span arg, struct reply *r)
{
	if (!transaction_waits(ch)) {
		reply_answer(ch, r);
		return;
	}
	transaction_settle(ch);
	if (ch->want == WANT_CLOSE)
		return;
	if (ch->smtp_state == PHASE_MAIL || ch->smtp_state == PHASE_RCPT) {
		do_rcpt(ch, arg);
		return;
	}
	r->code = 250;
	reply_deny_sequence(ch, r);
	reply_answer(ch, r);
}

void
do_rcpt(struct channel *ch, struct span arg)
{
	const struct span whole = arg;
	struct reply r;
	struct span to = { "", 0 };
	size_t max = ch->set->max_recipients;
	char *address, *options = NULL;

	reply_set(&r, 250, "2.1.5", "Recipient OK");
	sender_or_recipient("RCPT TO:", &arg, &to, "5.1.3", &r);
	if (to.len == 0)
		reply_deny(&r, 501, "5.1.3", "A recipient is needed");
	parse_rcpt_parameters(ch, arg, &r);
	check_ascii(ch, to, &r);
	if (max != 0 && ch->nrcpttos + ch->waiting >= max)
		reply_deny(&r, 452, "4.5.3", "Too many recipients");
	address = keep_strings(ch, to, arg, &options);
	if (address == NULL || !grow_recipients(ch))
		reply_deny(&r, 452, "4.3.1", "Out of memory");
	if (r.code < 400 && ch->hooks->group != NULL) {
		ch->rcpttos[ch->nrcpttos + ch->waiting++] =
		    (struct recipient){ address, options };
		if (ch->waiting == CHANNEL_GROUP)
			transaction_settle(ch);
		return;
	}
	if (r.code < 400 && ch->hooks->rcpt != NULL)
		ch->hooks->rcpt(ch->ctx, to, arg, &r);
	if (r.code < 400) {
		ch->rcpttos[ch->nrcpttos++] =
		    (struct recipient){ address, options };
		ch->smtp_state = PHASE_RCPT;
	} else {
		drop_strings(ch, address);
		refuse_rcpt(ch, whole, &r);
		return;
	}
	reply_answer(ch, &r);
}
