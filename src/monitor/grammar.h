/*
 * grammar.h - the form of the strings that a channel process says a client
 * said.
 */
#ifndef MONITOR_GRAMMAR_H
#define MONITOR_GRAMMAR_H

#include "base/envelope.h"

/*
 * True if sender ("" is the null reverse-path), recipients and parameters of
 * env are such that "<sender> parameters" can only be read as one address and
 * those parameters: what could end an address stands in its quotes alone, no
 * parameter comes twice (RFC 5321 4.1.1.11), all of it is ASCII or UTF-8
 * without control characters, and no address begins like an option.  Queue id
 * and protocol are letters and digits.  Every envelope of a channel process
 * that was not taken over passes.
 */
bool	grammar_allows(const struct envelope *env);

#endif
