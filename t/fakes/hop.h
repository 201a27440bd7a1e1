/*
 * hop.h - a next hop that plays a script, and messages to relay to it.
 *
 * The peer is a child that plays a script, one step a line:
 *	> TEXT	says TEXT and CRLF
 *	= TEXT	says TEXT, with \r \n \0 \e as in C, an octet at a time
 *	+ TEXT	the same, at once
 *	* N C	says the octet C, N times
 *	< TEXT	reads a line, which must be TEXT; "< TEXT..." its beginning
 *	0	nothing may have come together with the line before
 *	.	reads a message to its final dot, and keeps it as it came
 *	#	reads BDAT with LAST and its octets, and keeps those
 *	N CODE	answers N lines of RCPT, those to "bad..." by 550, CODE else
 *	@	waits for a hang-up; a final dot would be wrong by now
 *	!	hangs up; !! by a reset; the next step is the next connection
 * At the end it waits for a hang-up, and "QUIT" is answered before it.
 */
#ifndef HOP_H
#define HOP_H

#include <sys/types.h>

#include <stdbool.h>
#include <stddef.h>

#include "base/envelope.h"
#include "base/reply.h"
#include "base/spool.h"
#include "relay/smtp.h"

#define KEEP (8 * 1024 * 1024)

/* What the peer leaves behind. */
struct found {
	char fault[512];
	size_t len;		/* octets of messages */
	char message[KEEP];
};

/* A peer, in a child. */
struct peer {
	pid_t pid;
	int stop;		/* closed by us: nobody will come any more */
	char where[128];
	struct found *found;
};

#define RECIPIENTS_MAX 1001

/* An envelope, and what it lends. */
struct post {
	struct envelope env;
	struct recipient to[RECIPIENTS_MAX];
	struct reply v[RECIPIENTS_MAX];
	int spool;
	enum spool_form form;
	char *list;		/* what to[] points into */
};

#define PATIENT 20000		/* milliseconds that no test uses up */

/* One message to one peer, and what comes of it. */
struct scene {
	const char *name;
	const char *peer;
	const char *verdicts;
	const char *to;		/* NULL: a@example.net */
	const char *text;	/* NULL: "x\r\n" */
	const char *got;	/* NULL: whatever */
	enum nexthop_protocol protocol;
};

extern char hop_dir[64];	/* for sockets and files, one per test */
extern char hop_log[65536];	/* all warnings */
extern char hop_record[2048];	/* the last record below them */
extern struct relay_settings settings;

/* A test's .init and .fini. */
void	hop_begin(void);
void	hop_end(void);

/* A listening socket; where gets its place as relays are written.  A unix one
   in hop_dir; one on 127.0.0.1, with its port; one on 127.0.0.2, at that
   port. */
int	listen_unix(char where[128]);
int	listen_inet(char where[128], unsigned *port);
int	listen_second(unsigned port);

/* Starts a peer, at a listener that becomes the peer's. */
void	start(struct peer *p, const char *script);
void	start_at(struct peer *p, int listener, const char *script);

/* Waits for its end; it must have seen what its script wants. */
void	finish(struct peer *p, const char *name);

/* A message to recipients, which are separated by spaces; to be freed. */
struct post	*post(const char *recipients, const char *text);
void	post_free(struct post *m);
void	write_spool(struct post *m, const char *text, size_t len);

/* Offers and sends it within ms milliseconds; returns the verdicts, a line
   each. */
const char	*relay_by(struct nexthop *h, struct post *m, int ms);

/* The same for one message to one place. */
const char	*relay_once(const char *where, const struct relay_settings *set,
	    enum nexthop_protocol protocol);

/* The same for m to a peer that plays script; compares the verdicts. */
void	converse(const char *name, const char *script, struct post *m,
	    const char *verdicts);

/* The same for one message to two peers, named in that order. */
void	relay_to_two(const char *name, const char *first, const char *second,
	    const char *verdicts);

void	run_scenes(const struct scene *scene, size_t n);

/* Two messages by one next hop. */
struct pair {
	const char *name, *peer, *first, *second;
};

void	run_pairs(const struct pair *pair, size_t n);

/* Writes hop_dir/name, and its path to path. */
void	hop_write(char path[128], const char *name, const char *text,
	    unsigned mode);

/* Pieces of scripts. */
#define EHLO "> 220 mx.example.net ESMTP\n< EHLO smtpd.example.org\n"
#define PLAIN EHLO "> 250 mx.example.net\n"
#define OFFERS(x) EHLO "> 250-mx.example.net\n> 250 " x "\n"
#define OFFERS2(x, y) \
	EHLO "> 250-mx.example.net\n> 250-" x "\n> 250 " y "\n"
#define LHLO(x) "> 220 mx.example.net LMTP\n< LHLO smtpd.example.org\n" \
	"> 250-mx.example.net\n> 250 " x "\n"
#define FROM "< MAIL FROM:<s@example.org>\n"
#define MAIL FROM "> 250 2.1.0 Ok\n"
#define TO "< RCPT TO:<a@example.net>\n"
#define RCPT TO "> 250 2.1.5 Ok\n"
#define TEXT "< DATA\n> 354 Go\n.\n"
#define QUEUED "> 250 2.0.0 Queued\n"
#define TAKEN "250 2.0.0 Queued\n"
#define LOST "451 4.4.2 Connection to next hop lost"
#define GARBLED "451 4.5.0 Next hop broke the protocol"
#define ONE PLAIN MAIL RCPT TEXT QUEUED
#define NEXT MAIL RCPT TEXT QUEUED

#endif
