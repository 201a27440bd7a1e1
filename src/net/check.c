/*
 * check.c - whether a place can be connected to, for --check.
 */
#include <errno.h>
#include <string.h>

#include "net/stream.h"

void
stream_check(const char *where, const char *what, struct findings *f)
{
	struct stream s = { .fd = -1 };
	struct addresses found;
	struct place place;
	char why[128];
	int status, error = 0;

	if (!place_parse(where, strlen(where), &place)) {
		findings_add(f, FINDING_BAD, "%s: %s is not a place to connect "
		    "to", what, where);
		return;
	}
	if (place.local || f->connect) {
		status = stream_connect(&s, where, NULL, f->deadline, why,
		    sizeof why);
		error = errno;
	} else {
		status = stream_resolve(&place, NULL, &found, f->deadline, why,
		    sizeof why);
	}
	if (status == 0)
		findings_add(f, FINDING_GOOD, "%s can be %s", what,
		    s.fd != -1 ? "connected to" : "resolved");
	else
		findings_add(f, findings_absence(f, error), "%s: %s", what,
		    why);
	stream_close(&s);
}
