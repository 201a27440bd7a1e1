/*
 * rules.c - any file of --rules, and anything that a client says.
 *
 * The input is what a client says, a line feed, and the file.
 *  - A file that is refused has its name and a line of it in the sentence.
 *  - A rule that is read is one that can be obeyed: a code that is one, a text
 *    that fits, keywords and a stage that there are.
 *  - Remarks change nothing; one line that makes no sense breaks the file.
 *  - Rules hold in the order of the file, and not more often than they say.
 */
#define _GNU_SOURCE	/* memfd_create */
#include <sys/mman.h>

#include <unistd.h>

#include "channel.h"
#include "session/rules.h"
#include "t/fuzz/fuzz.h"

#define FILE_MAX 2048	/* octets of a file */
#define STARS_MAX 8	/* in it: fnmatch(3) takes time for each */

/* Reads p[0..len) and then more as a file of rules.  Returns how many lines
   they have, with what rules_read() returned in *good. */
static unsigned
read_rules(struct rules *r, const char *p, size_t len, const char *more,
    bool *good, char error[1024])
{
	char name[32];
	unsigned lines = 1;
	int fd = memory_file(p, len);

	memset(r, 0, sizeof *r);
	error[0] = '\0';
	demand(write(fd, more, strlen(more)) == (ssize_t)strlen(more),
	    "no file in memory");
	for (size_t i = 0; i < len; i++)
		lines += p[i] == '\n';
	for (; *more != '\0'; more++)
		lines += *more == '\n';
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	*good = rules_read(r, name, error, 1024);
	close(fd);
	if (!*good)
		demand(strncmp(error, "--rules /", 9) == 0 &&
		    strncmp(error + 8, name, strlen(name)) == 0,
		    "an error without the option and the file's name");
	return lines;
}

static void
free_rules(struct rules *r)
{
	free(r->file);
	free(r->rule);
}

static void
look_at_rule(const struct rule *r)
{
	demand(r->stage <= RULE_ANY, "no such stage");
	demand(*rules_stage(r->stage) != '\0' &&
	    *rules_action(r->action) != '\0', "a rule without a name");
	switch (r->action) {
	case RULE_REPLY:
		demand(r->code >= 200 && r->code <= 599, "no such code");
		demand(r->enh[0] == '\0' || r->enh[0] == '0' + r->code / 100,
		    "an enhanced code of another class");
		demand(*r->text != '\0' && strlen(r->text) < REPLY_TEXT,
		    "a text that is too short or too long");
		demand(r->stage != RULE_TEXT || r->code >= 400,
		    "a text that is accepted too early");
		break;
	case RULE_SLOW:
		demand(r->amount > 0, "a reply that takes for ever");
		break;
	case RULE_HIDE:
		demand(r->amount > 0 && r->stage == RULE_EHLO,
		    "nothing is hidden");
		break;
	case RULE_OFFER:
		demand(*r->text != '\0' && r->stage == RULE_EHLO,
		    "nothing is offered");
		break;
	default:
		break;
	}
}

/* Goes through the dialogue, some rounds of it.  Returns a sum of what was
   found. */
static unsigned long
use_rules(struct rules *r, const char *what)
{
	unsigned long sum = 0;
	const struct rule *rule;

	for (unsigned i = 0; i < 3 * RULE_STAGES; i++) {
		enum rule_stage stage = (enum rule_stage)(i % RULE_STAGES);
		size_t at = 0, last = 0;

		if (stage == RULE_TEXT)
			rules_begin_text(r);
		while ((rule = rules_next(r, &at, stage, what, i * 100,
		    i > RULE_STAGES)) != NULL) {
			demand(at > last && rule == &r->rule[at - 1],
			    "a rule out of turn");
			demand(rule->stage == stage || (rule->stage == RULE_ANY
			    && stage != RULE_TEXT), "a rule of another stage");
			demand(rule->most == 0 || rule->used <= rule->most,
			    "a rule that was used too often");
			last = at;
			sum = sum * 31 + at * RULE_STAGES + stage;
		}
	}
	return sum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *p = (const char *)data, *lf = NULL;
	char error[1024], what[256], *end;
	size_t len, stars = 0, n;
	struct rules a, b;
	unsigned lines;
	unsigned long number;
	bool good, again;

	if (size > 0)
		lf = memchr(p, '\n', size);
	if (lf == NULL || lf - p >= (long)sizeof what ||
	    memchr(p, '\0', (size_t)(lf - p)) != NULL)
		return 0;
	snprintf(what, sizeof what, "%.*s", (int)(lf - p), p);
	len = size - (size_t)(++lf - p);
	for (size_t i = 0; i < len; i++)
		stars += lf[i] == '*';
	if (len > FILE_MAX || stars > STARS_MAX)
		return 0;
	lines = read_rules(&a, lf, len, "", &good, error);
	if (!good) {
		end = strstr(error, ": line ");
		number = end == NULL ? 1 : strtoul(end + 7, &end, 10);
		demand(number >= 1 && number <= lines && (end == NULL ||
		    strncmp(end, ": ", 2) == 0), "an error without a line");
		free_rules(&a);
		return 0;
	}
	for (n = 0; n < a.n; n++) {
		look_at_rule(&a.rule[n]);
		demand(a.rule[n].line <= lines && (n == 0 ||
		    a.rule[n].line > a.rule[n - 1].line), "lines out of order");
	}
	read_rules(&b, lf, len, "\n# a remark\n \t\r\n", &again, error);
	demand(again && b.n == a.n, "a remark changes something");
	demand(use_rules(&a, what) == use_rules(&b, what),
	    "what should be alike is not");
	free_rules(&b);
	lines = read_rules(&b, lf, len, "\nRCPT * nonsense", &again, error);
	end = strstr(error, ": line ");
	demand(!again && end != NULL && strtoul(end + 7, NULL, 10) == lines,
	    "nonsense is not found where it is");
	free_rules(&a);
	free_rules(&b);
	return 0;
}
