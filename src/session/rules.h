/*
 * rules.h - the file of --rules: how the server answers, for testing clients.
 *
 * Parser and matcher are pure: faults.c does what a rule says.
 */
#ifndef SESSION_RULES_H
#define SESSION_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A stage of the dialogue; "*" is each of them but TEXT. */
enum rule_stage {
	RULE_CONNECT,
	RULE_HELO,
	RULE_EHLO,	/* LHLO too */
	RULE_MAIL,
	RULE_RCPT,
	RULE_DATA,	/* or the first BDAT */
	RULE_TEXT,	/* while the text comes */
	RULE_END,	/* after the last dot, or BDAT LAST */
	RULE_VRFY,
	RULE_EXPN,
	RULE_AUTH,
	RULE_STARTTLS,
	RULE_NOOP,
	RULE_RSET,
	RULE_QUIT,
	RULE_STAGES,
	RULE_ANY = RULE_STAGES
};

enum rule_action {
	RULE_REPLY,	/* code, enh and text */
	RULE_DELAY,	/* amount: milliseconds */
	RULE_CLOSE,
	RULE_RESET,
	RULE_STALL,
	RULE_SLOW,	/* amount: octets in a second */
	RULE_GARBAGE,
	RULE_HIDE,	/* amount: the sum of 1U << EXT_x */
	RULE_OFFER	/* text: a line of EHLO */
};

struct rule {
	unsigned line;		/* in the file */
	enum rule_stage stage;
	const char *glob;
	char compare;		/* '>' or '<': what is compared is size, not
				   glob; else 0 */
	uint64_t size;		/* octets */
	unsigned most;		/* uses in a session; 0: any */
	unsigned used;
	bool spent;		/* it was used in this text */
	enum rule_action action;
	unsigned amount;
	int code;
	char enh[12];
	const char *text;
};

struct rules {
	char *file;		/* its text, which the strings are in */
	struct rule *rule;
	size_t n;
};

/* Reads the file.  False with one sentence in error[0..size), which names file
   and line, if it cannot be read or a line makes no sense. */
bool	rules_read(struct rules *r, const char *name, char *error,
	    size_t size);

/*
 * The first rule from rule *at on that holds now, counted as used; *at becomes
 * its successor's number.  what is what the stage names, size the octets of
 * the text so far, and whole that the text is complete.  NULL: there is none.
 */
const struct rule *rules_next(struct rules *r, size_t *at,
	    enum rule_stage stage, const char *what, uint64_t size, bool whole);

/* Another text begins. */
void	rules_begin_text(struct rules *r);

/* Has any rule that action? */
bool	rules_have(const struct rules *r, enum rule_action action);

/* The name of a stage. */
const char *rules_stage(enum rule_stage stage);

/* The word for an action. */
const char *rules_action(enum rule_action action);

#endif
