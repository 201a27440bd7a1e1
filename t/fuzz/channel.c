/*
 * channel.c - any octets, from any client, to a channel of any settings.
 *
 * The first four octets choose settings, hooks that refuse, and a size of
 * pieces; the rest is what the client sends, where an octet 31 may stand for
 * 4096, so that long lines are short inputs.  It is sent whole, octet by octet,
 * in such pieces with replies left waiting, and with MAIL and RCPTs in groups:
 * in each way the same octets must be taken, the same replies given, the same
 * hooks called, the same messages relayed, and the dialogue must end in the
 * same place.  What the recorder promises hooks (recorder.h) must be kept.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "t/fakes/recorder.h"
#include "t/fuzz/fuzz.h"

#define HEAD 4
#define LONG 4096	/* octets for one of value 31 */
#define LONGS 4		/* of which an input may have so many */

static const struct command_limit limits[] = {
	{ "RSET", 1 }, { "*", 3 }, { NULL, 0 }
};

static const char *const keywords[] = { "X-FUZZ", NULL };

static const struct rule refusals[] = {
	{ CONNECT, "", 554, "", "No" },
	{ HELO, "x", 550, "5.7.1", "No" },
	{ MAIL, "x", 451, "4.3.0", "Not\nnow" },
	{ RCPT, "x", 550, "5.1.1", "No\r250 Yes" },
	{ DATA, "", 451, "4.3.0", "No" },
	{ END, "c", 452, "4.2.2", "Full" },
	{ RCPT, "", 421, "4.3.2", "Going down" },
	{ STARTTLS, "", 454, "4.7.0", "No" }
};

static struct channel_settings
settings(const uint8_t *p)
{
	struct channel_settings set = {
		.fqdn = "mx.example.org",
		.lmtp = p[0] & 1,
		.enable_SMTPUTF8 = (p[0] & 6) == 2,
		.decode_data = (p[0] & 6) == 4,
		.bare_newline = (enum bare_newline)((p[0] >> 3) % 3),
		.data_size_limit = p[0] & 32 ? 40 : 0,
		.dsn = (p[0] & 64) != 0,
		.proxy_protocol = (p[0] & 128) != 0,
		.tls = p[1] & 1,
		.tls_on_connect = (p[1] & 3) == 2,
		.require_starttls = (p[1] & 3) == 3,
		.auth = p[1] & 4 ? "PLAIN LOGIN EXTERNAL" : NULL,
		.auth_required = (p[1] & 12) == 12,
		.auth_require_tls = (p[1] & 16) != 0,
		.max_auth_failures = p[1] & 32 ? 2 : 0,
		.xclient = (p[1] & 64) != 0,
		.command_limits = p[1] & 128 ? limits : NULL,
		.max_recipients = p[2] & 1 ? 2 : 0,
		.max_errors = p[2] & 2 ? 3 : 0,
		.max_messages = p[2] & 4 ? 2 : 0,
		.keywords = p[2] & 16 ? keywords : NULL
	};

	return set;
}

/* A handshake succeeds whenever the channel asks for it; what follows is what
   the client says then. */
static void
play(struct recorder *r, const struct channel_settings *set,
    const struct rule *rule, const struct text *sent, struct pace pace)
{
	recorder_open(r, set, rule, rule != NULL ? 1 : 0);
	if (pace.grouped)
		recorder_group(r);
	if (!pace.lazy)
		recorder_drain(r);
	do {
		if (r->ch.want == WANT_TLS)
			recorder_tls(r);
		recorder_feed(r, sent->p + r->used, sent->len - r->used,
		    pace);
	} while (r->ch.want == WANT_TLS && !r->ch.ssl);
}

/* Of a group, more was read than a 421 to one of it leaves an answer to. */
static void
compare(const struct recorder *a, const struct recorder *b, bool grouped)
{
	bool cut = grouped && a->ch.want == WANT_CLOSE;

	demand(cut || a->used == b->used, "octets taken differ");
	demand(a->ch.want == b->ch.want, "what is wanted differs");
	demand(a->ch.smtp_state == b->ch.smtp_state, "the phase differs");
	demand(a->ch.errors == b->ch.errors, "errors differ");
	demand(a->ch.messages == b->ch.messages, "messages differ");
	demand(text_same(&a->replies, &b->replies), "replies differ");
	demand(text_same(&a->calls, &b->calls), "the hooks' calls differ");
	demand(cut || text_same(&a->heard, &b->heard),
	    "what is logged differs");
	demand(text_same(&a->mail, &b->mail), "messages relayed differ");
}

/* What the client sends. */
static struct text
expand(const uint8_t *p, size_t len, bool longer)
{
	struct text t = { .p = NULL };
	char run[LONG];
	size_t i, runs = 0;

	memset(run, 'x', sizeof run);
	text_add(&t, "", 0);
	for (i = 0; i < len; i++)
		if (longer && p[i] == 31 && runs++ < LONGS)
			text_add(&t, run, sizeof run);
		else
			text_add(&t, (const char *)p + i, 1);
	return t;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct rule *rule = NULL;
	struct channel_settings set;
	struct text sent;
	struct recorder r[5];
	struct pace pace[COUNT(r)] = {
		{ .step = SIZE_MAX }, { .step = 1 },
		{ .step = 1, .lazy = true }, { SIZE_MAX, .grouped = true },
		{ SIZE_MAX, true, true }
	};
	size_t i;

	if (size < HEAD)
		return 0;
	set = settings(data);
	if (data[2] & 8)
		rule = &refusals[data[2] >> 5];
	pace[2].step += data[3];
	sent = expand(data + HEAD, size - HEAD, (data[2] & 16) != 0);
	for (i = 0; i < COUNT(r); i++) {
		play(&r[i], &set, rule, &sent, pace[i]);
		compare(&r[0], &r[i], pace[i].grouped);
		demand(text_same(&r[i].said, &r[i].replies),
		    "what is logged is not what was said");
	}
	for (i = 0; i < COUNT(r); i++) {
		recorder_close(&r[i]);
		demand(r[i].broken == NULL, r[i].broken);
		recorder_free(&r[i]);
	}
	free(sent.p);
	return 0;
}
