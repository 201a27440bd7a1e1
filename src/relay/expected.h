/*
 * expected.h - for --check: the senders whose mail comes to a place.
 */
#ifndef RELAY_EXPECTED_H
#define RELAY_EXPECTED_H

#include <stdbool.h>
#include <stddef.h>

struct hop;
struct relay;

#define EXPECTED_MAX 1000	/* senders that are looked at */

/* All zeros is nobody.  An address, "" for the null sender, or "@example.net"
   for every sender of that domain whom nothing else names. */
struct expected {
	struct expected_sender {
		char address[320];
	} *sender;	/* owned */
	size_t n;
	bool others;	/* mail of senders who are not named comes, too */
	bool more;	/* there are more than EXPECTED_MAX, longer
			   ones, or no memory */
};

/* Adds a sender, once. */
void	expected_add(struct expected *e, const char *sender);

/*
 * Adds those whose mail comes to h, of the senders of r->expected, of the
 * routes by sender, and of the credentials text[0..len).  The routes were read.
 */
void	expected_find(struct expected *e, struct relay *r, const struct hop *h,
	    const char *text, size_t len);

void	expected_free(struct expected *e);

#endif
