/*
 * session.h - transcripts: what a client says, and what it must hear.
 *
 * A file t/transcripts/NAME.smtp has several; anyone can read and write one.
 * t/tools/smtpd-replay is the program that parses it, for these tests too:
 *
 *	== a promise, in a few words
 *	after: TITLE		begin as that case of the same file did
 *	options: --lmtp ...	how smtpd is called
 *	settings: tls ...	what only a channel can be told (see settings[])
 *	hook: rcpt @no 550 5.1.1 No such mailbox
 *				a hook refuses, if its argument has "no" in it
 *	C: EHLO client		the client sends this line, and CRLF
 *	S: 250 mx.example.org	it must be answered exactly this line, and CRLF
 *	TLS			a handshake; what C sent since S is dropped
 *	CLOSED			the server hangs up
 *	F: <a@example.org> SIZE=9	a message is relayed: sender, options,
 *	T: <b@example.net>		recipients,
 *	M: text				and its lines, ended by CRLF
 *	# a remark
 *
 * With "|" in the place of ":" no CRLF is added, and \r \n \t \0 \xHH \\ \{
 * and {12 text}, which is text 12 times, are understood.  Messages that are
 * not stated must not be relayed.
 *
 * Cases without "settings:" and "hook:" hold for smtpd as for its channel.
 */
#ifndef SESSION_H
#define SESSION_H

#include "t/fakes/recorder.h"

#define SESSION_WORDS 16
#define SESSION_RULES 4

struct turn {
	bool tls;		/* a handshake comes first */
	struct text client;
	struct text server;
	unsigned line;		/* in the file */
};

struct session {
	char title[128];
	unsigned line;
	char *option[SESSION_WORDS + 1];	/* smtpd's, NULL-terminated */
	size_t options;
	bool inside;		/* holds for the channel alone */
	struct channel_settings set;
	struct command_limit limits[2];
	struct rule rule[SESSION_RULES];
	size_t rules;
	struct turn *turn;
	size_t turns;
	struct text mail;	/* F, T and M lines: as recorder's mail */
	bool closed;
};

/* Reads a file of transcripts.  A mistake in it is told on standard error,
   and is the end.  Returns *n of them, to be freed by session_free(). */
struct session *session_load(const char *file, size_t *n);
void	session_free(struct session *s, size_t n);

#endif
