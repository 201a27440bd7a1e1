/*
 * auth_file.c - who a client is, by a file of names and crypt(3) hashes.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/compat.h"
#include "base/file.h"
#include "base/text.h"
#include "service/auth_source.h"

#define HASH_MAX 512		/* octets of a crypt(3) hash, with NUL */

struct users {
	int fd;			/* of the file, open; or -1 */
};

static void
close_users(struct auth *a)
{
	struct users *u = a->state;

	if (u->fd != -1)
		close(u->fd);
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
	char *colon = strchr(line, ':');

	line[strcspn(line, "\r\n")] = '\0';
	if (line[0] == '#' || colon == NULL)
		return NULL;
	*colon++ = '\0';
	colon[strcspn(colon, ":")] = '\0';
	*mine = strcmp(line, user) == 0;
	return colon;
}

/* A locked account's hash is none of crypt(3)'s. */
static bool
is_usable(const char *setting)
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

/* In microseconds, as one machine took. */
uint64_t
auth_file_cost(const char *setting)
{
	uint64_t rounds = 5000;
	size_t n;

	if (strncmp(setting, "$y$", 3) == 0 && strlen(setting) > 5)
		return 10 * yescrypt_cost(setting[4]);
	if (strncmp(setting, "$2", 2) == 0 && strlen(setting) > 6)
		return (uint64_t)50 << strtoul(setting + 4, NULL, 10) % 32;
	if (strncmp(setting, "$5$", 3) == 0 ||
	    strncmp(setting, "$6$", 3) == 0) {
		if (strncmp(setting + 3, "rounds=", 7) == 0) {
			n = text_digits(setting + 10);
			text_parse_number((struct span){ setting + 10, n },
			    &rounds);
		}
		return rounds / 2;
	}
	return strncmp(setting, "$1$", 3) == 0 ? 200 : 2;
}

size_t
auth_file_choose(const char *own, const char *cheap, const char *dear,
    const char *chosen[2])
{
	uint64_t least = auth_file_cost(cheap), most = auth_file_cost(dear);

	chosen[0] = is_usable(own) ? own : cheap;
	chosen[1] = is_usable(own) && auth_file_cost(own) == most ? cheap
	    : dear;
	if (!is_usable(chosen[0]))
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
	if (!is_usable(hash))
		return;
	if (!compat_crypt_knows(hash)) {
		if (f->unknown_line == 0)
			f->unknown_line = n;
		return;
	}
	if (f->cheap[0] == '\0' ||
	    auth_file_cost(hash) < auth_file_cost(f->cheap)) {
		snprintf(f->cheap, sizeof f->cheap, "%s", hash);
		f->cheap_line = n;
	}
	if (f->dear[0] == '\0' ||
	    auth_file_cost(hash) > auth_file_cost(f->dear)) {
		snprintf(f->dear, sizeof f->dear, "%s", hash);
		f->dear_line = n;
	}
}

/* Reads all of file, whether user is in it or not.  Returns false, with errno,
   if that fails. */
static bool
read_users(FILE *file, const char *user, struct found *f)
{
	const char *found;
	char *line = NULL;
	bool mine = false, whole;
	size_t size = 0;
	unsigned n;

	memset(f, 0, sizeof *f);
	errno = 0;
	for (n = 1; getline(&line, &size, file) != -1; n++) {
		if ((found = cut_hash(line, user, &mine)) == NULL)
			continue;
		if (mine && f->own_line == 0) {
			f->own_line = n;
			snprintf(f->own, sizeof f->own, "%s", found);
		}
		compare_hash(f, found, n);
	}
	whole = !ferror(file) && feof(file);
	if (line != NULL)
		explicit_bzero(line, size);
	free(line);
	return whole;
}

/* Opens the file as it is now.  NULL with errno. */
static FILE *
open_again(const struct auth *a)
{
	const struct users *u = a->state;
	int fd = file_again(u->fd, a->where), failure;
	FILE *file = fd == -1 ? NULL : fdopen(fd, "r");

	if (file == NULL && fd != -1) {
		failure = errno;
		close(fd);
		errno = failure;
	}
	return file;
}

