/*
 * from.c - the sender that a provider wants: which, and in the header.
 *
 * The file is one of routes that lead to addresses.  In the header the octets
 * of the one address that From: has are replaced, so that its name stays as
 * it was written, in whatever form; a From: that has more is written anew with
 * its first name, and one that cannot be read, or is not alone, without any.
 */
#include "monitor/from.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/address.h"
#include "base/edit.h"
#include "base/mailbox.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/expected.h"
#include "relay/routes.h"

#define ADDRESS_MAX 320		/* octets of an address, with NUL */
#define VALUE_MAX 65536		/* octets of a From: that is read */

struct from {
	const char *address;	/* of all senders, or NULL: */
	struct route_file file;
	const struct logger *log;
};

/* ---- Which address ---- */

/* Can it stand in MAIL and in a header, and have mail sent back to it?  ASCII:
   a next hop without SMTPUTF8 (RFC 6531) could take no mail at all. */
static bool
is_address(const char *p)
{
	struct mailbox_list l;
	size_t len = strlen(p);
	bool quoted = false;

	if (len >= ADDRESS_MAX || *p == '-' || *p == '<' ||
	    !mailbox_read((struct span){ p, len }, &l) || !l.one || !l.whole ||
	    l.address.len != len)
		return false;
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)(p[i] - ' ') > '~' - ' ' ||
		    (!quoted && strchr(" ()", p[i]) != NULL))
			return false;
		if (quoted && p[i] == '\\')
			i++;
		else if (p[i] == '"')
			quoted = !quoted;
	}
	return true;
}

/* As route_file_read()'s hop. */
static void *
route_address(void *ctx, const char *result, char *error, size_t size)
{
	(void)ctx;
	if (is_address(result))
		return (void *)(uintptr_t)result;
	snprintf(error, size, *result == '\0' ? "the address is missing%s"
	    : "%s: not an address", result);
	return NULL;
}

struct from *
from_open(const char *what, const struct logger *log, char *error, size_t size)
{
	static struct from only;
	struct from *f = &only;
	bool file = strchr("/.", *what) != NULL || strchr(what, '@') == NULL;

	*f = (struct from){ .log = log };
	if (*what == '\0' || (!file && !is_address(what))) {
		snprintf(error, size, "--from: \"%s\" is neither an address "
		    "nor a file of SENDER ADDRESS lines", what);
		return NULL;
	}
	route_file_open(&f->file, file ? what : NULL);
	f->address = file ? NULL : what;
	return f;
}

static bool
read_table(struct from *f)
{
	return route_file_read(&f->file, true, f->log, route_address, f);
}

/* Looks for the address that mail of this sender, "" for the null sender, has
   to come from.  *address becomes it, or NULL: the sender stays.  False with
   a refusal in *v if the file cannot be used.  f may be NULL. */
static bool
sender_of(struct from *f, const char *sender, const char **address,
    struct reply *v)
{
	enum route_kind kind;
	void *found = NULL;

	*address = f == NULL ? NULL : f->address;
	if (f == NULL || f->file.name == NULL)
		return true;
	if (!read_table(f))
		reply_config_error(v);
	else if (!routes_find(f->file.table, sender, &found, &kind))
		reply_local_error(v);
	else
		return *address = found, true;
	return false;
}

bool
from_map(struct from *f, struct envelope *env, struct reply *v)
{
	const char *address;

	if (!sender_of(f, env->fact[FACT_SENDER], &address, v))
		return false;
	if (address != NULL && env->fact[FACT_SENDER][0] != '\0')
		env->fact[FACT_SENDER] = address;
	return true;
}

/* As routes_each()'s row. */
static void
expect_address(void *ctx, const char *key, const void *address)
{
	struct expected *senders = ctx;

	expected_add(senders, address);
	if (key != NULL && strcmp(key, "*") == 0)
		senders->others = false;
}

void
from_check(struct from *f, struct expected *senders, struct findings *found)
{
	if (f == NULL) {
		senders->others = true;
	} else if (f->file.name == NULL) {
		findings_add(found, FINDING_GOOD, "--from: mail is sent as %s",
		    f->address);
		expected_add(senders, f->address);
	} else if (read_table(f)) {
		findings_add(found, FINDING_GOOD, "--from %s can be used",
		    f->file.name);
		route_file_check(&f->file, found);
		senders->others = true;
		routes_each(f->file.table, expect_address, senders);
	}
}

void
from_close(struct from *f)
{
	if (f != NULL)
		route_file_close(&f->file);
}

/* ---- In the header ---- */

/* The fields of a message that matter. */
struct named {
	size_t from, sender, reply_to;		/* how many there are */
	const struct edit_row *row;		/* the first From: */
};

