/*
 * recorder.h - a channel with a witness: hooks that write down what they are
 * told, and see to it that channel.h's promises to hooks are kept.
 */
#ifndef RECORDER_H
#define RECORDER_H

#include "channel.h"

/* Octets that grow.  Zeroed is empty; free p. */
struct text {
	char *p;
	size_t len;
	size_t size;
};

void	text_add(struct text *t, const char *p, size_t len);
void	text_printf(struct text *t, const char *fmt, ...)
	    __attribute__((format(printf, 2, 3)));
bool	text_same(const struct text *a, const struct text *b);

enum stage {
	CONNECT, HELO, MAIL, RCPT, DATA, END, VRFY, EXPN, NOOP, RSET, QUIT,
	STARTTLS, AUTH, STAGES
};

extern const char *const stage_names[STAGES];	/* "connect", "helo"... */

/* What a hook says when its argument contains word, "" being everywhere. */
struct rule {
	enum stage stage;
	char word[64];
	int code;
	char enh[12];
	char text[REPLY_TEXT];
};

struct recorder {
	struct channel ch;
	struct channel_hooks hooks;	/* if recorder_group() was called */
	const struct rule *rules;	/* borrowed; the first that fits */
	size_t nrules;
	size_t used;		/* octets that the channel took */
	struct text replies;	/* all that the client was told */
	struct text calls;	/* the hooks' calls, a line for each */
	struct text said;	/* what a log was told that we said, */
	struct text heard;	/* and what we heard */
	struct text mail;	/* what end was given, as in *.smtp */
	const char *broken;	/* a promise that was not kept, or NULL */

	struct text body;
	bool open;		/* mail accepted, forget still to come */
	bool begun;		/* data accepted: octets may come */
	bool over;		/* end was called */
	char mechanism[32];	/* AUTH: the exchange, */
	unsigned step;		/* and how many challenges it had so far */
};

/* How feed() cuts up what it is given, and when it takes the replies away. */
struct pace {
	size_t step;		/* octets at a time */
	bool lazy;		/* replies only when it stops for them */
	bool grouped;		/* MAIL and RCPTs that come at once */
};

/* Settings of a server without extensions of its own, mx.example.org. */
extern const struct channel_settings recorder_plain;

/* The hooks alone, for a channel of the test's own; ctx is a recorder. */
extern const struct channel_hooks recorder_hooks;

/* Sets up and greets.  Borrows set and the rules. */
void	recorder_open(struct recorder *r, const struct channel_settings *set,
	    const struct rule rules[], size_t n);

/* From now on MAIL and RCPTs that come at once are asked about at once. */
void	recorder_group(struct recorder *r);

/* Gives the channel what the client sent, until it wants more than input. */
void	recorder_feed(struct recorder *r, const char *p, size_t len,
	    struct pace pace);

/* The same for a string, at once. */
void	recorder_say(struct recorder *r, const char *what);

/* The handshake that the channel waits for succeeds. */
void	recorder_tls(struct recorder *r);

/* Takes the replies that are waiting. */
void	recorder_drain(struct recorder *r);

/* Frees the channel; the texts remain, for a look. */
void	recorder_close(struct recorder *r);

/* Frees the texts. */
void	recorder_free(struct recorder *r);

#endif
