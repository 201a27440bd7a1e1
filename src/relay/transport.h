/*
 * transport.h - what a transport is, and what relay.c shares with them.
 *
 * To add a transport: a file in src/relay that ends in its row, a line here,
 * and a line in relay.c's table.
 */
#ifndef RELAY_TRANSPORT_H
#define RELAY_TRANSPORT_H

#include "base/findings.h"
#include "relay.h"
#include "relay/routes.h"

struct hop;

/* One message on its way to one hop.  Everything is borrowed. */
struct job {
	struct relay *r;
	const struct envelope *env;	/* with that hop's recipients only */
	int spool;			/* at any offset */
	enum spool_form form;		/* of spool */
	int64_t deadline;		/* as clock_now() counts */
};

/* Where a transport leads: see find_groups() in relay.c. */
enum reach {
	LOCAL,		/* within this machine */
	REMOTE,		/* a next hop, which can refuse before it has data */
	REFUSAL		/* nowhere */
};

/* What a transport can do that is asked during the dialogue; j->spool is -1. */
struct live_transport {
	/* See relay_live_hello(). */
	void (*hello)(const struct job *j, struct hop *h, char *text,
	    size_t size);
	/* See relay_live_offer(); mail may be NULL although the hop has not
	   heard of the sender yet. */
	void (*offer)(const struct job *j, struct hop *h, struct reply *mail,
	    struct reply v[]);
	void (*vrfy)(const struct job *j, struct hop *h, struct reply *v);
	/* See relay_live_forget(), relay_live_idle(). */
	void (*forget)(struct hop *h, int64_t deadline);
	int (*idle)(struct hop *h, unsigned seconds);
	/* See relay_auth_possible() and what follows it. */
	bool (*auth_possible)(const struct relay *r, const struct hop *h,
	    char *error, size_t size);
	const char *(*auth_mechanisms)(struct hop *h);
	void (*auth_step)(const struct job *j, struct hop *h,
	    const struct relay_login *l, struct reply *v);
	void (*auth_forget)(struct hop *h);
};

struct transport {
	const char *name;	/* "maildir" */
	const char *syntax;	/* "maildir:DIR", for --help */
	int kind;		/* a number of its file's, where that has
				   several transports */
	enum reach reach;
	enum spool_form form;	/* in which it wants the message */
	bool crlf;		/* --crlf makes that SPOOL_CRLF */
	bool dsn;		/* parameters of RFC 3461 arrive */
	bool forwards;		/* to another server: --relay-clients applies */
	bool tls;		/* always needs smtpd-tls */

	/* Checks h->where, when it is configured.  False with a sentence in
	   error[0..size).  NULL: anything goes. */
	bool (*check)(struct hop *h, char *error, size_t size);
	/* Shows the envelope: r[0..n), one for each of j->env's recipients,
	   are 250 and become a refusal where the hop refuses.  NULL: it takes
	   everybody. */
	void (*offer)(const struct job *j, struct hop *h, struct reply r[]);
	/* Delivers to those recipients whose r is below 400; a failure changes
	   r. */
	void (*deliver)(const struct job *j, struct hop *h, struct reply r[]);
	/* Forgets what was offered.  NULL: nothing to do. */
	void (*abandon)(const struct job *j, struct hop *h);
	/* Says where the last message went, and how that was protected: each
	   text is cut to size, and "" where there is nothing to tell.  NULL:
	   nothing. */
	void (*where)(const struct hop *h, char *name, char *tls, size_t size);
	/* For --check: adds whether h can be used.  NULL: always. */
	void (*probe)(struct relay *r, struct hop *h, struct findings *f);
	/* Frees h->state.  NULL: there is none. */
	void (*close)(struct hop *h);
	const struct live_transport *live;	/* NULL: not before the end */
};

/* One place to which messages go: a transport and what it needs to know. */
struct hop {
	const struct transport *transport;
	const char *spec;		/* "TRANSPORT:WHERE" */
	const char *where;		/* in spec */
	void *state;			/* the transport's; NULL at first */
	struct hop *link;		/* of all hops, */
	struct hop *alike;		/* and of those in one bucket */
};

#define HOP_BUCKETS 4096	/* so that 100000 hops are read in a second */

#define WHERE_MAX 400		/* octets of a next hop's name, with NUL */

struct relay {
	const struct relay_settings *set;
	const struct transport *const *transports;	/* NULL-terminated */
	struct hop *hops;		/* all of them; owned, but for: */
	struct hop **buckets;		/* HOP_BUCKETS lists of those of
					   routes, by spec; NULL: none yet;
					   owned */
	struct hop usual;		/* the relay on the command line */
	struct hop quarantine;		/* a Maildir, if there is one */
	struct route_file routes, senders;	/* by recipient, by sender */
	int auth_file;			/* of credentials, or -1; owned */
	unsigned delivered;		/* messages put into Maildirs */
	const struct expected *expected;	/* by --check; borrowed */
	size_t looked_at;		/* of these, for all hops */
	struct notes notes;		/* of the last message; their texts: */
	char nexthop[WHERE_MAX], nexthop_tls[WHERE_MAX];
};

extern const struct transport transport_print, transport_show,
    transport_maildir, transport_program, transport_smtp, transport_smtps,
    transport_lmtp;

/* ---- hops.c ---- */

/* The one of a NULL-terminated table that spec names, or NULL. */
const struct transport *hop_named(const struct transport *const table[],
	    const char *spec);

/* The transport that spec names, or NULL with a sentence in error. */
const struct transport *hop_transport(const struct relay *r, const char *spec,
	    char *error, size_t size);

/* Adds h, which is all zeros, to r; spec must live as long.  False with a
   sentence in error if it cannot be used; then it is not added. */
bool	hop_add(struct relay *r, struct hop *h, const struct transport *t,
	    const char *spec, char *error, size_t size);

/* The form in which a hop wants the message. */
enum spool_form hop_form(const struct relay *r, const struct hop *h);

/* Reads the files of routes, once.  False if a line of them cannot be used:
   then nothing can be routed. */
bool	hops_read_routes(struct relay *r);

/* The hop for an address: by its route, unless that is "*"; by the sender's; by
   "*"; by the command line.  *named becomes whether a route names the address
   or its domain.  NULL: no memory.  hops_read_routes() comes first. */
struct hop *hop_route(struct relay *r, const char *address,
	    const char *sender, bool *named);

/* Whether where a message goes depends on any routes. */
bool	hops_vary(const struct relay_settings *set);

/* Closes and frees all hops. */
void	hops_close(struct relay *r);

/* ---- relay.c, for the transports ---- */

/* Sets *v for that errno, and tells the administrator what it was. */
void	job_fail(const struct job *j, const char *what, int error,
	    struct reply *v);

/* Makes r->notes tell where what h had last went. */
void	hop_note(struct relay *r, const struct hop *h);

/* Says yes, in the words of every relay of this machine. */
void	reply_accept(struct reply *v, const struct envelope *env);

/* ---- print.c ---- */

/* Shows the message of j, in any form, on standard error, which must not be the
   client.  A failure is logged. */
void	print_shown(const struct job *j);

/* ---- program.c ---- */

/* Checks a program's arguments.  False with a sentence in error[0..size). */
bool	program_check(char *const argv[], char *error, size_t size);

#endif
