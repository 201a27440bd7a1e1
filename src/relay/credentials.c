/*
 * credentials.c - the file of --relay-auth: which line is whose, and the
 * programs that print passwords and tokens.
 */
#define _GNU_SOURCE	/* explicit_bzero, environ */
#include <sys/stat.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/executable.h"
#include "base/file.h"
#include "base/text.h"
#include "net/spawn.h"
#include "relay/credentials.h"

#define FILE_MAX 1048576	/* octets of a file */
#define PROGRAM_SECONDS 60	/* for a program that prints a secret */
#define PROGRAM_WORDS 64	/* of its command line */
#define ERROR_LINES 20		/* of its standard error that are logged */
#define TERM_GRACE 1000		/* milliseconds from SIGTERM to SIGKILL */

/* ---- The file ---- */

long
credentials_read(int fd, char **text, bool *open)
{
	struct stat st;

	*open = fstat(fd, &st) == 0 && (st.st_mode & S_IROTH) != 0;
	return file_read_all(fd, FILE_MAX - 1, text);
}

/* ---- Lines ---- */

/* How well a line's key fits; the best line counts. */
enum fit { FIT_NONE, FIT_ANY, FIT_HOP, FIT_DOMAIN, FIT_BASE, FIT_SENDER };

static bool
is_sender_key(const char *key)
{
	return strcmp(key, "<>") == 0 || (strchr(key, '@') != NULL &&
	    !text_starts(key, "unix:"));
}

/* Is this the address without its +detail?  Both are canonical. */
static bool
is_base(const char *key, const char *sender)
{
	const char *at = strrchr(sender, '@'), *plus;
	size_t len;

	if (at == NULL)
		return false;
	plus = memchr(sender, '+', (size_t)(at - sender));
	if (plus == NULL || plus == sender)
		return false;
	len = (size_t)(plus - sender);
	return strncasecmp(key, sender, len) == 0 &&
	    strcasecmp(key + len, at) == 0;
}

/* Who wants credentials, as keys are compared with it. */
struct wanted {
	const struct credentials_for *who;
	char sender[1024];	/* canonical; "": none that a key can be */
	const char *at;		/* the '@' before its domain, or NULL */
};

static void
prepare_wanted(struct wanted *w, const struct credentials_for *who)
{
	*w = (struct wanted){ .who = who };
	if (who->sender != NULL && strlen(who->sender) < sizeof w->sender)
		w->at = address_canonical(text_copy(w->sender, sizeof w->sender,
		    who->sender));
}

static enum fit
fit_sender(const char *key, const struct wanted *w)
{
	char mine[CREDENTIAL_KEY];

	if (w->who->sender == NULL)
		return FIT_NONE;
	if (w->who->sender[0] == '\0')
		return strcmp(key, "<>") == 0 ? FIT_SENDER : FIT_NONE;
	if (w->sender[0] == '\0')
		return FIT_NONE;
	if (key[strcspn(key, "\"\\")] != '\0') {
		address_canonical(text_copy(mine, sizeof mine, key));
		key = mine;
	}
	if (strcasecmp(key, w->sender) == 0)
		return FIT_SENDER;
	if (w->at == NULL)
		return FIT_NONE;
	if (is_base(key, w->sender))
		return FIT_BASE;
	return *key == '@' && strcasecmp(w->at, key) == 0 ? FIT_DOMAIN
	    : FIT_NONE;
}

static enum fit
fit_key(const char *key, const struct wanted *w)
{
	const struct credentials_for *who = w->who;
	const struct place *place = who->place;
	struct place to;

	if (strcmp(key, "*") == 0)
		return FIT_ANY;
	if (is_sender_key(key))
		return fit_sender(key, w);
	if (place_parse(key, strlen(key), &to) && to.local == place->local &&
	    strcasecmp(to.host, place->host) == 0 &&
	    strcmp(to.port[0] != '\0' ? to.port : who->port,
	    place->port[0] != '\0' ? place->port : who->port) == 0)
		return FIT_HOP;
	return FIT_NONE;
}

/* The word at *p, before end: returns its length and moves *p after the blanks
   that follow it. */
