/*
 * auth_file.c - who a client is, by a file of names and crypt(3) hashes.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/compat.h"
#include "base/file.h"
#include "service/auth_source.h"

#define HASH_MAX 512		/* octets of a crypt(3) hash, with NUL */

struct users {
	int fd;			/* of the file, open; or -1 */
};

static bool
open_users(struct auth *a, char *error, size_t size)
{
	struct users *u = malloc(sizeof *u);

	(void)error;
	(void)size;
	a->state = u;
	if (u == NULL)
		return false;
	u->fd = open(a->where, O_RDONLY | O_CLOEXEC);
	return true;
}

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
same(const char *s, const char *t)
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
hash(char *line, const char *user, bool *mine)
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
usable(const char *setting)
{
	return setting[0] != '\0' && strchr("!*", setting[0]) == NULL;
}

/*
 * Finds user's hash in f, or else "" and for *other the first usable hash.
 * Reads all of f whoever is asked for.  Returns false if that fails.
 */
static bool
look_up(FILE *f, const char *user, char *theirs, char *other)
{
	const char *found;
	char *line = NULL;
	bool known = false, mine = false, whole;
	size_t size = 0;

	theirs[0] = other[0] = '\0';
	errno = 0;
	while (getline(&line, &size, f) != -1) {
		if ((found = hash(line, user, &mine)) == NULL)
			continue;
		if (mine && !known) {
			known = true;
			snprintf(theirs, HASH_MAX, "%s", found);
		}
		if (other[0] == '\0' && usable(found))
			snprintf(other, HASH_MAX, "%s", found);
	}
	whole = !ferror(f) && feof(f);
	if (line != NULL)
		explicit_bzero(line, size);
	free(line);
	return whole;
}

/* Hashes password for setting; true if the result is setting itself. */
static bool
matches(const char *password, const char *setting, bool *unknown)
{
	char made[HASH_MAX];
	bool equal = false;

	*unknown = !compat_crypt(password, setting, made, sizeof made);
	if (!*unknown)
		equal = same(made, setting);
	explicit_bzero(made, sizeof made);
	return equal;
}

/* Somebody who is not in the file costs what one who is in it costs. */
static enum answer
check_file(struct auth *a, const char *user, const char *password)
{
	char theirs[HASH_MAX], other[HASH_MAX], buffer[4096];
	bool good, whole, unknown;
	enum answer answer = ANSWER_NO;
	struct users *u = a->state;
	FILE *f;
	int fd;

	if ((fd = file_again(u->fd, a->where)) == -1)
		return auth_broken(a, strerror(errno));
	if ((f = fdopen(fd, "r")) == NULL) {
		close(fd);
		return auth_broken(a, strerror(errno));
	}
	setvbuf(f, buffer, _IOFBF, sizeof buffer);
	whole = look_up(f, user, theirs, other);
	if (!whole)
		answer = auth_broken(a, strerror(errno));
	fclose(f);
	explicit_bzero(buffer, sizeof buffer);
	if (whole && (usable(theirs) || other[0] != '\0')) {
		good = matches(password, usable(theirs) ? theirs : other,
		    &unknown);
		if (unknown)
			answer = auth_broken(a, "a hash that crypt(3) refuses");
		else if (good && usable(theirs))
			answer = ANSWER_YES;
	}
	explicit_bzero(theirs, sizeof theirs);
	explicit_bzero(other, sizeof other);
	return answer;
}

const struct auth_source auth_file = {
	.prefix = "file:",
	.open = open_users,
	.check = check_file,
	.close = close_users,
};
