/*
 * policy.c - a policy service that answers anything.
 *
 * The first octet is the stage of the first question, which is asked again at
 * the stages that follow; the second chooses the envelope; the rest is the
 * service's script (peer.c).  Whatever it says:
 *  - a verdict is the yes that it was, or a refusal without control
 *    characters, and where no action was read it is 451 4.3.5;
 *  - header fields to prepend are whole fields;
 *  - an address to redirect to is one address.
 */
#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "service/policy.h"
#include "t/fakes/peer.h"
#include "t/fuzz/fuzz.h"

#define HEAD 2
#define QUESTIONS 4

static bool acted;	/* an action was read */

void
peer_read(const char *line, size_t len)
{
	acted = acted || (len > 7 && memcmp(line, "action=", 7) == 0);
}

static void
check_verdict(const struct reply *v)
{
	demand_verdict(v);
	if (v->code == 250) {
		demand(acted, "a yes that the service did not say");
		return;
	}
	demand(acted || (v->code == 451 && strcmp(v->enh, "4.3.5") == 0),
	    "without an action, not 451 4.3.5");
	demand(v->enh[0] != '\0', "a verdict without an enhanced code");
	demand_text(v->text, "", "a verdict of several lines");
}

static void
check_prepend(const char *p)
{
	size_t len = strlen(p);

	demand(len < SERVICE_PREPEND, "too much to prepend");
	if (len == 0)
		return;
	demand(len > 3 && strcmp(p + len - 2, "\r\n") == 0,
	    "a header field has no end");
	demand(strcspn(p, " \t:") == strcspn(p, ":") && strchr(p, ':') != NULL,
	    "what is prepended is no header field");
	demand(strcspn(p, "\r\n") == len - 2, "more than a header field");
	demand_text(p, "\t\r\n", "a header field with control characters");
}

static void
check_redirect(const char *p)
{
	demand(strchr(p, '@') != NULL && p[0] != '@' && p[0] != '-',
	    "redirected to what is no address");
	for (; *p != '\0'; p++)
		demand((unsigned char)*p > ' ' && *p != '\177' && *p != '<' &&
		    *p != '>', "redirected to more than an address");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct recipient to = { "b@example.org", "" };
	static const struct logger log = { demand_printable, NULL };
	struct envelope env = { .recipients = &to };
	char prepend[SERVICE_PREPEND], error[256];
	struct service_message message = { .spool = -1 };
	struct reply v;
	void *p;
	unsigned stage;
	size_t i;

	if (size < HEAD)
		return 0;
	for (i = 0; i < FACTS; i++)
		env.fact[i] = i % 3 == 0 && data[1] & 1 ? "a+=\n\303\274" : "";
	env.nrecipients = data[1] >> 1 & 1;
	peer_open(data + HEAD, size - HEAD, data[1] & 4 ? 7 : SIZE_MAX);
	p = service_policy.open(
	    data[1] & 8 ? "unix:/x" : "inet:192.0.2.1:10023",
	    &(struct service_settings){ .timeout = 1, .log = &log }, error,
	    sizeof error);
	demand(p != NULL, "no policy service");
	for (i = 0; i < QUESTIONS; i++) {
		stage = (data[0] + (unsigned)i) % STAGES;
		if (stage == STAGE_CONNECT || data[1] & 16)
			service_policy.forget(p);
		acted = false;
		reply_set(&v, 250, "2.0.0", "OK");
		prepend[0] = '\0';
		message.env = env;
		if (stage == STAGE_END_OF_MESSAGE)
			service_policy.message(p, &message, &v);
		else
			service_policy.ask(p, (enum stage)stage, &env, &v,
			    prepend);
		check_verdict(&v);
		check_prepend(prepend);
		if (message.env.recipients != env.recipients)
			check_redirect(message.env.recipients[0].address);
	}
	service_policy.close(p);
	return 0;
}
