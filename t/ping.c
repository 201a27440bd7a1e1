/*
 * ping.c - a whole mail server on channel.c, as an embedder writes it: SMTP
 * with one client on standard input and output.
 *
 * It adds a verb, PING, replaces VRFY, and refuses recipients that it does
 * not know.  Once channel.h is installed, build it with
 *
 *	cc ping.c $(pkg-config --cflags --libs smtpd-channel)
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "channel.h"

static void
do_ping(struct channel *ch, struct span arg)
{
	char text[600];

	snprintf(text, sizeof text, "Pong %.*s", (int)arg.len, arg.p);
	channel_reply(ch, 250, "2.0.0", text);
}

static void
do_vrfy(struct channel *ch, struct span arg)
{
	(void)arg;
	channel_reply(ch, 550, "5.7.1", "Nobody is discussed here");
}

static const struct verb verbs[] = {
	{ "PING", ~0U, VERB_CLEAR | VERB_ANON, do_ping, "PING [SP string]", 0,
	    NULL },
	{ "VRFY", ~0U, 0, do_vrfy, NULL, 0, NULL },
	{ NULL, 0, 0, NULL, NULL, 0, NULL }
};

static void
on_rcpt(void *ctx, struct span path, struct span options, struct reply *r)
{
	(void)ctx, (void)options;
	if (path.len < 5 || memcmp(path.p, "echo@", 5) != 0)
		reply_set(r, 550, "5.1.1", "Only echo lives here");
}

/* Writes what waits.  False when there is nothing more to say. */
static bool
flush(struct channel *ch)
{
	size_t len;
	const char *out = channel_output(ch, &len);

	fwrite(out, 1, len, stdout);
	channel_sent(ch, len);
	return fflush(stdout) == 0 && ch->want != WANT_CLOSE;
}

int
main(void)
{
	static const struct channel_settings set = {
		.fqdn = "ping.example.org", .max_errors = 20, .verbs = verbs
	};
	static const struct channel_hooks hooks = { .rcpt = on_rcpt };
	static struct channel ch;
	char in[4096];
	size_t used;
	ssize_t have;

	channel_init(&ch, &set, &hooks, NULL);
	channel_greet(&ch);
	while (flush(&ch) && (have = read(STDIN_FILENO, in, sizeof in)) > 0)
		for (used = 0; used < (size_t)have && flush(&ch);)
			used += channel_feed(&ch, in + used,
			    (size_t)have - used);
	channel_free(&ch);
	return ferror(stdout);
}
