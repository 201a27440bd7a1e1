/*
 * check.c - what the monitor would need in a session, for --check.
 */
#include "base/findings.h"
#include "monitor/private.h"

void
monitor_check(struct monitor *m, struct findings *f)
{
	relay_check(m->relay, f);
	access_check(m->access, f);
	from_check(m->from, f);
	senders_check(m->senders, f);
	monitor_probe_services(m, f);
	if (m->auth != NULL)
		auth_check(m->auth, f);
}
