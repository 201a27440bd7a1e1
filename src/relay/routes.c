/*
 * routes.c - where recipients go, or senders: a table in the form of Postfix's
 * transport(5).
 *
 * The file is read whole and cut up where it stands.  Keys are sorted and
 * looked up by halves; regular expressions are tried in the file's order.
 * What the right-hand sides mean is decided by the caller's hop().
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>

#include "base/address.h"
#include "base/file.h"
#include "base/text.h"
#include "relay/routes.h"

#define FILE_MAX (1 << 30)	/* octets of a file */

struct route {
	const char *key;	/* "user@domain", "domain", ".domain" or "*" */
	unsigned line;
	void *hop;
};

struct pattern {
	regex_t re;
	void *hop;
};

struct routes {
	bool senders;			/* and not recipients */
	void *(*hop)(void *ctx, const char *result, char *error,
	    size_t size);
	void *ctx;
	char *text;			/* the file, cut up: keys are in it */
	struct route *keys;		/* sorted, no two alike */
	size_t nkeys;
	size_t twins;			/* rows that another came before */
	struct route twin, first;	/* one of them, and that other */
	struct pattern *patterns;	/* in the file's order */
	size_t npatterns;
};

/* Splits text at its first blanks: ends the first part, returns the rest. */
static char *
split(char *text)
{
	char *rest = text + strcspn(text, " \t");

	if (*rest != '\0')
		*rest++ = '\0';
	return rest + strspn(rest, " \t");
}

/* Octets of the key at text: up to a blank that is not in quotes. */
static size_t
key_length(const char *text)
{
	bool quoted = false;
	size_t n;

	for (n = 0; text[n] != '\0'; n++) {
		if (quoted && text[n] == '\\' && text[n + 1] != '\0')
			n++;
		else if (text[n] == '"')
			quoted = !quoted;
		else if (!quoted && (text[n] == ' ' || text[n] == '\t'))
			break;
	}
	return n;
}

/* Can this be a sender without a domain? */
static bool
is_local_word(const char *p)
{
	return *p != '\0' && p[strcspn(p, "<>@:,;")] == '\0';
}

/* Why no recipient can ever match key, which is in the canonical form with the
   '@' before its domain at at; or NULL. */
static const char *
useless_key(const char *key, const char *at, bool senders)
{
	if (text_starts(key, "\xef\xbb\xbf"))
		return "the file begins with a byte order mark";
	for (const char *p = key; *p != '\0'; p++)
		if (text_is_control(*p))
			return "no address has a control character";
	if (strcmp(key, "*") == 0 || (senders && (strcmp(key, "<>") == 0 ||
	    (at == NULL && is_local_word(key)))))
		return NULL;
	if (at == key)
		return "no local part before the @; a domain stands alone";
	if (at != NULL)
		return address_is_domain(at + 1, strlen(at + 1)) ? NULL
		    : "not an address";
	key += key[0] == '.' && key[1] != '[';
	return address_is_domain(key, strlen(key)) ? NULL
	    : "not an address or a domain";
}

/* "user@domain transport:nexthop".  The key stays where it is, in r->text. */
static bool
parse_key(struct routes *r, char *text, unsigned line, char *error,
    size_t size)
{
	char *result = text + key_length(text);
	const char *why;
	struct route *rows;
	void *h;

	if (*text == '!') {
		text_copy(error, size, "negated patterns are not supported");
		return false;
	}
	if (*result != '\0')
		*result++ = '\0';
	result += strspn(result, " \t");
	/* As Postfix has domains in its tables of senders. */
	if (r->senders && text[0] == '@' && strchr(text + 1, '@') == NULL)
		text++;
	if (text_starts(text, "*@"))
		why = "a domain stands alone, for all of its addresses";
	else
		why = useless_key(text, address_canonical(text), r->senders);
	if (why != NULL) {
		snprintf(error, size, "%s: %s", text, why);
		return false;
	}
	h = r->hop(r->ctx, result, error, size);
	if (h == NULL)
		return false;
	rows = table_grow(r->keys, r->nkeys, sizeof *rows);
	if (rows == NULL) {
		text_copy(error, size, "out of memory");
		return false;
	}
	r->keys = rows;
	rows[r->nkeys++] = (struct route){ text, line, h };
	return true;
}

/* Compiles the regular expression at text ("/.../flags").  Returns what
   follows it, or NULL with a sentence in error. */
static char *
compile(regex_t *re, char *text, char *error, size_t size)
{
	static const struct {
		char letter;
		int flag;
	} letters[] = {		/* regexp_table(5): each toggles its flag */
		{ 'i', REG_ICASE }, { 'm', REG_NEWLINE }, { 'x', REG_EXTENDED },
	};
	int flags = REG_EXTENDED | REG_ICASE | REG_NOSUB, failure;
	char *end, *rest, *p;
	size_t i;

	for (end = text + 1; *end != '/' && *end != '\0'; end++) {
		if (*end != '\\' || end[1] == '\0')
			continue;
		if (strchr("123456789", *++end) == NULL)
			continue;
		/* An address of 100 octets can keep one busy for minutes. */
		snprintf(error, size, "back-references (\\%c) are not "
		    "supported", *end);
		return NULL;
	}
	if (*end == '\0') {
		text_copy(error, size, "pattern without its last /");
		return NULL;
	}
	*end = '\0';
	rest = split(end + 1);
	for (p = end + 1; *p != '\0'; p++) {
		for (i = 0; i < COUNT(letters) && letters[i].letter != *p; i++)
			;
		if (i == COUNT(letters)) {
			snprintf(error, size, "unknown flag %c", *p);
			return NULL;
		}
		flags ^= letters[i].flag;
	}
	failure = regcomp(re, text + 1, flags);
	if (failure == 0)
		return rest;
	regerror(failure, re, error, size);
	return NULL;
}

