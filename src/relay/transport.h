/*
 * transport.h - what relay.c, fan.c and the transports have in common.
 */
#ifndef RELAY_TRANSPORT_H
#define RELAY_TRANSPORT_H

#include "relay/smtp.h"
#include "relay.h"
#include "relay/routes.h"

/* One message on its way to one hop. */
struct job {
	struct relay *r;
	const struct envelope *env;	/* with that hop's recipients alone */
	int spool;			/* borrowed, at any offset */
	int64_t deadline;
};

struct hop;

enum reach { LOCAL, REMOTE, REFUSAL };

struct transport {
	const char *name;
	enum reach kind;
	enum spool_form form;
	bool dsn;	/* parameters of RFC 3461 arrive */
	enum nexthop_protocol protocol;		/* REMOTE */
	/* Checks where.  False with a sentence in error[0..size). */
	bool (*check)(struct hop *h, char *error, size_t size);
	/* LOCAL: takes the message.  *v is a success; a failure changes it. */
	void (*take)(const struct job *j, struct hop *h, struct reply *v);
};

/* One place to which messages go: a transport and what it needs to know. */
struct hop {
	const struct transport *transport;
	const char *spec;		/* "TRANSPORT:WHERE" */
	const char *where;		/* in spec */
	struct nexthop *next;		/* REMOTE, once used; owned */
	struct reply refusal;		/* REFUSAL */
	struct hop *link;
};

struct relay {
	const struct relay_settings *set;
	struct hop *hops;		/* all of them; owned, but for: */
	struct hop usual;		/* RELAY */
	int routes_file, auth_file;	/* open, or -1; owned */
	struct routes *table;		/* once it was read; owned */
	bool broken;			/* it makes no sense */
	unsigned delivered;		/* messages put into Maildirs */
};

/* What the routes think of env's one recipient: relay_rcpt() with routes. */
void	fan_rcpt(struct relay *r, const struct envelope *env,
	    struct reply *v);

/* relay_forwards() with routes; and whether a hop is another server. */
bool	fan_forwards(struct relay *r, const char *address, bool *named);
bool	hop_forwards(const struct hop *h);

/* Sends a message to everywhere: relay_deliver() where RELAY is a next hop, or
   there are routes. */
void	fan_out(const struct job *j, struct reply v[]);

/* print.c, maildir.c, program.c: as struct transport's take. */
void	take_print(const struct job *j, struct hop *h, struct reply *v);
void	take_maildir(const struct job *j, struct hop *h, struct reply *v);
void	take_program(const struct job *j, struct hop *h, struct reply *v);

/* Checks a program's arguments.  False with a sentence in error[0..size). */
bool	check_program(char *const argv[], char *error, size_t size);

/* And this is relay.c's: */

/* The transport that spec names, or NULL with a sentence in error. */
const struct transport *hop_transport(const char *spec, char *error,
	    size_t size);

/* Adds h, which is all zeros, to r; spec must live as long.  False with a
   sentence in error if it can not be used. */
bool	hop_add(struct relay *r, struct hop *h, const struct transport *t,
	    const char *spec, char *error, size_t size);

/* The form in which a hop wants the message. */
enum spool_form hop_form(const struct relay *r, const struct hop *h);

/* Sets *v for that error, and tells the administrator what it was. */
void	job_fail(const struct job *j, const char *what, int error,
	    struct reply *v);

/* Says yes, in the words that stand for every relay of this machine. */
void	reply_accept(struct reply *v, const struct envelope *env);

#endif
