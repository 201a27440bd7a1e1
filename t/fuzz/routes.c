/*
 * routes.c - any file of routes, and any recipient.
 *
 * The input is an address, a line feed, and the file.  Only what a recipient
 * is told when it is named is looked at: no route is followed, for it could
 * lead anywhere on this machine.
 *  - The administrator is told of a mistake if, and only if, every recipient
 *    is 451 4.3.5: nothing is routed by a file that is broken anywhere.
 *  - A file that is good stays so, and routes alike, with remarks and routes to
 *    elsewhere; one line that makes no sense breaks it.
 *  - A route in front for the whole address is the one that is taken.
 */
#define _GNU_SOURCE	/* memfd_create */
#include <sys/mman.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay.h"
#include "t/fuzz/fuzz.h"

#define FILE_MAX 1024	/* octets of a file */
#define REPEATS_MAX 8	/* operators of repetition in it */

static void
log_line(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	demand(strcmp(event, "routes") == 0, "a log line of another kind");
	count_printable(ctx, priority, event, env, text);
}

struct part {
	const char *p;
	size_t len;
};

/* What the address is told by a file of these parts.  True if it is good. */
static bool
ask(const char *address, const struct part part[], size_t n,
    struct reply *v)
{
	const struct recipient to = { address, "" };
	struct envelope env = { .recipients = &to, .nrecipients = 1 };
	unsigned complaints = 0;
	char name[32], error[256];
	struct relay_settings set = { .spec = "smtp:[192.0.2.1]:25",
		.routes = name, .fqdn = "mx.example.org", .timeout = 1,
		.log = { log_line, &complaints } };
	int fd = memfd_create("routes", MFD_CLOEXEC);
	struct relay *r;
	bool good;
	size_t i;

	for (i = 0; i < n; i++)
		demand(write(fd, part[i].p, part[i].len) ==
		    (ssize_t)part[i].len, "no file in memory");
	for (i = 0; i < FACTS; i++)
		env.fact[i] = "";
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	r = relay_open(&set, error, sizeof error);
	demand(r != NULL, "no relay");
	reply_set(v, 250, "2.0.0", "fuzzed");
	relay_rcpt(r, &env, v);
	good = v->code != 451 || strcmp(v->enh, "4.3.5") != 0 ||
	    strcmp(v->text, "Local configuration error") != 0;
	/* A file may say so itself. */
	demand(complaints == 0 || !good, "routed by a broken file");
	good = complaints == 0;
	relay_rcpt(r, &env, v);
	relay_close(r);
	close(fd);
	return good;
}

/* What the same file does when something is added that changes nothing, or
   everything. */
static void
vary(const char *address, struct part file, const struct reply *v)
{
	static const char remark[] = "\n# remark\n\n",
	    elsewhere[] = "\nother.invalid.example smtp:[192.0.2.2]:25\n",
	    nonsense[] = "\nx@example.org nonsense\n",
	    front[] = " error:5.7.99 in front\nfront.invalid :\n";
	const struct part more[] = {
		{ remark, sizeof remark - 1 }, { elsewhere,
		sizeof elsewhere - 1 }, { nonsense, sizeof nonsense - 1 }
	};
	struct part all[4] = { file };
	const char *at = strrchr(address, '@');
	struct reply w;
	size_t i;

	for (i = 0; i < 2; i++) {
		all[1] = more[i];
		demand(ask(address, all, 2, &w) && reply_same(v, &w),
		    "what should change nothing does");
	}
	all[1] = more[2];
	demand(!ask(address, all, 2, &w), "nonsense is no mistake");
	for (i = 0; isalnum((unsigned char)address[i]) || (i > 0 &&
	    (address[i] == '@' || address[i] == '.')); i++)
		;
	/* A key that no address can be is a mistake. */
	if (address[i] != '\0' || at == NULL ||
	    !address_is_domain(at + 1, strlen(at + 1)))
		return;
	all[0] = (struct part){ address, i };
	all[1] = (struct part){ front, sizeof front - 1 };
	all[2] = file;
	demand(ask(address, all, 3, &w), "routes in front are a mistake");
	demand(strcmp(w.enh, "5.7.99") == 0, "the first route is not taken");
}

/* glibc's regcomp(3) takes all memory for "{255}{255}", and time that doubles
   with each "+" of "a++++"; regexec(3) takes it for references.  Only the
   administrator can write such a thing, and it is not ours. */
static bool
costly(struct part file)
{
	size_t repeats = 0, i;

	for (i = 0; i < file.len; i++) {
		if (file.p[i] == '{' || (file.p[i] == '\\' &&
		    i + 1 < file.len && isdigit((unsigned char)file.p[i + 1])))
			return true;
		repeats += file.p[i] == '+' || file.p[i] == '*' ||
		    file.p[i] == '?';
	}
	return repeats > REPEATS_MAX;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *p = (const char *)data, *lf = NULL;
	char address[256];
	struct reply v;
	struct part file;

	if (size > 0)
		lf = memchr(p, '\n', size);
	if (lf == NULL || lf - p >= (long)sizeof address || lf == p)
		return 0;
	file = (struct part){ lf + 1, size - (size_t)(lf + 1 - p) };
	if (memchr(p, '\0', (size_t)(lf - p)) != NULL || costly(file) ||
	    file.len > FILE_MAX)
		return 0;
	snprintf(address, sizeof address, "%.*s", (int)(lf - p), p);
	if (ask(address, &file, 1, &v))
		vary(address, file, &v);
	return 0;
}
