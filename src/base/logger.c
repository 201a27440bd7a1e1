/*
 * logger.c - where all parts tell the administrator something.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/logger.h"
#include "base/text.h"

#define LOG_TEXT 1500		/* octets of a record's text, with NUL */

void
logger_put(const struct logger *l, int priority, const char *event,
    const struct envelope *env, char *text)
{
	if (l->log == NULL)
		return;
	text_make_safe(text, text, true);
	l->log(l->ctx, priority, event, env, text);
}

void
logger_printf(const struct logger *l, int priority, const char *event,
    const struct envelope *env, const char *fmt, ...)
{
	char text[LOG_TEXT];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	logger_put(l, priority, event, env, text);
}
