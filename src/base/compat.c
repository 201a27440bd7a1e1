/*
 * compat.c - what glibc has and musl, or the kernel's headers, may lack.
 */
#define _GNU_SOURCE	/* syscall, crypt_r, RTLD_DEFAULT */
#include "base/compat.h"

#include <sys/syscall.h>

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <crypt.h>
#include <dlfcn.h>

/* crypt_r(3), or NULL.  Few sessions need libcrypt; linked, it would cost
   every one of them. */
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

bool
compat_crypt_knows(const char *setting)
{
	(void)setting;
	return true;
}

bool
compat_crypt(const char *password, const char *setting, char *hash,
    size_t size)
{
	struct crypt_data *data = calloc(1, sizeof *data);
	__typeof__(&crypt_r) crypt_it = find_crypt();
	bool made = false;

	if (data != NULL && crypt_it != NULL)
		made = crypt_it(password, setting, data) != NULL &&
		    data->output[0] != '*' && snprintf(hash, size, "%s",
		    data->output) < (int)size;
	if (data != NULL)
		explicit_bzero(data, sizeof *data);
	free(data);
	return made;
}
#else
#define SCRATCH 32768		/* octets; libcrypt.a itself has 8192
				   (ALG_SPECIFIC_SIZE) */

/*
 * Debian's musl has no crypt(3).  libcrypt.a was built for glibc, but these
 * two of its hashes need nothing that musl lacks except what follows; all of
 * them would double the program.
 */
typedef void hasher(const char *password, size_t len, const char *setting,
    size_t setting_len, unsigned char *hash, size_t size, void *scratch,
    size_t scratch_size);
hasher	_crypt_crypt_sha512crypt_rn, _crypt_crypt_bcrypt_rn,
	_crypt_crypt_bcrypt_a_rn, _crypt_crypt_bcrypt_y_rn;

static const struct {
	const char prefix[5];
	hasher *run;
} hashes[] = {
	{ "$6$", _crypt_crypt_sha512crypt_rn },
	{ "$2b$", _crypt_crypt_bcrypt_rn },
	{ "$2y$", _crypt_crypt_bcrypt_y_rn },
	{ "$2a$", _crypt_crypt_bcrypt_a_rn },
};

void	__explicit_bzero_chk(void *p, size_t len, size_t size);
int	__snprintf_chk(char *to, size_t len, int flag, size_t size,
	    const char *fmt, ...);
unsigned long	__isoc23_strtoul(const char *s, char **end, int base);

void
__explicit_bzero_chk(void *p, size_t len, size_t size)
{
	(void)size;
	explicit_bzero(p, len);
}

int
__snprintf_chk(char *to, size_t len, int flag, size_t size, const char *fmt,
    ...)
{
	va_list ap;
	int n;

	(void)flag;
	(void)size;
	va_start(ap, fmt);
	n = vsnprintf(to, len, fmt, ap);
	va_end(ap);
	return n;
}

/* glibc 2.38's headers make this of strtoul(), which then knows "0b1" too: no
   number of a hash begins so. */
unsigned long
__isoc23_strtoul(const char *s, char **end, int base)
{
	return strtoul(s, end, base);
}

/* The one of hashes[] that made setting, or NULL. */
static hasher *
find_hasher(const char *setting)
{
	size_t i;

	for (i = 0; i < sizeof hashes / sizeof hashes[0]; i++)
		if (strncmp(setting, hashes[i].prefix,
		    strlen(hashes[i].prefix)) == 0)
			return hashes[i].run;
	return NULL;
}

bool
compat_crypt_knows(const char *setting)
{
	return find_hasher(setting) != NULL;
}

bool
compat_crypt(const char *password, const char *setting, char *hash,
    size_t size)
{
	hasher *run = find_hasher(setting);
	static _Alignas(16) char scratch[SCRATCH];
	bool made;

	if (run == NULL)
		return false;
	hash[0] = '\0';
	run(password, strlen(password), setting, strlen(setting),
	    (unsigned char *)hash, size, scratch, sizeof scratch);
	made = hash[0] == '$';
	explicit_bzero(scratch, sizeof scratch);
	return made;
}

int
pidfd_open(int pid, unsigned flags)
{
	return (int)syscall(SYS_pidfd_open, pid, flags);
}

void
closefrom(int from)
{
	long fd, end;

	if (syscall(SYS_close_range, from, UINT_MAX, 0U) == 0)
		return;
	end = sysconf(_SC_OPEN_MAX);
	for (fd = from; fd < end; fd++)
		close((int)fd);
}
#endif
