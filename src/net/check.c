/*
 * check.c - whether a place can be connected to, for --check.
 */
#include <errno.h>
#include <string.h>

#include "net/stream.h"

void
stream_check(const char *where, const char *what, enum finding worst,
    struct findings *f)
{
	struct stream s = { .fd = -1 };
	struct addresses found;
	struct place place;
	enum finding absent;
	char why[128];
	int status, error = 0;

	if (!place_parse(where, strlen(where), &place)) {
		findings_add(f, FINDING_BAD, "%s: %s is not a place to connect "
		    "to", what, where);
		return;
	}
	if (place.local || f->connect) {
		status = stream_connect(&s, where, NULL, findings_deadline(f),
		    why, sizeof why);
		error = errno;
	} else {
		status = stream_resolve(&place, NULL, &found,
		    findings_deadline(f), why, sizeof why);
	}
	absent = findings_absence(f, error);
	if (status == 0)
		findings_add(f, FINDING_GOOD, "%s can be %s", what,
		    s.fd != -1 ? "connected to" : "resolved");
	else
		findings_add(f, absent < worst ? absent : worst, "%s: %s", what,
		    why);
	stream_close(&s);
}