/* Reads the file as it is now.  Returns false, with errno, if that fails. */
static bool
read_file_again(const struct auth *a, const char *user, struct found *f)
{
	FILE *file = open_again(a);
	char buffer[4096];
	int failure;
	bool whole;

	if (file == NULL)
		return false;
	setvbuf(file, buffer, _IOFBF, sizeof buffer);
	whole = read_users(file, user, f);
	failure = errno;
	fclose(file);
	explicit_bzero(buffer, sizeof buffer);
	errno = failure;
	return whole;
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
	if (read_file_again(a, "", &found) && found.unknown_line != 0)
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
		known = known || (!unknown && (i == 0 || !is_usable(f->own)));
	}
	return n == 0 || known ? answer :
	    unknown_hash(a, line_of(f, chosen[0]));
}

static enum answer
check_file(struct auth *a, const char *user, const char *password)
{
	enum answer answer;
	struct found found;

	if (read_file_again(a, user, &found)) {
		answer = check_hashes(a, &found, password);
		a->why = answer != ANSWER_NO ? NULL : found.own_line == 0
		    ? "no such user" : is_usable(found.own) ? "wrong password"
		    : "the user is locked";
	} else
		answer = auth_broken(a, strerror(errno));
	explicit_bzero(&found, sizeof found);
	return answer;
}

/* What is wrong with line n.  Returns false. */
static bool
add_bad(const struct auth *a, unsigned n, const char *why, struct findings *f)
{
	findings_add(f, FINDING_BAD, "%s: line %u: %s", a->where, n, why);
	return false;
}

/* One line of the file.  Returns whether a user can log in by it. */
static bool
probe_line(const struct auth *a, char *line, unsigned n, struct findings *f)
{
	char made[HASH_MAX];
	const char *found;
	bool mine, known;

	line[strcspn(line, "\r\n")] = '\0';
	if (line[0] == '#' || line[0] == '\0')
		return false;
	if ((found = cut_hash(line, "", &mine)) == NULL || line[0] == '\0')
		return add_bad(a, n, "not USER:HASH", f);
	if (strncmp(line, "\xef\xbb\xbf", 3) == 0)
		return add_bad(a, n, "the file begins with a byte order mark",
		    f);
	if (isspace((unsigned char)line[0]) ||
	    isspace((unsigned char)line[strlen(line) - 1]))
		return add_bad(a, n, "a blank is part of the user's name", f);
	if (!is_usable(found))
		return false;
	known = compat_crypt_knows(found) &&
	    compat_crypt("", found, made, sizeof made) &&
	    strlen(made) == strlen(found);
	return known || add_bad(a, n, "not a hash of crypt(3)", f);
}

static void
probe_file(struct auth *a, struct findings *f)
{
	FILE *file = open_again(a);
	char *line = NULL;
	size_t size = 0, users = 0;

	if (file == NULL) {
		findings_add(f, FINDING_BAD, "--auth file:%s: %s", a->where,
		    strerror(errno));
		return;
	}
	for (unsigned n = 1; getline(&line, &size, file) != -1; n++)
		users += probe_line(a, line, n, f);
	if (line != NULL)
		explicit_bzero(line, size);
	free(line);
	if (ferror(file))
		findings_add(f, FINDING_BAD, "%s: cannot be read", a->where);
	else if (users == 0)
		findings_add(f, FINDING_BAD, "%s: has no user who could log in",
		    a->where);
	else
		findings_add(f, FINDING_GOOD, "%s: %zu user%s can log in",
		    a->where, users, users == 1 ? "" : "s");
	fclose(file);
}

const struct auth_source auth_file = {
	.prefix = "file:",
	.open = open_users,
	.check = check_file,
	.probe = probe_file,
	.close = close_users,
};
