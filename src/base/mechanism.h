/*
 * mechanism.h - names of SASL mechanisms (RFC 4422 3.1).
 */
#ifndef BASE_MECHANISM_H
#define BASE_MECHANISM_H

#include <stdbool.h>

#define MECHANISM_MAX 20	/* octets of a name */

/*
 * Can an exchange by that mechanism, whose name is in upper case, be handed on
 * to another server, over another connection?  Not with what is about the
 * connection itself: channel binding (RFC 5056: -PLUS) and EXTERNAL.
 */
bool	mechanism_is_portable(const char *name);

#endif
