/*
 * clock.c - monotonic deadlines, and waiting for a descriptor until one.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

#define DIGITS 11		/* of seconds since 1970: to the year 5138 */

/* What SOURCE_DATE_EPOCH was at the first call, or NULL. */
static const char *
epoch(void)
{
	static const char *value;
	static bool known;

	if (!known)
		value = getenv("SOURCE_DATE_EPOCH");
	known = true;
	return value;
}

bool
clock_stands(void)
{
	return epoch() != NULL && clock_valid();
}

bool
clock_valid(void)
{
	const char *s = epoch();

	return s == NULL || (*s != '\0' && strlen(s) <= DIGITS &&
	    s[strspn(s, "0123456789")] == '\0');
}

struct timespec
clock_date(void)
{
	struct timespec now = { .tv_sec = 0 };

	if (clock_stands())
		now.tv_sec = (time_t)strtoll(epoch(), NULL, 10);
	else if (clock_gettime(CLOCK_REALTIME, &now) == -1)
		abort();
	return now;
}

int64_t
clock_now(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_MONOTONIC, &now) == -1)
		abort();
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int
clock_left(int64_t deadline)
{
	int64_t left = deadline - clock_now();

	if (left <= 0)
		return 0;
	return left > INT_MAX ? INT_MAX : (int)left;
}

int64_t
clock_within(int64_t deadline, int seconds)
{
	int64_t t = clock_now() + (int64_t)seconds * 1000;

	return t < deadline ? t : deadline;
}

int
clock_wait(int fd, short events, int64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = events };
	int n;

	do
		n = poll(&p, 1, clock_left(deadline));
	while (n == -1 && errno == EINTR);
	if (n == 0)
		errno = ETIMEDOUT;
	return n == 1 ? p.revents : -1;
}
