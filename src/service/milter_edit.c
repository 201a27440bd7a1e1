/*
 * milter_edit.c - what a filter changes at the end of a message.
 *
 * Nothing of it holds before the filter has accepted: milter_commit().  What
 * it sends is checked as a client's octets are.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "service/milter_private.h"

/* GCC's analyser does not see that what m points to keeps what is stored
   there; milter_undo() frees it. */
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"
#endif

#define ADDRESS_MAX 1000	/* octets of an address, with NUL */
#define OPTIONS_MAX 1000	/* octets of its parameters, with NUL */
#define RECIPIENTS_MAX 100000	/* that a filter adds or deletes */

/* Keeps the strings that follow each other as one. */
static char *
keep(struct milter *m, const char *a, const char *b, const char *c)
{
	const size_t n = strlen(a) + strlen(b) + strlen(c) + 1;
	char **kept = table_grow(m->kept, m->nkept, sizeof *kept);

	if (kept != NULL) {
		m->kept = kept;
		kept[m->nkept] = malloc(n);
	}
	if (kept == NULL || kept[m->nkept] == NULL) {
		m->fault = "no memory for its changes";
		return NULL;
	}
	return text_join(kept[m->nkept++], n, a, b, c, NULL);
}

void
milter_undo(struct milter *m)
{
	while (m->nkept > 0)
		free(m->kept[--m->nkept]);
	free(m->kept);
	m->kept = NULL;
	free(m->recipients);
	m->recipients = NULL;
	m->nrecipients = 0;
	m->resized = false;
	if (m->spool != -1)
		close(m->spool);
	m->spool = -1;
}

/* ---- envelope ---- */

/*
 * Takes the angle brackets off an address.  Returns it if it can stand between
 * them (RFC 5321 4.1.2): no control characters, and blanks and brackets in a
 * quoted local part only.  NULL, with a fault, if not.
 */
static char *
read_path(struct milter_change *c, char *p)
{
	bool utf8 = c->message->env.smtputf8, quoted = false;
	size_t len = strlen(p), n;

	if (len >= 2 && p[0] == '<' && p[len - 1] == '>') {
		p[len - 1] = '\0';
		p++;
		len -= 2;
	}
	c->m->fault = "invalid address";
	if (len >= ADDRESS_MAX || *p == '-' || *p == '@')
		return NULL;
	for (size_t i = 0; i < len; i += n) {
		n = text_printable(p + i, len - i);
		if (n == 0 || (n > 1 && !utf8) ||
		    (!quoted && strchr(" <>()\\,;", p[i]) != NULL))
			return NULL;
		if (quoted && p[i] == '\\' && p[i + 1] != '\0')
			n += text_printable(p + i + 1, 1);
		else if (p[i] == '"')
			quoted = !quoted;
	}
	if (quoted)
		return NULL;
	c->m->fault = NULL;
	return p;
}

/* Keeps of the parameters those that have one of two names; the log tells of
   the others.  The result is in to, each with a blank in front. */
static void
read_parameters(struct milter_change *c, const char *p, const char *one,
    const char *other, char to[OPTIONS_MAX])
{
	size_t len, n = 0;
	char shown[256], line[256];
	bool good;

	for (; *p != '\0'; p += len) {
		p += strspn(p, " ");
		len = strcspn(p, " ");
		good = strncasecmp(p, one, strlen(one)) == 0 ||
		    strncasecmp(p, other, strlen(other)) == 0;
		for (size_t i = 0; i < len; i++)
			good = good && p[i] > ' ' && p[i] < '\177';
		if (good && len + 2 <= OPTIONS_MAX - n) {
			to[n++] = ' ';
			memcpy(to + n, p, len);
			n += len;
		} else if (len > 0) {
			text_cut(shown, sizeof shown, p, len);
			text_one_line(line, sizeof line, shown);
			logger_printf(c->m->set->log, LOG_WARNING, "milter",
			    &c->message->env, "filter %s: parameter %s is "
			    "ignored", c->m->service, line);
		}
	}
	to[n] = '\0';
}

