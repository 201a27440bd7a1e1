/*
 * auth_file.c - who a client is, by a file of names and crypt(3) hashes.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/compat.h"
#include "base/file.h"
#include "base/text.h"
#include "service/auth_source.h"

#define FILE_MAX (1 << 30)	/* octets of a file */
#define HASH_MAX 512		/* octets of a crypt(3) hash, with NUL */
#define FORMS_MAX 8		/* of hashes in a file that is checked */
#define COST_MAX 10000000	/* microseconds that a check spends on one */

struct users {
	int fd;			/* of the file, open; or -1 */
};

static void
close_users(struct auth *a)
{
	struct users *u = a->state;

	file_close(&u->fd);
	free(u);
}

/* Takes the same time wherever they differ. */
static bool
equal_hashes(const char *s, const char *t)
{
	size_t len = strlen(s), i;
	unsigned differ = 0;

	if (len != strlen(t))
		return false;
	for (i = 0; i < len; i++)
		differ |= (unsigned)(s[i] ^ t[i]);
	return differ == 0;
}

/*
 * The hash of line, cut out of it, or NULL if it has none; *mine tells
 * whether the line is user's.
 */
static const char *
cut_hash(char *line, const char *user, bool *mine)
{
	char *colon;

	line[strcspn(line, "\r\n")] = '\0';
	colon = strchr(line, ':');
	if (line[0] == '#' || colon == NULL)
		return NULL;
	*colon++ = '\0';
	colon[strcspn(colon, ":")] = '\0';
	*mine = strcmp(line, user) == 0;
	return colon;
}

/* A locked account's hash is none of crypt(3)'s. */
static bool
is_unlocked(const char *setting)
{
	return setting[0] != '\0' && strchr("!*", setting[0]) == NULL;
}

/* The power of two that a digit of crypt(3) stands for in yescrypt. */
static uint64_t
yescrypt_cost(char digit)
{
	static const char digits[] = "./0123456789ABCDEFGHIJKLMNOPQRSTUV";
	const char *p = digit == '\0' ? NULL : strchr(digits, digit);

	return p == NULL ? 1 : (uint64_t)1 << (p - digits);
}

/* The number at p, or none. */
static uint64_t
digits_at(const char *p, uint64_t none)
{
	uint64_t n;

	return text_parse_number((struct span){ p, text_digits(p) }, &n) ? n
	    : none;
}

/* In microseconds, as one machine took. */
uint64_t
auth_file_cost(const char *setting)
{
	uint64_t rounds = 5000;

	if (text_starts(setting, "$y$") && strlen(setting) > 5)
		return 10 * yescrypt_cost(setting[4]);
	if (text_starts(setting, "$2") && strlen(setting) > 6)
		return (uint64_t)50 << digits_at(setting + 4, 0) % 32;
	if (text_starts(setting, "$5$") ||
	    text_starts(setting, "$6$")) {
		if (text_starts(setting + 3, "rounds="))
			rounds = digits_at(setting + 10, rounds);
		return rounds / 2;
	}
	return text_starts(setting, "$1$") ? 200 : 2;
}

size_t
auth_file_choose(const char *own, const char *cheap, const char *dear,
    const char *chosen[2])
{
	uint64_t least = auth_file_cost(cheap), most = auth_file_cost(dear);

	chosen[0] = is_unlocked(own) ? own : cheap;
	chosen[1] = is_unlocked(own) && auth_file_cost(own) == most ? cheap
	    : dear;
	if (!is_unlocked(chosen[0]))
		return 0;
	return least == most ? 1 : 2;
}

/* What one pass through the file found. */
struct found {
	char own[HASH_MAX];	/* of the user; "" if there is none */
	char cheap[HASH_MAX], dear[HASH_MAX];	/* see auth_file_choose() */
	unsigned own_line, cheap_line, dear_line;
	unsigned unknown_line;	/* the first whose hash crypt(3) does not know,
				   as far as that shows without trying; or 0 */
};

/* Takes hash, of line n, into what was found. */
static void
compare_hash(struct found *f, const char *hash, unsigned n)
{
	if (!is_unlocked(hash))
		return;
	if (!compat_crypt_knows(hash)) {
		if (f->unknown_line == 0)
			f->unknown_line = n;
		return;
	}
	if (f->cheap[0] == '\0' ||
	    auth_file_cost(hash) < auth_file_cost(f->cheap)) {
		text_copy(f->cheap, sizeof f->cheap, hash);
		f->cheap_line = n;
	}
	if (f->dear[0] == '\0' ||
	    auth_file_cost(hash) > auth_file_cost(f->dear)) {
		text_copy(f->dear, sizeof f->dear, hash);
		f->dear_line = n;
	}
}

/* As file_read_all(): the file as it is now. */
static long
read_file(const struct auth *a, char **text)
{
	const struct users *u = a->state;

	return file_read_named(u->fd, a->where, FILE_MAX, text);
}

