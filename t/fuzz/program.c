/*
 * program.c - a program that writes anything, and exits with any status.
 *
 * The first octet is its exit status, the second a size of pieces; the rest is
 * what it wrote.  However its output is cut up the verdict is the same:
 *  - 250 if and only if it exited with 0 and did not refuse;
 *  - a reply without control characters, of one class;
 *  - EX_TEMPFAIL is never a refusal for good.
 * The log is not flooded.
 */
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <syslog.h>

#include "base/reply.h"
#include "relay/outcome.h"
#include "t/fuzz/fuzz.h"

#define HEAD 2

/* What is made of it, taken in pieces of size step. */
static void
run(int status, const char *p, size_t len, size_t step, struct reply *v)
{
	static char name[] = "program", *const argv[] = { name, NULL };
	unsigned lines = 0;
	struct relay_settings set = { .program = argv,
		.log = { count_printable, &lines } };
	struct relay r = { .set = &set };
	struct envelope env = { .fact = { "" } };
	struct job j = { &r, &env, -1, SPOOL_LF, 0 };
	struct talk *t = calloc(1, sizeof *t);
	size_t n;

	demand(t != NULL, "no memory");
	for (n = 0; n < FACTS; n++)
		env.fact[n] = "";
	t->priority = LOG_INFO;
	t->reply = true;
	for (; len > 0; p += n, len -= n) {
		n = len < step ? len : step;
		talk_take(&j, t, p, n);
	}
	talk_end(&j, t);
	reply_accept(v, &env);
	outcome_judge(&j, status, t->first, v);
	demand(lines <= OUTPUT_LINES + 3, "the log is flooded");
	free(t);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + HEAD;
	struct reply v, w;
	int status;

	if (size < HEAD)
		return 0;
	status = data[0] & 128 ? data[0] & 127 : 0;
	run(status, text, size - HEAD, SIZE_MAX, &v);
	run(status, text, size - HEAD, 1U + data[1], &w);
	demand(reply_same(&v, &w), "packet edges show");
	demand_verdict(&v);
	demand(v.code >= 400 || status == 0, "a failure is a success");
	demand(v.code < 500 || status != EX_TEMPFAIL, "TEMPFAIL is for good");
	demand_text(v.text, "", "a verdict of several lines");
	return 0;
}