static size_t
take_token(const char **p, const char *end)
{
	const char *start = *p;
	size_t len;

	while (*p < end && !text_is_space(**p))
		++*p;
	len = (size_t)(*p - start);
	while (*p < end && text_is_space(**p))
		++*p;
	return len;
}

/* The same for a key, which may have blanks in quotes, as those of routes. */
static size_t
take_key(const char **p, const char *end)
{
	const char *start = *p, *q = start + 1;

	while (*start == '"' && q < end && *q != '"')
		q += *q == '\\' && q + 1 < end ? 2 : 1;
	if (*start == '"' && q < end)
		*p = q;
	return (size_t)(*p - start) + take_token(p, end);
}

/*
 * Reads "USER command PROGRAM..." or "USER oauth2 PROGRAM...".  Returns 1, 0 if
 * this is none of both, -1 with why.
 */
static int
parse_program(const char *p, const char *end, struct credentials *c,
    const char **why)
{
	const char *user = p, *method;
	size_t userlen = take_token(&p, end), len;

	method = p;
	len = take_token(&p, end);
	if (memchr(user, ':', userlen) != NULL ||
	    (!text_is(method, len, "oauth2") && !text_is(method, len,
	    "command")))
		return 0;
	c->token = *method == 'o';
	c->program = true;
	if (p == end || *p != '/')
		*why = "after oauth2 or command the absolute path of a program "
		    "must follow";
	else if (!text_fit(c->user, sizeof c->user, user, userlen))
		*why = "the user is too long";
	else if (!text_fit(c->secret, sizeof c->secret, p,
	    (size_t)(end - p)))
		*why = "the command is too long";
	else
		return 1;
	return -1;
}

/* Reads what follows a key.  Returns NULL, or what is wrong with it. */
static const char *
parse_method(const char *p, const char *end, struct credentials *c)
{
	const char *colon = memchr(p, ':', (size_t)(end - p)), *why = NULL;

	c->token = c->program = false;
	if (parse_program(p, end, c, &why) != 0)
		return why;
	if (colon != NULL &&
	    text_fit(c->user, sizeof c->user, p, (size_t)(colon - p)) &&
	    text_fit(c->secret, sizeof c->secret, colon + 1,
	    (size_t)(end - colon - 1)))
		return NULL;
	return "not KEY USER:PASSWORD, KEY USER oauth2 PROGRAM or KEY USER "
	    "command PROGRAM";
}

/* A line of the file. */
struct line {
	enum fit fit;
	unsigned number;
	const char *start, *method, *end;
	char key[CREDENTIAL_KEY];	/* "" if it can be none */
};

/* What is left of the file. */
struct rest {
	const char *p, *stop;
	unsigned number;	/* of lines that were read */
};

/* The next line that is neither empty nor a remark.  False at the end. */
static bool
next_line(struct rest *rest, struct line *line)
{
	const char *end;
	size_t len;

	do {
		if (rest->p >= rest->stop)
			return false;
		line->start = rest->p;
		rest->p += text_line(rest->p, (size_t)(rest->stop - rest->p));
		end = rest->p;
		line->number = ++rest->number;
		while (end > line->start && text_is_space(end[-1]))
			end--;
	} while (end == line->start || *line->start == '#');
	line->method = line->start;
	line->end = end;
	len = take_key(&line->method, end);
	if (!text_fit(line->key, sizeof line->key, line->start, len))
		line->key[0] = '\0';
	return true;
}

/* Why no sender and no next hop is ever found by the line's key; or NULL. */
static const char *
useless_line(const struct line *line)
{
	const char *key = line->key, *at = strrchr(key, '@');
	struct place place;

	if (text_is_space(*line->start))
		return "it begins with a blank";
	if (*key == '\0')
		return "the key is too long, or has a NUL";
	if (text_starts(key, "\xef\xbb\xbf"))
		return "the file begins with a byte order mark";
	if (strcmp(key, "*") == 0 || strcmp(key, "<>") == 0)
		return NULL;
	if (key[strcspn(key, "<>")] != '\0')
		return "the key is an address in <>: it must be without";
	if (at != NULL && is_sender_key(key)) {
		if (at[1] == '\0')
			return "the key has no domain after @";
		if (strncmp(key, "*@", 2) == 0)
			return "a domain is written @example.org";
		return address_is_domain(at + 1, strlen(at + 1)) ? NULL
		    : "what follows @ is no domain";
	}
	return place_parse(key, strlen(key), &place) ? NULL : "the key is "
	    "neither a sender nor a next hop, as [mail.example.net]:465";
}