/* Looks at all of the file as it is now, whether user is in it or not.  Returns
   false, with errno, if it cannot be read. */
static bool
read_users(const struct auth *a, const char *user, struct found *f)
{
	const char *hash;
	bool mine = false;
	char *text, *line;
	long len = read_file(a, &text);
	unsigned n = 1;
	size_t all;

	memset(f, 0, sizeof *f);
	if (len == -1)
		return false;
	for (line = text; line < text + len; line += all, n++) {
		all = text_line(line, (size_t)(text + len - line));
		if ((hash = cut_hash(line, user, &mine)) == NULL)
			continue;
		if (mine && f->own_line == 0) {
			f->own_line = n;
			text_copy(f->own, sizeof f->own, hash);
		}
		compare_hash(f, hash, n);
	}
	file_free(text, len);
	return true;
}

/*
 * Hashes password for setting; true if the result is setting itself.  A result
 * of another length tells that setting is no hash: crypt(3) takes the first two
 * letters of a plain password for the salt of an old one.
 */
static bool
hash_matches(const char *password, const char *setting, bool *unknown)
{
	char made[HASH_MAX];
	bool equal = false;

	*unknown = !compat_crypt(password, setting, made, sizeof made) ||
	    strlen(made) != strlen(setting);
	if (!*unknown)
		equal = equal_hashes(made, setting);
	explicit_bzero(made, sizeof made);
	return equal;
}

/* Logs that the hash of that line is one that crypt(3) does not know. */
static enum answer
unknown_hash(const struct auth *a, unsigned line)
{
	logger_printf(a->log, LOG_ERR, "config-error", NULL,
	    "%s: line %u: crypt(3) does not support this hash", a->where, line);
	return ANSWER_UNSURE;
}

/* Where COMPAT_CRYPT_WHOLE is false the log says at the start, and not only
   when such a user comes, that the file has hashes that cannot be checked. */
static bool
open_users(struct auth *a, char *error, size_t size)
{
	struct users *u = malloc(sizeof *u);
	struct found found;

	(void)error;
	(void)size;
	a->state = u;
	if (u == NULL)
		return false;
	u->fd = open(a->where, O_RDONLY | O_CLOEXEC);
	if (COMPAT_CRYPT_WHOLE)
		return true;
	/* A file that cannot be read is logged when a password is checked. */
	if (read_users(a, "", &found) && found.unknown_line != 0)
		unknown_hash(a, found.unknown_line);
	explicit_bzero(&found, sizeof found);
	return true;
}

static unsigned
line_of(const struct found *f, const char *hash)
{
	return hash == f->own ? f->own_line : hash == f->cheap ?
	    f->cheap_line : f->dear_line;
}

/*
 * Hashes as auth_file_choose() says; only the user's own hash can be right.
 * Where crypt(3) does not know that one, or knows none that it tried for a
 * user who has none, the file is at fault.
 */
static enum answer
check_hashes(const struct auth *a, const struct found *f,
    const char *password)
{
	enum answer answer = ANSWER_NO;
	const char *chosen[2];
	bool known = false, unknown, equal;
	size_t n, i;

	n = auth_file_choose(f->own, f->cheap, f->dear, chosen);
	if (n == 0 && f->unknown_line != 0)
		return unknown_hash(a, f->unknown_line);
	for (i = 0; i < n; i++) {
		equal = hash_matches(password, chosen[i], &unknown);
		if (equal && chosen[i] == f->own)
			answer = ANSWER_YES;
		known = known || (!unknown && (i == 0 || !is_unlocked(f->own)));
	}
	return n == 0 || known ? answer :
	    unknown_hash(a, line_of(f, chosen[0]));
}

static enum answer
check_file(struct auth *a, const char *user, const char *password)
{
	enum answer answer;
	struct found found;

	if (read_users(a, user, &found)) {
		answer = check_hashes(a, &found, password);
		a->why = answer != ANSWER_NO ? NULL : found.own_line == 0
		    ? "no such user" : is_unlocked(found.own) ? "wrong password"
		    : "the user is locked";
	} else
		answer = auth_broken(a, strerror(errno));
	explicit_bzero(&found, sizeof found);
	return answer;
}

/* ---- For --check ---- */

/* What was seen of the file so far. */
struct probe {
	const struct auth *a;
	struct findings *f;
	struct user {
		char name[128];	/* longer ones are not compared */
		unsigned line;
	} *users;		/* owned */
	size_t n, usable;
	size_t forms;		/* of hashes: one of each that crypt(3) */
	char form[FORMS_MAX][HASH_MAX];	/* has made, or would */
};

/* Do the two differ in salt and digest alone? */
static bool
is_of_form(const char *hash, const char *form)
{
	if (strlen(hash) != strlen(form) || strncmp(hash, form, 3) != 0 ||
	    auth_file_cost(hash) != auth_file_cost(form))
		return false;
	for (; *hash != '\0'; hash++, form++)
		if ((*hash == '$') != (*form == '$') || (strchr("$./=,",
		    *hash) == NULL && !text_is_alnum(*hash)))
			return false;
	return true;
}

