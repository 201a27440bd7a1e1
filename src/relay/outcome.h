/*
 * outcome.h - what a program prints, and its exit status, as a reply.
 */
#ifndef RELAY_OUTCOME_H
#define RELAY_OUTCOME_H

#include "relay/transport.h"

#define OUTPUT_LINES 50		/* of each of a program's outputs: logged */

/* What a program writes to one descriptor, taken line by line. */
struct talk {
	int priority;		/* of its lines in the log */
	bool reply;		/* the first line is not logged: see first */
	bool heard;		/* a first line was there */
	unsigned long lines;	/* for the log */
	size_t len;		/* octets in line; the rest of it is dropped */
	char line[REPLY_TEXT];
	char first[REPLY_TEXT];
};

/* Takes some of what the program wrote. */
void	talk_take(const struct job *j, struct talk *t, const char *p,
	    size_t len);

/* The program has ended: logs what is left. */
void	talk_end(const struct job *j, struct talk *t);

/*
 * Turns the exit status and the first line into a reply.  *r is a success
 * before.  The status decides whether the program has the message; the line
 * may explain that, or refuse it in other words, or make a success a refusal,
 * and never the other way round.
 */
void	outcome_judge(const struct job *j, int status, const char *line,
	    struct reply *r);

#endif