static void
change_sender(struct milter_change *c, char *address, const char *options)
{
	const char *old = c->message->env.fact[FACT_MAIL_OPTIONS];
	char new[OPTIONS_MAX], rest[OPTIONS_MAX] = "";
	size_t len, n = 0;

	address = read_path(c, address);
	if (address == NULL)
		return;
	read_parameters(c, options, "RET=", "ENVID=", new);
	/* What the client said, but for what is said anew. */
	for (; *old != '\0'; old += len) {
		old += strspn(old, " ");
		len = strcspn(old, " ");
		if (len == 0 || len + 2 > sizeof rest - n ||
		    (text_find_word(new, "RET") != NULL &&
		    strncasecmp(old, "RET=", 4) == 0) ||
		    (text_find_word(new, "ENVID") != NULL &&
		    strncasecmp(old, "ENVID=", 6) == 0))
			continue;
		rest[n++] = ' ';
		memcpy(rest + n, old, len);
		n += len;
		rest[n] = '\0';
	}
	c->sender = keep(c->m, address, "", "");
	c->options = keep(c->m, rest[0] == '\0' ? "" : rest + 1,
	    rest[0] == '\0' ? new + (new[0] == ' ') : new, "");
}

/* Makes the list of recipients the filter's own.  False: no memory. */
static bool
own_recipients(struct milter_change *c)
{
	const struct envelope *env = &c->message->env;
	size_t room = 1;	/* as table_grow() wants it */

	if (c->m->resized)
		return true;
	while (room < env->nrecipients)
		room *= 2;
	c->m->recipients = calloc(room, sizeof *c->m->recipients);
	if (c->m->recipients == NULL)
		return false;
	if (env->nrecipients > 0)
		memcpy(c->m->recipients, env->recipients,
		    env->nrecipients * sizeof *c->m->recipients);
	c->m->nrecipients = env->nrecipients;
	c->m->resized = true;
	return true;
}

/* Appends a recipient, or fails with a fault. */
static void
append_recipient(struct milter_change *c, const char *address,
    const char *options)
{
	struct milter *m = c->m;
	struct recipient *more = NULL;

	if (own_recipients(c))
		more = table_grow(m->recipients, m->nrecipients, sizeof *more);
	if (more == NULL) {
		m->fault = "no memory for its changes";
		return;
	}
	m->recipients = more;
	if (m->nrecipients - c->message->env.nrecipients >= RECIPIENTS_MAX)
		m->fault = "too many recipients";
	else if (m->fault == NULL)
		m->recipients[m->nrecipients++] = (struct recipient){
			address, options };
}

static void
add_recipient(struct milter_change *c, char *address, const char *options)
{
	struct milter *m = c->m;
	char new[OPTIONS_MAX];

	address = read_path(c, address);
	if (address == NULL)
		return;
	if (*address == '\0') {
		m->fault = "recipient without an address";
		return;
	}
	read_parameters(c, options, "NOTIFY=", "ORCPT=", new);
	append_recipient(c, keep(m, address, "", ""),
	    keep(m, new + (new[0] == ' '), "", ""));
}

/* One without options takes those away that have its address and come before
   it. */
static void
delete_recipient(struct milter_change *c, char *address)
{
	address = read_path(c, address);
	if (address != NULL)
		append_recipient(c, keep(c->m, address, "", ""), NULL);
}

/* By address, and those that have the same as they came. */
static int
compare_recipients(const void *a, const void *b)
{
	const struct recipient *one = *(struct recipient *const *)a;
	const struct recipient *other = *(struct recipient *const *)b;
	int order = strcasecmp(one->address, other->address);

	return order != 0 ? order : (one > other) - (one < other);
}