static void
count_fields(const struct edit *e, struct named *n)
{
	const struct edit_row *row;

	*n = (struct named){ .row = NULL };
	for (size_t i = 0; (row = edit_row(e, i)) != NULL; i++) {
		if (edit_is_named(e, row, "From") && n->from++ == 0)
			n->row = row;
		n->sender += edit_is_named(e, row, "Sender");
		n->reply_to += edit_is_named(e, row, "Reply-To");
	}
}

static bool
same_mailbox(struct span is, const char *address)
{
	char a[ADDRESS_MAX], b[ADDRESS_MAX];

	if (is.len >= sizeof a)
		return false;
	memcpy(a, is.p, is.len);
	a[is.len] = '\0';
	address_canonical(a);
	address_canonical(text_copy(b, sizeof b, address));
	return strcmp(a, b) == 0;
}

/* Writes the new value of From: to to, which has room for what was and the
   address.  was.p is NULL if it cannot be kept. */
static void
write_from(char *to, size_t size, struct span was,
    const struct mailbox_list *l, const char *address)
{
	size_t head = was.p == NULL || !l->one ? 0
	    : (size_t)(l->address.p - was.p);
	const char *tail = head == 0 ? NULL : l->address.p + l->address.len;

	if (head > 0)
		snprintf(to, size, "%.*s%s%.*s", (int)head, was.p, address,
		    (int)(was.p + was.len - tail), tail);
	else if (was.p != NULL && l->one)
		snprintf(to, size, " %s%.*s", address, (int)(was.len -
		    l->address.len), was.p + l->address.len);
	else if (was.p != NULL && l->name.len > 0)
		snprintf(to, size, " %.*s <%s>", (int)l->name.len, l->name.p,
		    address);
	else
		snprintf(to, size, " %s", address);
}

/* Makes From: the address.  value[0..len) is what the only one has, len 0:
   there is none such.  Returns 0, or -1 with errno. */
static int
change_from(struct edit *e, const struct named *n, char *value, size_t len,
    const char *address)
{
	struct mailbox_list l = { .count = 0 };
	struct span was = { value, len };
	size_t size = len + ADDRESS_MAX + 8;
	char *to;
	int status;

	if (len == 0 || memchr(value, '\0', len) != NULL ||
	    !mailbox_read(was, &l))
		was.p = NULL;
	if (was.p != NULL && l.one && same_mailbox(l.address, address))
		return 0;
	to = malloc(size);
	if (to == NULL)
		return -1;
	write_from(to, size, was, &l, address);
	status = edit_change(e, 1, "From", to);
	free(to);
	if (status == 0 && n->from > 1)
		status = edit_remove(e, 2, "From");
	if (status == 0 && was.p != NULL && l.count > 0 && l.whole &&
	    n->reply_to == 0) {
		value[len] = '\0';
		status = edit_add(e, "Reply-To", value);
	}
	return status;
}

/* Changes the header.  Returns 0, or -1 with errno. */
static int
change_header(struct edit *e, const char *address)
{
	struct named n;
	long len = 0;
	char *value = NULL;
	int status = -1;

	count_fields(e, &n);
	if (n.from == 1 && n.row->field.end - n.row->field.value < VALUE_MAX) {
		value = malloc(VALUE_MAX + 1);
		if (value == NULL)
			return -1;
		len = edit_value(e, n.row, value, VALUE_MAX);
	}
	if (len != -1)
		status = change_from(e, &n, value, (size_t)len, address);
	free(value);
	if (status == 0 && n.sender > 0)
		status = edit_remove(e, 1, "Sender");
	return status;
}

/* Writes the message anew if its header does not have the address.  Returns 0,
   or -1 with errno. */
static int
rewrite_spool(struct envelope *env, int *spool, bool crlf, const char *address)
{
	static const char *const none[] = { NULL };
	struct edit e = { .rows = NULL };
	int new = *spool, status = -1, error;

	if (edit_open(&e, *spool, crlf, env->size, none) == 0 &&
	    change_header(&e, address) == 0)
		status = 0;
	if (status == 0 && e.changed)
		new = edit_finish(&e, &env->size);
	error = errno;
	edit_close(&e);
	errno = error;
	if (status == -1 || new == -1)
		return -1;
	*spool = new;
	return 0;
}

bool
from_rewrite(struct from *f, struct envelope *env, int *spool, bool crlf,
    struct reply *v)
{
	const struct envelope was = *env;
	const char *address;

	if (!sender_of(f, env->fact[FACT_SENDER], &address, v) ||
	    !from_map(f, env, v))
		return false;
	if (address == NULL || *spool == -1 ||
	    rewrite_spool(env, spool, crlf, address) == 0)
		return true;
	logger_printf(f->log, LOG_ERR, "spool", &was,
	    "cannot rewrite the header: %s", strerror(errno));
	if (errno == E2BIG)
		reply_set(v, 554, "5.6.0", "Too many header fields");
	else
		reply_errno(v, errno);
	return false;
}