int
credentials_find(const char *text, size_t len,
    const struct credentials_for *who, struct credentials *c, bool *senders,
    char *why, size_t size)
{
	struct line line, best = { .fit = FIT_NONE };
	struct rest rest = { text, text + len, 0 };
	const char *wrong;
	struct wanted w;

	prepare_wanted(&w, who);
	*senders = false;
	while (next_line(&rest, &line)) {
		*senders = *senders || is_sender_key(line.key);
		line.fit = useless_line(&line) == NULL ? fit_key(line.key, &w)
		    : FIT_NONE;
		if (line.fit > best.fit)
			best = line;
	}
	if (best.fit == FIT_NONE)
		return 0;
	c->line = best.number;
	text_copy(c->key, sizeof c->key, best.key);
	wrong = parse_method(best.method, best.end, c);
	if (wrong == NULL)
		return 1;
	snprintf(why, size, "line %u: %s", best.number, wrong);
	return -1;
}

/* Where a key stands in the file. */
struct key {
	const char *start;
	size_t len;
	unsigned line;
};

/* By key, and then by line. */
static int
compare_keys(const void *a, const void *b)
{
	const struct key *x = a, *y = b;
	int order = strncasecmp(x->start, y->start, x->len < y->len ? x->len
	    : y->len);

	if (order != 0)
		return order;
	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return x->line < y->line ? -1 : x->line > y->line;
}

/* Of two lines with one key the first counts. */
static void
check_twins(const char *text, size_t len, const char *name, struct findings *f)
{
	struct rest rest = { text, text + len, 0 };
	struct key *keys = NULL, *rows;
	struct line line;
	size_t n = 0, i;

	while (next_line(&rest, &line)) {
		rows = table_grow(keys, n, sizeof *rows);
		if (rows == NULL)
			break;
		keys = rows;
		keys[n++] = (struct key){ line.start, strlen(line.key),
		    line.number };
	}
	if (n > 0)
		qsort(keys, n, sizeof *keys, compare_keys);
	for (i = 1; i < n; i++)
		if (keys[i].len > 0 && keys[i].len == keys[i - 1].len &&
		    strncasecmp(keys[i].start, keys[i - 1].start,
		    keys[i].len) == 0)
			findings_add(f, FINDING_DOUBT, "--relay-auth %s: line "
			    "%u: line %u counts for %.*s, and not this one",
			    name, keys[i].line, keys[i - 1].line,
			    (int)keys[i].len, keys[i].start);
	free(keys);
}

void
credentials_check(const char *text, size_t len, const char *name,
    struct findings *f)
{
	struct rest rest = { text, text + len, 0 };
	struct credentials c;
	struct line line;
	const char *wrong;

	while (next_line(&rest, &line)) {
		wrong = useless_line(&line);
		if (wrong != NULL) {
			findings_add(f, FINDING_DOUBT, "--relay-auth %s: line "
			    "%u is never used: %s", name, line.number, wrong);
			continue;
		}
		wrong = parse_method(line.method, line.end, &c);
		if (wrong != NULL) {
			findings_add(f, FINDING_BAD, "--relay-auth %s: line "
			    "%u: %s", name, line.number, wrong);
		} else if (c.program) {
			c.secret[strcspn(c.secret, " \t")] = '\0';
			findings_add_program(f, "the program ", c.secret);
		}
	}
	credentials_wipe(&c);
	check_twins(text, len, name, f);
}

void
credentials_each_sender(const char *text, size_t len,
    void (*sender)(void *ctx, const char *key), void *ctx)
{
	struct rest rest = { text, text + len, 0 };
	struct line line;

	while (next_line(&rest, &line))
		if (is_sender_key(line.key) && useless_line(&line) == NULL)
			sender(ctx, strcmp(line.key, "<>") == 0 ? ""
			    : line.key);
}

