/*
 * clock.h - monotonic deadlines, and waiting for a descriptor until one.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* Milliseconds of CLOCK_MONOTONIC: deadlines are counted in them. */
int64_t	clock_now(void);

/* Milliseconds from now to deadline: 0 when it has passed, at most INT_MAX. */
int	clock_left(int64_t deadline);

/* The deadline that many seconds from now. */
int64_t	clock_after(unsigned seconds);

/* The earlier of deadline and that many seconds from now. */
int64_t	clock_within(int64_t deadline, int seconds);

/* Waits until poll(2) reports any of events, or an error, on fd.  Returns what
   it reported, or -1 with errno: ETIMEDOUT at the deadline. */
int	clock_wait(int fd, short events, int64_t deadline);

/* The time of day, or the second that SOURCE_DATE_EPOCH names: for what is
   written into messages. */
struct timespec clock_date(void);

/* A time of day in UTC. */
struct date {
	unsigned year, month, day;	/* from 1 */
	unsigned weekday;		/* from 0, which is Sunday */
	unsigned hour, minute, second;
};

/* Splits seconds since 1970, without the files of time zones. */
struct date clock_split(time_t time);

/* Does SOURCE_DATE_EPOCH name the time of day? */
bool	clock_stands(void);

/* Whether SOURCE_DATE_EPOCH, if it is set, is a number of seconds. */
bool	clock_valid(void);

#endif
