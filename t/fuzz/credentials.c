/*
 * credentials.c - a file of credentials, a program that prints a secret, and
 * what servers say in SASL, with anything in them.
 *
 * The first octet chooses which, and the second a size of pieces:
 *  - a line of the file is found if it has a key that fits, and then it has a
 *    user, and a password or an absolute path; --check names each line that a
 *    session would complain about;
 *  - a program's secret is one line without control characters, only of a
 *    program that ended with 0, however its output is cut up; its output is
 *    never in the log, and that is not flooded by its errors;
 *  - SCRAM goes on only with our nonce and more, and a bounded count;
 *  - a status in JSON is short and printable.
 */
#include <string.h>
#include <syslog.h>

#include "base/findings.h"
#include "base/logger.h"
#include "net/digest.h"
#include "net/spawn.h"
#include "relay/credentials.h"
#include "relay/sasl.h"
#include "t/fuzz/fuzz.h"

#define HEAD 2
#define NONCE "rOprNGfwEbeRWgbNEkqO"

static struct {
	const char *p;
	size_t len, step;
	int status;
} program;		/* what it writes, to 1 and then 2, after a NUL */

int	__wrap_spawn_run(const struct spawn *s, struct spawn_end *end);

/* In place of the one that starts programs: the linker sees to that. */
int
__wrap_spawn_run(const struct spawn *s, struct spawn_end *end)
{
	const char *p = program.p;
	size_t len = program.len, n;
	int descriptor = 1;

	for (; len > 0; p += n, len -= n) {
		if (*p == '\0' && descriptor == 1) {
			descriptor = 2;
			n = 1;
			continue;
		}
		n = len < program.step ? len : program.step;
		if (descriptor == 1 && memchr(p, '\0', n) != NULL)
			n = (size_t)((const char *)memchr(p, '\0', n) - p);
		s->hear(s->ctx, descriptor, p, n);
	}
	*end = (struct spawn_end){ .pid = 1, .status = program.status };
	return 0;
}

/* What comes of the program's output, in pieces of step. */
static bool
run_program(struct credentials *c, size_t step)
{
	unsigned lines = 0;
	const struct logger log = { count_printable, &lines };
	char why[512] = "";
	bool ok;

	*c = (struct credentials){ .secret = "/bin/token  a\tb" };
	program.step = step;
	ok = credentials_run(c, &log, NULL, INT64_MAX, why, sizeof why);
	demand(lines <= 20, "the log is flooded");
	demand(ok == (why[0] == '\0'), "a failure without a reason");
	return ok;
}

static void
try_program(const char *p, size_t len, size_t step)
{
	struct credentials whole, cut;
	const char *end;
	bool ok;

	program.p = p;
	program.len = len;
	ok = run_program(&whole, len + 1);
	demand(run_program(&cut, step) == ok, "pieces matter");
	if (!ok)
		return;
	demand(program.status == 0, "a secret of a program that failed");
	demand(strcmp(whole.secret, cut.secret) == 0, "pieces change a secret");
	demand(whole.secret[0] != '\0', "an empty secret");
	demand_text(whole.secret, "", "a secret with control characters");
	end = memchr(p, '\n', len);
	if (end != NULL)
		len = (size_t)(end - p);
	demand(strlen(whole.secret) <= len &&
	    memcmp(whole.secret, p, strlen(whole.secret)) == 0,
	    "another line is the secret");
}

static void
try_file(const char *text, size_t len)
{
	static const char *const senders[] = { NULL, "", "jo@example.com",
		"jo+x@example.com", "\"a b\"@example.net", "jo", "@" };
	const struct place place = { .host = "mail.example.net" };
	struct findings f = { .n = 0 };
	struct credentials c;
	char why[256];
	bool by_sender, bad = false;

	credentials_check(text, len, "f", &f);
	for (size_t i = 0; i < sizeof senders / sizeof *senders; i++) {
		const struct credentials_for who = { senders[i], &place, "25" };
		int found = credentials_find(text, len, &who, &c, &by_sender,
		    why, sizeof why);

		bad = bad || found == -1;
		if (found != 1)
			continue;
		demand(c.key[0] != '\0' && c.user[0] != '\0' &&
		    c.secret[0] != '\0' && c.line > 0, "half a line");
		demand(!c.program || c.secret[0] == '/', "a relative path");
		demand(c.program || !c.token, "a token from nowhere");
		demand(by_sender || strchr(c.key, '@') == NULL,
		    "a sender's line that is none");
	}
	demand(!bad || findings_count(&f, FINDING_BAD) > 0,
	    "--check has not found a faulty line");
	for (size_t i = 0; i < f.n; i++)
		free(f.lines[i].text);
	free(f.lines);
}

static void
try_server(const char *text)
{
	struct scram s = { .nonce = NONCE };
	char status[80];

	demand(scram_begin(&s, "jo,=") && strcmp(s.first,
	    "n,,n=jo=2C=3D,r=" NONCE) == 0, "the first message");
	if (scram_continue(&s, text)) {
		demand(strncmp(text, "r=" NONCE, 2 + strlen(NONCE)) == 0 &&
		    text[2 + strlen(NONCE)] != ',', "another nonce");
		demand(s.iterations >= 1 && s.iterations <= DIGEST_ITERATIONS,
		    "a count without bounds");
		demand(s.saltlen > 0 && s.saltlen <= sizeof s.salt, "no salt");
		demand(strncmp(s.final, "c=biws,r=", 9) == 0 &&
		    strchr(s.final + 9, ',') == NULL, "the final message");
	}
	sasl_status(status, sizeof status, text);
	demand(strlen(status) <= 64, "a long status");
	demand_text(status, "", "a status with control characters");
	demand(strchr(status, '"') == NULL, "a status that ends its quotes");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;

	if (size < HEAD)
		return 0;
	text = malloc(size - HEAD + 1);		/* so that its end is seen */
	demand(text != NULL, "no memory");
	memcpy(text, data + HEAD, size - HEAD);
	text[size - HEAD] = '\0';
	program.status = data[0] & 4 ? 3 << 8 : 0;
	if ((data[0] & 3) == 0)
		try_file(text, size - HEAD);
	else if ((data[0] & 3) == 1)
		try_program(text, size - HEAD, 1 + data[1] % 64U);
	else
		try_server(text);
	free(text);
	return 0;
}
