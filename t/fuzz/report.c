/*
 * report.c - a TLS engine that reports anything.
 *
 * The input is the report as a string.  The value of a name is what follows
 * the name and '=' on the first line that has them, as far as there is room.
 * How the report is received is tested by nexthop.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/monitor.h"
#include "net/engine.h"
#include "t/fuzz/fuzz.h"

#define VALUE 8

/* Where the value of name starts, found line by line; NULL if nowhere. */
static const char *
look_up(const char *report, const char *name)
{
	const char *end, *equals;

	for (; *report != '\0'; report = end + (*end == '\n')) {
		end = report + strcspn(report, "\n");
		equals = memchr(report, '=', (size_t)(end - report));
		if (equals != NULL &&
		    strlen(name) == (size_t)(equals - report) &&
		    memcmp(name, report, strlen(name)) == 0)
			return equals + 1;
	}
	return NULL;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = { "protocol", "cipher", "sni" };
	char *report, *value;
	const char *is;
	size_t i, n;

	if (size >= MONITOR_REPORT)
		return 0;
	report = malloc(size + 1);
	value = malloc(VALUE);
	demand(report != NULL && value != NULL, "no memory");
	memcpy(report, data, size);
	report[size] = '\0';
	for (i = 0; i < sizeof names / sizeof names[0]; i++) {
		memset(value, 'x', VALUE);
		tls_report_value(report, names[i], value, VALUE);
		is = look_up(report, names[i]);
		n = is == NULL ? 0 : strcspn(is, "\n");
		if (n > VALUE - 1)
			n = VALUE - 1;
		demand(strlen(value) == n && (n == 0 ||
		    memcmp(value, is, n) == 0), "not the value");
	}
	free(report);
	free(value);
	return 0;
}