/* Does crypt(3) know the hash?  Only the first of a form is tried, for each
   takes a good part of a second, and a socket unit waits for the check. */
static bool
is_hash(struct probe *p, const char *hash)
{
	char made[HASH_MAX];

	for (size_t i = 0; i < p->forms; i++)
		if (is_of_form(hash, p->form[i]))
			return true;
	if (!compat_crypt_knows(hash) || !compat_crypt("", hash, made,
	    sizeof made) || strlen(made) != strlen(hash))
		return false;
	if (p->forms < FORMS_MAX)
		memcpy(p->form[p->forms++], hash, strlen(hash) + 1);
	return true;
}

static bool
has_blank_edge(const char *s)
{
	return *s != '\0' && (text_is_space(*s) ||
	    text_is_space(s[strlen(s) - 1]));
}

/* One line of the file. */
static void
probe_line(struct probe *p, char *line, unsigned n)
{
	const char *hash, *wrong = NULL;
	struct user *rows;
	bool mine;

	hash = cut_hash(line, "", &mine);
	if (line[0] == '#' || (hash == NULL && line[0] == '\0'))
		return;
	if (hash == NULL || line[0] == '\0')
		wrong = "not USER:HASH";
	else if (text_starts(line, "\xef\xbb\xbf"))
		wrong = "the file begins with a byte order mark";
	else if (has_blank_edge(line))
		wrong = "a blank is part of the user's name";
	else if (is_unlocked(hash) && auth_file_cost(hash) > COST_MAX)
		wrong = "a hash that takes too long";
	else if (is_unlocked(hash) && !is_hash(p, hash))
		wrong = has_blank_edge(hash) ? "a blank is part of the hash"
		    : "not a hash of crypt(3), as openssl passwd -6 makes one";
	if (wrong != NULL) {
		findings_add(p->f, FINDING_BAD, "%s: line %u: %s",
		    p->a->where, n, wrong);
		return;
	}
	p->usable += is_unlocked(hash);
	rows = table_grow(p->users, p->n, sizeof *rows);
	if (rows != NULL && strlen(line) < sizeof rows->name) {
		rows[p->n].line = n;
		text_join(rows[p->n++].name, sizeof rows->name, line, NULL);
	}
	p->users = rows != NULL ? rows : p->users;
}

/* By name, and then by line. */
static int
compare_users(const void *a, const void *b)
{
	const struct user *x = a, *y = b;
	int order = strcmp(x->name, y->name);

	return order != 0 ? order : x->line < y->line ? -1 : x->line > y->line;
}

/* The first line of a user counts.  Tells of one further, and how many there
   are. */
static void
probe_twins(struct probe *p)
{
	const struct user *first = NULL, *again = NULL;
	size_t i, more = 0;

	if (p->n > 0)
		qsort(p->users, p->n, sizeof *p->users, compare_users);
	for (i = 1; i < p->n; i++) {
		if (strcmp(p->users[i].name, p->users[i - 1].name) != 0)
			continue;
		more++;
		if (again == NULL || p->users[i].line < again->line) {
			again = &p->users[i];
			first = &p->users[i - 1];
		}
	}
	if (again != NULL)
		findings_add(p->f, FINDING_DOUBT, "%s: line %u: line %u counts "
		    "for %s, and not this one%s", p->a->where, again->line,
		    first->line, again->name, more == 1 ? ""
		    : "; there are more such lines");
	free(p->users);
}

static void
probe_file(struct auth *a, struct findings *f)
{
	const struct users *u = a->state;
	struct probe p = { .a = a, .f = f };
	char *text, *line;
	long len = read_file(a, &text);
	unsigned n = 1;
	size_t all;
	int fd;

	if (len == -1) {
		findings_add(f, FINDING_BAD, "--auth file:%s: %s", a->where,
		    strerror(errno));
		return;
	}
	fd = file_again(u->fd, a->where);
	if (fd != -1)
		findings_add_secret(f, a->where, fd);
	file_close(&fd);
	for (line = text; line < text + len; line += all) {
		all = text_line(line, (size_t)(text + len - line));
		probe_line(&p, line, n++);
	}
	file_free(text, len);
	explicit_bzero(p.form, sizeof p.form);
	probe_twins(&p);
	if (p.usable == 0)
		findings_add(f, FINDING_BAD, "%s: has no user who could log in",
		    a->where);
	else
		findings_add(f, FINDING_GOOD, "%s: %zu user%s can log in",
		    a->where, p.usable, p.usable == 1 ? "" : "s");
}

const struct auth_source auth_file = {
	.prefix = "file:",
	.open = open_users,
	.check = check_file,
	.probe = probe_file,
	.close = close_users,
};
