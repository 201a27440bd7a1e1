/*
 * auth_source.h - what auth.c and its sources of names and passwords share.
 */
#ifndef SERVICE_AUTH_SOURCE_H
#define SERVICE_AUTH_SOURCE_H

#include "service/auth.h"

#define USER_MAX 256		/* octets of a name, with NUL; RFC 4616 2 */
#define PASSWORD_MAX 512	/* octets of a password, with NUL */
#define OFFER_MAX 512		/* octets of a list of mechanisms, with NUL */

/* What a source says of a name and a password. */
enum answer {
	ANSWER_NO,
	ANSWER_YES,
	ANSWER_UNSURE	/* it could not find out; the reason was logged */
};

/* Where an exchange stands: what the client's next response is. */
enum turn {
	TURN_NONE,
	TURN_PLAIN,
	TURN_EXTERNAL,
	TURN_USER,	/* LOGIN's first */
	TURN_PASSWORD,	/* and second */
	TURN_SOURCE	/* for the source itself */
};

/*
 * One source.  It has either check(), then PLAIN and LOGIN are spoken by
 * auth.c, or mechanisms(), step() and abandon(), then the exchange is its own.
 */
struct auth_source {
	const char *prefix;	/* "file:"; an absolute path follows */
	/* Fills in a->state.  Returns false with a phrase in error[0..size). */
	bool (*open)(struct auth *a, char *error, size_t size);
	/* user and password are not empty and fit USER_MAX, PASSWORD_MAX. */
	enum answer (*check)(struct auth *a, const char *user,
	    const char *password);
	/* Its mechanisms, separated by spaces; NULL if it could not be asked:
	   the reason was logged. */
	const char *(*mechanisms)(struct auth *a);
	/* See auth_step(): response is base64; to go on it challenges with
	   TURN_SOURCE. */
	void (*step)(struct auth *a, const struct envelope *env,
	    const char *mechanism, const char *response, struct reply *v,
	    char *user, size_t size);
	void (*abandon)(struct auth *a);
	/* For --check: adds whether it can be asked. */
	void (*probe)(struct auth *a, struct findings *f);
	void (*close)(struct auth *a);
};

struct auth {
	const struct auth_source *source;
	void *state;		/* the source's; its close() frees it */
	char *where;		/* what follows the prefix; owned */
	unsigned timeout;	/* seconds for one question */
	const struct logger *log;
	enum turn turn;
	unsigned failures, limit;	/* 535s, and how many there may be;
					   0: any */
	const char *why;	/* the source refused, for the log: a phrase
				   that is not for the client; or NULL */
	bool keeps_names;	/* the log wants the name that was tried: */
	char tried[USER_MAX];	/* "" if none was told */
	char user[USER_MAX];	/* LOGIN's, between its responses */
	char offer[OFFER_MAX + sizeof " EXTERNAL"];	/* the source's
				   mechanisms and ours */
};

extern const struct auth_source auth_checkpassword, auth_dovecot, auth_file;

/* Logs that the source failed, whatever the client said: ANSWER_UNSURE. */
enum answer auth_broken(const struct auth *a, const char *why);

/* Keeps the name that a client tried, if the log wants it. */
void	auth_note_name(struct auth *a, const char *name);

/* The reply that answer is. */
void	auth_answer(struct reply *v, enum answer answer);

/* 334 with text, which is base64; turn is what the response to it will be. */
void	auth_challenge(struct auth *a, enum turn turn, struct reply *v,
	    const char *text);

/* For tests: roughly what hashing with such a setting costs. */
uint64_t auth_file_cost(const char *setting);

/*
 * Chooses what a password is hashed with, so that every attempt costs the
 * same for every user: own is the user's hash, or what cannot be one;
 * cheap and dear are the file's hashes of the least and the most cost, or "".
 * Returns how many are in chosen; where own can be a hash it is the first.
 */
size_t	auth_file_choose(const char *own, const char *cheap,
	    const char *dear, const char *chosen[2]);

#endif