/* Keeps of those who have the same address, first[0..n), what deletions and
   additions leave; the others lose it.  From the place added on they are
   additions, each of which counts only if there is no other. */
static void
settle_address(struct recipient *first[], size_t n,
    const struct recipient *added)
{
	size_t live = 0, i, j = 0;

	for (i = 0; i < n; i++) {
		for (; first[i]->options == NULL && j < i; j++)
			first[j]->address = NULL;
		if (first[i]->options == NULL || (first[i] >= added &&
		    live > 0))
			first[i]->address = NULL;
		live = first[i]->options == NULL ? 0 : live + 1;
	}
}

/* Makes deletions and additions, in time that grows with their number.  Returns
   0, or -1 with errno. */
static int
settle_recipients(struct milter *m, size_t before)
{
	size_t n = m->nrecipients, i, same, kept = 0;
	struct recipient **all = calloc(n, sizeof *all);

	if (all == NULL)
		return -1;
	for (i = 0; i < n; i++)
		all[i] = &m->recipients[i];
	qsort(all, n, sizeof *all, compare_recipients);
	for (i = 0; i < n; i += same) {
		const char *address = all[i]->address;

		for (same = 1; i + same < n && strcasecmp(address,
		    all[i + same]->address) == 0; same++)
			;
		settle_address(all + i, same, m->recipients + before);
	}
	free(all);
	for (i = 0; i < n; i++)
		if (m->recipients[i].address != NULL)
			m->recipients[kept++] = m->recipients[i];
	m->nrecipients = kept;
	return 0;
}

/* ---- header and body ---- */

/* What the editor refused. */
static void
edited(struct milter_change *c, int status)
{
	if (status == 0)
		return;
	c->m->fault = errno == EINVAL ? "header field without a proper name"
	    : errno == E2BIG ? "too many header fields"
	    : "no memory for its changes";
}

/* What follows the colon: without SMFIP_HDR_LEADSPC a blank is ours. */
static const char *
field_value(struct milter_change *c, const char *value)
{
	if ((c->m->steps & STEP_LEADING_SPACE) != 0)
		return value;
	return keep(c->m, " ", value, "");
}

static void
change_field(struct milter_change *c, char command, uint32_t i,
    const char *name, const char *value)
{
	bool delete = command == 'm' && *value == '\0';

	value = delete ? NULL : field_value(c, value);
	if (c->m->fault != NULL)
		return;
	if (command == 'm')
		edited(c, edit_change(&c->edit, i == 0 ? 1 : i, name, value));
	else if (command == 'i')
		edited(c, edit_insert(&c->edit, i, name, value));
	else
		edited(c, edit_add(&c->edit, name, value));
}

/*
 * Adds octets to the new body.  Its lines end in CRLF, and it has no NUL, as
 * if a client had sent it with --bare-newline normalize; a binary body is taken
 * as it is.
 */
static int
add_body(struct milter_change *c, const char *p, size_t len)
{
	size_t from = 0, i;
	int status = 0;

	if (c->message->env.body == BODY_BINARYMIME)
		return edit_body(&c->edit, p, len);
	for (i = 0; i < len && status == 0; i++) {
		bool bare = c->ended != (p[i] == '\n');

		if (!bare && p[i] != '\0') {
			c->ended = p[i] == '\r';
			continue;
		}
		status = edit_body(&c->edit, p + from, i - from);
		if (status == 0 && bare)	/* CR or LF is missing here */
			status = edit_body(&c->edit, c->ended ? "\n" : "\r", 1);
		c->ended = p[i] == '\r';
		from = i + (p[i] == '\0');
	}
	return status == 0 ? edit_body(&c->edit, p + from, len - from) : -1;
}

static void
replace_body(struct milter_change *c, uint64_t left)
{
	struct milter *m = c->m;
	size_t n;

	if (edit_body(&c->edit, "", 0) == -1)
		m->fault = "no memory for its changes";
	while (m->fault == NULL && left > 0) {
		n = milter_body_data(m, left, m->set->content);
		left -= n;
		if (m->fault == NULL && add_body(c, m->in, n) == -1)
			m->fault = "no memory for its changes";
	}
}