void
credentials_wipe(struct credentials *c)
{
	explicit_bzero(c, sizeof *c);
}

/* ---- Programs ---- */

/* A program that runs, and what it has said. */
struct output {
	const struct logger *log;
	const struct envelope *env;
	const char *name;
	char first[CREDENTIAL_SECRET];	/* line of its output */
	size_t len;
	bool whole, too_long;
	char error[256];		/* line of its standard error */
	size_t error_len;
	unsigned error_lines;
};

static void
log_error_line(struct output *t)
{
	if (t->error_len > 0 && t->error_lines++ < ERROR_LINES)
		logger_printf(t->log, LOG_WARNING, "nexthop", t->env,
		    "%s: %.*s", t->name, (int)t->error_len, t->error);
	t->error_len = 0;
}

/* As struct spawn's hear. */
static void
hear_secret(void *ctx, int descriptor, const char *p, size_t len)
{
	struct output *t = ctx;
	const char *end = p + len;

	for (; p < end; p++) {
		if (descriptor == 2) {
			if (*p == '\n')
				log_error_line(t);
			else if (t->error_len < sizeof t->error)
				t->error[t->error_len++] = *p;
		} else if (*p == '\n') {
			t->whole = true;
		} else if (!t->whole) {
			if (t->len == sizeof t->first - 1)
				t->too_long = true;
			else
				t->first[t->len++] = *p;
		}
	}
}

/* Ends the line that the program printed.  Returns NULL, or why it is no
   secret. */
static const char *
check_output(struct output *t)
{
	size_t i;

	while (t->len > 0 && text_is_space(t->first[t->len - 1]))
		t->len--;
	t->first[t->len] = '\0';
	if (t->len == 0)
		return "its first line of output is empty";
	if (t->too_long)
		return "its first line of output is too long";
	for (i = 0; i < t->len; i++)
		if (text_is_control(t->first[i]))
			return "its first line of output has control "
			    "characters";
	return NULL;
}

/* Our environment without what is private in it, to be freed; NULL without
   memory.  The strings are borrowed. */
static char **
inherited(void)
{
	size_t n = 0, kept = 0;
	char **to;

	while (environ[n] != NULL)
		n++;
	if ((to = calloc(n + 1, sizeof *to)) == NULL)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (!spawn_is_private(environ[i]))
			to[kept++] = environ[i];
	return to;
}

bool
credentials_run(struct credentials *c, const struct logger *log,
    const struct envelope *env, int64_t deadline, char *why, size_t size)
{
	char *argv[PROGRAM_WORDS + 1], how[SPAWN_WHY], reason[256];
	struct output *t = calloc(1, sizeof *t);
	char **environment = inherited();
	struct spawn_end end;
	struct spawn what = {
		.argv = argv, .envp = environment, .input = -1, .extra = -1,
		.hear = hear_secret, .ctx = t, .grace = TERM_GRACE,
		.deadline = clock_within(deadline, PROGRAM_SECONDS)
	};
	const char *wrong = NULL;
	bool good = false;
	int error;

	if (t == NULL || environment == NULL ||
	    text_split(c->secret, " \t", argv, PROGRAM_WORDS) == 0) {
		snprintf(why, size, t == NULL || environment == NULL ?
		    "out of memory" : "the command has more than %d words",
		    PROGRAM_WORDS);
		free(environment);
		free(t);
		return false;
	}
	t->log = log;
	t->env = env;
	t->name = argv[0];
	error = spawn_run(&what, &end);
	free(environment);
	log_error_line(t);
	if (error != 0)
		snprintf(why, size, "%.128s: %s", argv[0], executable_reason(
		    argv[0], error, reason, sizeof reason));
	else if (end.late || end.status != 0)
		snprintf(why, size, "%.128s: %s", argv[0],
		    spawn_describe(&end, how));
	else if ((wrong = check_output(t)) != NULL)
		snprintf(why, size, "%.128s: %s", argv[0], wrong);
	else
		good = memcpy(c->secret, t->first, t->len + 1) != NULL;
	explicit_bzero(t, sizeof *t);
	free(t);
	return good;
}
