/*
 * milter.c - a filter that answers anything, at every stage of a message.
 *
 * The first octet says what is asked and how the message ends its lines; the
 * rest is the filter's script (peer.c).  Whatever it says:
 *  - a verdict is the yes that it was, or one refusal without control
 *    characters;
 *  - the envelope has addresses that can stand between angle brackets;
 *  - where it refuses or fails the message stays as it was.
 */
#define _GNU_SOURCE	/* memfd_create */
#include <sys/mman.h>
#include <unistd.h>

#include "base/reply.h"
#include "base/text.h"
#include "service/milter_private.h"
#include "t/fakes/peer.h"
#include "t/fuzz/fuzz.h"

#define TEXT "Received: us\r\nSubject: a\r\n b\r\n\r\nbody\r\n"

void
peer_read(const char *line, size_t len)
{
	(void)line;
	(void)len;
}

static void
check_address(const char *p)
{
	demand(*p != '-', "an address that looks like an option");
	demand_text(p, "", "an address with control characters");
}

/* A message that is changed has fields and a body, and they are whole. */
static void
check_message(const struct service_message *m, int spool)
{
	struct edit e;
	char name[FIELD_NAME_MAX];

	check_address(m->env.fact[FACT_SENDER]);
	for (size_t i = 0; i < m->env.nrecipients; i++) {
		demand(*m->env.recipients[i].address != '\0',
		    "an empty recipient");
		check_address(m->env.recipients[i].address);
	}
	if (m->spool == spool)
		return;
	demand(edit_open(&e, m->spool, m->crlf, m->env.size, m->own) == 0,
	    "the message is none");
	for (size_t i = 0; edit_row(&e, i) != NULL; i++)
		demand(edit_name(&e, edit_row(&e, i), name, sizeof name) > 0,
		    "a field without a name");
	demand(e.body == e.stored || e.empty_line, "a field became body");
	edit_close(&e);
}

/* What may come between two stages: a command that is none, and a recipient
   that somebody else refuses. */
static void
ask_beside(const struct service *s, void *p, enum stage stage,
    const struct envelope *env)
{
	struct reply r;

	reply_set(&r, 550, "5.1.1", "Not here");
	if (stage == STAGE_RCPT)
		s->refused(p, env, &r);
	reply_set(&r, 500, "5.5.2", "Unknown command");
	if (stage == STAGE_EHLO)
		s->unknown(p, "FOO", env, &r);
	demand(r.code >= 400, "a command that is none is one");
	demand_verdict(&r);
}

static void
run(const struct service *s, void *p, struct envelope *env, int spool,
    bool crlf)
{
	static const enum stage stages[] = { STAGE_CONNECT, STAGE_EHLO,
		STAGE_MAIL, STAGE_RCPT, STAGE_DATA };
	static const char *const own[] = { "Received", NULL };
	struct service_message m = { .env = *env, .spool = spool,
		.crlf = crlf, .own = own };
	char prepend[SERVICE_PREPEND];
	struct reply r;

	for (size_t i = 0; i < COUNT(stages); i++) {
		reply_set(&r, 250, "2.0.0", "OK");
		s->ask(p, stages[i], env, &r, prepend);
		demand_verdict(&r);
		demand(prepend[0] == '\0', "a field out of nothing");
		if (r.code >= 400)
			return;
		ask_beside(s, p, stages[i], env);
	}
	s->message(p, &m, &r);
	demand_verdict(&r);
	if (r.code >= 400)
		demand(m.spool == spool && m.env.recipients == env->recipients,
		    "refused, and half edited");
	else
		check_message(&m, spool);
	s->forget(p);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct recipient to = { "b@example.org", "" };
	static const struct logger log = { demand_printable, NULL };
	const struct service_settings set = { .log = &log, .connect = 1,
		.command = 1, .content = 1, .fqdn = "mx.example.org",
		.end = INT64_MAX,
		.away = size > 0 ? data[0] >> 1 & 1 : 0, .mailer = "x" };
	struct envelope env = { .recipients = &to, .nrecipients = 1,
		.size = sizeof TEXT - 1 };
	char error[256];
	int spool;
	void *p;

	if (size < 1)
		return 0;
	for (size_t i = 0; i < FACTS; i++)
		env.fact[i] = i % 2 == 0 ? "a@example.org" : "";
	spool = memory_file(TEXT, sizeof TEXT - 1);
	peer_open_binary(data + 1, size - 1, data[0] & 4 ? 7 : SIZE_MAX);
	p = service_milter.open("inet:192.0.2.1:8891", &set, error,
	    sizeof error);
	demand(p != NULL, "no filter");
	run(&service_milter, p, &env, spool, true);
	service_milter.close(p);
	close(spool);
	return 0;
}
