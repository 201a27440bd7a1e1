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
#include "base/text.h"

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

/* Reads that number of seconds.  False if it is not set, or none. */
static bool
read_epoch(uint64_t *seconds)
{
	const char *s = epoch();

	return s != NULL && strlen(s) <= DIGITS &&
	    text_parse_number(span_of(s), seconds);
}

bool
clock_stands(void)
{
	uint64_t seconds;

	return read_epoch(&seconds);
}

bool
clock_valid(void)
{
	return epoch() == NULL || clock_stands();
}

struct timespec
clock_date(void)
{
	struct timespec now = { .tv_sec = 0 };
	uint64_t seconds;

	if (read_epoch(&seconds))
		now.tv_sec = (time_t)seconds;
	else if (clock_gettime(CLOCK_REALTIME, &now) == -1)
		abort();
	return now;
}

/* Days are counted from 1 March of a year that 400 divides. */
struct date
clock_split(time_t time)
{
	const int64_t days = (int64_t)time / 86400 + 719468;
	const unsigned second = (unsigned)(time % 86400);
	unsigned day = (unsigned)(days % 146097), year, month;

	year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
	day -= 365 * year + year / 4 - year / 100;
	month = (5 * day + 2) / 153;
	return (struct date){
		.year = (unsigned)(days / 146097) * 400 + year + (month > 9),
		.month = month < 10 ? month + 3 : month - 9,
		.day = day - (153 * month + 2) / 5 + 1,
		.weekday = (unsigned)((days + 3) % 7),
		.hour = second / 3600, .minute = second / 60 % 60,
		.second = second % 60
	};
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
clock_after(unsigned seconds)
{
	return clock_now() + (int64_t)seconds * 1000;
}

int64_t
clock_within(int64_t deadline, int seconds)
{
	int64_t t = clock_after((unsigned)seconds);

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
