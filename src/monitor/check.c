/*
 * check.c - what the monitor would need in a session, for --check.
 */
#include <stdint.h>

#include "base/findings.h"
#include "monitor/private.h"
#include "relay/expected.h"

void
monitor_check(struct monitor *m, struct findings *f)
{
	struct expected senders = { .n = 0 };

	m->services.end = INT64_MAX;	/* of no session */
	from_check(m->from, &senders, f);
	relay_check(m->relay, &senders, f);
	expected_free(&senders);
	access_check(m->access, f);
	senders_check(m->senders, f);
	monitor_probe_services(m, f);
	if (m->auth != NULL)
		auth_check(m->auth, f);
}
