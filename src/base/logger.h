/*
 * logger.h - where all parts tell the administrator something.
 */
#ifndef BASE_LOGGER_H
#define BASE_LOGGER_H

#include "base/envelope.h"

/* priority is as in syslog(3), event one word ([a-z-]+), env NULL if the event
   concerns no transaction, text one line without control characters. */
struct logger {
	void (*log)(void *ctx, int priority, const char *event,
	    const struct envelope *env, const char *text);
	void *ctx;
};

/* Tells l of an event; text is made safe where it stands.  The second one makes
   the text by a format, and cuts it to 1500 octets. */
void	logger_put(const struct logger *l, int priority, const char *event,
	    const struct envelope *env, char *text);
void	logger_printf(const struct logger *l, int priority, const char *event,
	    const struct envelope *env, const char *fmt, ...)
	    __attribute__((format(printf, 5, 6)));

#endif
