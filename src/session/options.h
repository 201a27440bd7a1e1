/*
 * options.h - the command line.
 */
#ifndef SESSION_OPTIONS_H
#define SESSION_OPTIONS_H

#include "channel.h"
#include "monitor/monitor.h"

#define LIMITS_MAX 32		/* rows of --command-limit */

struct faults;
struct transcript;

enum check {
	CHECK_NO,
	CHECK_FILES,		/* --check: what this host has */
	CHECK_START,		/* --check=start: what other services provide
				   may come later */
	CHECK_CONNECT		/* --check=connect: next hops and services,
				   too */
};

struct options {
	struct channel_settings channel;
	struct monitor_settings monitor;
	const char *hostname, *user, *xclient, *xforward, *tlscert, *tlskey;
	const char *rules, *record;
	struct transcript *transcript;	/* of record, or NULL */
	struct faults *faults;		/* of rules, or NULL */
	unsigned timeout;		/* seconds for one command */
	enum check check;
	int log_level;			/* records up to this priority */
	int log_least;			/* that they have at least, or 0 */
	bool nosetuid, no_received, x_peer, debug, version, help;
	bool newlines_given;		/* --bare-newline was */
	bool journal;			/* standard error is the journal */
	bool adds_fields;		/* header fields are put in front of
					   messages */
};

/* Fills *o.  Exits after --help and --version, and if argv makes no sense.
   Strings are borrowed. */
void	options_read(struct options *o, char **argv);

#endif
