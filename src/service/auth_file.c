/*
 * auth_file.c - who a client is, by a file of names and crypt(3) hashes.
 */
#define _GNU_SOURCE	/* explicit_bzero, crypt_r */

#include <crypt.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* crypt_r(3), or NULL.  libcrypt is loaded by the few who need it: linked, it
   would be paid for by every connection. */
static __typeof__(&crypt_r)
find_crypt(void)
{
	__typeof__(&crypt_r) found = NULL;
	void *library;

	*(void **)(void *)&found = dlsym(RTLD_DEFAULT, "crypt_r");
	if (found != NULL)
		return found;
	library = dlopen("libcrypt.so.1", RTLD_NOW);
	if (library == NULL)	/* distributions without the obsolete half */
		library = dlopen("libcrypt.so.2", RTLD_NOW);
	if (library != NULL)
		*(void **)(void *)&found = dlsym(library, "crypt_r");
	return found;
}

/* Hashes password for setting; true if the result is setting itself. */
static bool
matches(const char *password, const char *setting, bool *unknown)
{
	struct crypt_data *data = calloc(1, sizeof *data);
	__typeof__(&crypt_r) crypt_it = find_crypt();
	const char *made = NULL;
	bool equal = false;

	if (data != NULL && crypt_it != NULL)
		made = crypt_it(password, setting, data);
	*unknown = made == NULL || made[0] == '*';
	if (!*unknown)
		equal = same(made, setting);
	if (data != NULL)
		explicit_bzero(data, sizeof *data);
	free(data);
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