/* "/^user@domain$/ transport:nexthop". */
static bool
parse_pattern(struct routes *r, char *text, char *error, size_t size)
{
	struct pattern *rows = table_grow(r->patterns, r->npatterns,
	    sizeof *rows);
	char *result;
	void *h;

	if (rows == NULL) {
		text_copy(error, size, "out of memory");
		return false;
	}
	r->patterns = rows;
	result = compile(&rows[r->npatterns].re, text, error, size);
	if (result == NULL)
		return false;
	h = NULL;
	if (strchr(result, '$') != NULL)
		text_copy(error, size, "$ is not replaced in results");
	else
		h = r->hop(r->ctx, result, error, size);
	if (h == NULL) {
		regfree(&rows[r->npatterns].re);
		return false;
	}
	rows[r->npatterns++].hop = h;
	return true;
}

/*
 * The next logical line at *p: lines that begin with a blank continue the one
 * before, with empty lines and comments in between too.  It is put together
 * where it stands; *number counts lines, *first becomes the number of its
 * own.  NULL at the end.
 */
static char *
logical_line(char **p, unsigned *number, unsigned *first)
{
	char *line = NULL, *end = NULL;
	size_t blank, len;

	while (**p != '\0') {
		len = strcspn(*p, "\n");
		blank = strspn(*p, " \t\r");
		if (blank < len && (*p)[blank] != '#') {
			if (line != NULL && blank == 0)
				break;
			if (line == NULL) {
				line = end = *p;
				*first = *number + 1;
			}
			memmove(end, *p, len);
			end += len;
		}
		++*number;
		*p += len + ((*p)[len] == '\n');
	}
	if (line != NULL)
		*end = '\0';
	return line;
}

/* One logical line. */
static bool
parse_route(struct routes *r, char *text, unsigned line, char *error,
    size_t size)
{
	size_t len = strlen(text);

	while (len > 0 && text_is_space(text[len - 1]))
		text[--len] = '\0';
	if (text_is_space(*text)) {
		text_copy(error, size, "indented line has no line before it "
		    "to continue");
		return false;
	}
	if (*text == '/')
		return parse_pattern(r, text, error, size);
	return parse_key(r, text, line, error, size);
}

/* By key, and then by line. */
static int
compare_rows(const void *a, const void *b)
{
	const struct route *x = a, *y = b;
	int order = strcasecmp(x->key, y->key);

	return order != 0 ? order : x->line < y->line ? -1 : x->line > y->line;
}

/* Sorts the keys; of several alike the first in the file stays, as postmap(1)
   has it. */
static void
sort_routes(struct routes *r)
{
	size_t i, n = 0;

	if (r->nkeys == 0)
		return;
	qsort(r->keys, r->nkeys, sizeof *r->keys, compare_rows);
	for (i = 1; i < r->nkeys; i++) {
		if (strcasecmp(r->keys[n].key, r->keys[i].key) != 0) {
			r->keys[++n] = r->keys[i];
			continue;
		}
		if (r->twins++ == 0 || r->keys[i].line < r->twin.line) {
			r->twin = r->keys[i];
			r->first = r->keys[n];
		}
	}
	r->nkeys = n + 1;
}

/* Reads all of the file into r->text.  Returns NULL, or what is wrong. */
static const char *
read_text(struct routes *r, int borrowed, const char *name)
{
	long len = file_read_named(borrowed, name, FILE_MAX, &r->text);

	if (len == -1)
		return strerror(errno);
	return strlen(r->text) == (size_t)len ? NULL
	    : "not a text file: it has a NUL";
}

/* Reads all lines of r->text.  False if there is one that makes no sense. */
static bool
parse_text(struct routes *r, const char *name, const struct logger *log)
{
	char *p = r->text, *line, error[256];
	unsigned number = 0, first = 0;
	bool good = true;

	assert(p != NULL);	/* read_text() saw to it */
	while ((line = logical_line(&p, &number, &first)) != NULL)
		if (!parse_route(r, line, first, error, sizeof error)) {
			logger_printf(log, LOG_ERR, "routes", NULL,
			    "%s: line %u: %s", name, first, error);
			good = false;
		}
	sort_routes(r);
	return good;
}

static void
free_routes(struct routes *r)
{
	if (r == NULL)
		return;
	for (size_t i = 0; i < r->npatterns; i++)
		regfree(&r->patterns[i].re);
	free(r->keys);
	free(r->patterns);
	free(r->text);
	free(r);
}