/* ---- the interface ---- */

/* Makes the strings that follow the one at p, up to end, one: parameters of an
   address, with blanks between them.  Returns it; "" if there are none. */
static char *
join_options(char *p, char *end)
{
	char *options = p + strlen(p) + 1;

	if (options == end)
		return end;	/* where there is a NUL, too */
	for (p = options; p + 1 < end; p++)
		if (*p == '\0')
			*p = ' ';
	return options;
}

/* How many strings, each with its NUL, are in p[0..len)?  0 if the last has
   none. */
static size_t
count_strings(const char *p, size_t len)
{
	size_t n = 0;

	if (len == 0 || p[len - 1] != '\0')
		return 0;
	for (size_t i = 0; i < len; i++)
		n += p[i] == '\0';
	return n;
}

/* The changes, and how many strings each has. */
static const struct {
	char command;
	bool index;		/* a number stands in front of them */
	unsigned char least, most;
} changes[] = {
	{ '+', false, 1, 1 },
	{ '2', false, 1, UCHAR_MAX },
	{ '-', false, 1, 1 },
	{ 'e', false, 1, UCHAR_MAX },
	{ 'h', false, 2, 2 },
	{ 'i', true, 2, 2 },
	{ 'm', true, 2, 2 },
	{ 'q', false, 1, 1 },
	{ 'b', false, 0, 0 },
};

/* Does one that is well-formed: strings begin at p. */
static void
make_change(struct milter_change *c, char command, uint32_t i, char *p)
{
	struct milter *m = c->m;
	char *end = m->in + m->len;

	switch (command) {
	case '+':
	case '2':
		add_recipient(c, p, join_options(p, end));
		break;
	case '-':
		delete_recipient(c, p);
		break;
	case 'e':
		change_sender(c, p, join_options(p, end));
		break;
	case 'q':
		c->quarantine = keep(m, p, "", "");
		break;
	default:
		change_field(c, command, i, p, p + strlen(p) + 1);
		break;
	}
}

bool
milter_change(struct milter_change *c, char command, uint64_t body)
{
	struct milter *m = c->m;
	size_t i = 0, n, head;

	while (i < COUNT(changes) && changes[i].command != command)
		i++;
	if (i == COUNT(changes))
		return false;
	c->count++;
	if (command == 'b') {
		replace_body(c, body);
		return true;
	}
	head = changes[i].index ? 4 : 0;
	n = m->len <= head ? 0 : count_strings(m->in + head, m->len - head);
	if (n < changes[i].least || n > changes[i].most)
		m->fault = "malformed change";
	else
		make_change(c, command, head == 0 ? 0 : milter_number(m->in),
		    m->in + head);
	return true;
}

int
milter_commit(struct milter_change *c)
{
	struct service_message *message = c->message;
	struct milter *m = c->m;
	uint64_t size;

	if (c->ended && edit_body(&c->edit, "\n", 1) == -1)
		return -1;
	if (c->edit.changed) {
		m->spool = edit_finish(&c->edit, &size);
		if (m->spool == -1)
			return -1;
		message->spool = m->spool;
		message->env.size = size;
	}
	if (m->resized) {
		if (settle_recipients(m, message->env.nrecipients) == -1)
			return -1;
		message->env.recipients = m->recipients;
		message->env.nrecipients = m->nrecipients;
		message->discard = message->discard || m->nrecipients == 0;
	}
	if (c->sender != NULL) {
		message->env.fact[FACT_SENDER] = c->sender;
		message->env.fact[FACT_MAIL_OPTIONS] = c->options;
	}
	if (c->quarantine != NULL)
		message->quarantine = *c->quarantine == '\0' ? "no reason given"
		    : c->quarantine;
	return 0;
}