/* Reads the file name, of which fd, if it is not -1, was opened before.
   Returns NULL if it cannot be used, which is logged. */
static struct routes *
read_routes(int fd, const char *name, bool senders, const struct logger *log,
    void *(*hop)(void *ctx, const char *result, char *error, size_t size),
    void *ctx)
{
	struct routes *r = calloc(1, sizeof *r);
	const char *why = "out of memory";

	if (r != NULL) {
		r->senders = senders;
		r->hop = hop;
		r->ctx = ctx;
		why = read_text(r, fd, name);
	}
	if (why != NULL)
		logger_printf(log, LOG_ERR, "routes", NULL, "%s: %s", name,
		    why);
	else if (parse_text(r, name, log))
		return r;
	free_routes(r);
	return NULL;
}

static void *
find_route(const struct routes *r, const char *key)
{
	size_t low = 0, high = r->nkeys, at;
	int order;

	while (low < high) {
		at = low + (high - low) / 2;
		order = strcasecmp(key, r->keys[at].key);
		if (order == 0)
			return r->keys[at].hop;
		if (order < 0)
			high = at;
		else
			low = at + 1;
	}
	return NULL;
}

/* The first pattern's hop that matches.  False: there was no memory to say. */
static bool
find_pattern(const struct routes *r, const char *address, void **h)
{
	int failure = REG_NOMATCH;
	size_t i;

	for (i = 0; i < r->npatterns && failure == REG_NOMATCH; i++) {
		failure = regexec(&r->patterns[i].re, address, 0, NULL, 0);
		if (failure == 0)
			*h = r->patterns[i].hop;
	}
	return failure == 0 || failure == REG_NOMATCH;
}

/* Looks for the whole of key, then without its +detail, which is removed.  at
   is key's last '@', and moves. */
static void *
find_address(const struct routes *r, char *key, char **at)
{
	void *h = find_route(r, key);
	char *plus = memchr(key, '+', (size_t)(*at - key));

	if (h != NULL || plus == NULL || plus == key)
		return h;
	memmove(plus, *at, strlen(*at) + 1);
	*at = plus;
	return find_route(r, key);
}

/* Looks for a domain, and for those above it as ".domain". */
static void *
find_domain(const struct routes *r, const char *domain)
{
	void *h = NULL;

	for (; h == NULL && domain != NULL; domain = strchr(domain + 1, '.'))
		h = find_route(r, domain);
	return h;
}

bool
routes_find(const struct routes *r, const char *address, void **h,
    enum route_kind *kind)
{
	bool null = r->senders && *address == '\0';
	char *key = strdup(null ? "<>" : address), *whole = strdup(key != NULL
	    ? key : ""), *at;
	bool good = key != NULL && whole != NULL;

	*h = NULL;
	*kind = ROUTE_NAMED;
	if (!good)
		goto out;
	address_canonical(whole);
	at = address_canonical(key);
	if (at != NULL)
		*h = find_address(r, key, &at);
	else if (r->senders)
		*h = find_route(r, key);
	if (*h != NULL)
		goto out;
	*kind = ROUTE_PATTERN;
	good = find_pattern(r, whole, h);
	if (*h != NULL || !good)
		goto out;
	*kind = ROUTE_NAMED;
	if (at != NULL && at[1] != '\0')
		*h = find_domain(r, at + 1);
	if (*h != NULL)
		goto out;
	*kind = ROUTE_ANY;
	*h = find_route(r, "*");
	if (*h == NULL)
		*kind = ROUTE_NONE;
out:
	free(key);
	free(whole);
	return good;
}

void
routes_each(const struct routes *r, void (*row)(void *ctx, const char *key,
    const void *h), void *ctx)
{
	for (size_t i = 0; i < r->nkeys; i++)
		row(ctx, r->keys[i].key, r->keys[i].hop);
	for (size_t i = 0; i < r->npatterns; i++)
		row(ctx, NULL, r->patterns[i].hop);
}

void
route_file_open(struct route_file *f, const char *name)
{
	*f = (struct route_file){ .name = name, .fd = name == NULL ? -1
	    : open(name, O_RDONLY | O_CLOEXEC) };
}

bool
route_file_read(struct route_file *f, bool senders, const struct logger *log,
    void *(*hop)(void *ctx, const char *result, char *error, size_t size),
    void *ctx)
{
	if (f->name == NULL || f->table != NULL)
		return true;
	if (!f->broken)
		f->table = read_routes(f->fd, f->name, senders, log, hop, ctx);
	f->broken = f->table == NULL;
	return !f->broken;
}

void
route_file_check(const struct route_file *f, struct findings *found)
{
	const struct routes *r = f->table;

	if (r != NULL && r->twins > 0)
		findings_add(found, FINDING_DOUBT, "%s: line %u: line %u "
		    "counts for %s, and not this one%s", f->name, r->twin.line,
		    r->first.line, r->twin.key, r->twins == 1 ? ""
		    : "; there are more such lines");
}

void
route_file_close(struct route_file *f)
{
	free_routes(f->table);
	f->table = NULL;
	file_close(&f->fd);
}
