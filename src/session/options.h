/*
 * options.h - the command line.
 */
#ifndef SESSION_OPTIONS_H
#define SESSION_OPTIONS_H

#include "channel.h"
#include "monitor/monitor.h"

#define LIMITS_MAX 32		/* rows of --command-limit */

struct options {
	struct channel_settings channel;
	struct monitor_settings monitor;
	struct command_limit limits[LIMITS_MAX + 1];
	char verbs[1024];		/* the names in limits */
	const char *hostname, *user, *routes, *xclient;
	const char *tlscert, *tlskey, *tls_ca;
	uint64_t timeout, session_timeout, relay_timeout, policy_timeout;
	uint64_t max_recipients, max_errors, max_messages;
	const char *command_limit, *bare_newline, *relay_tls;
	bool nosetuid, no_received, x_peer, debug, no_auth_require_tls;
	bool version, help;
	bool adds_fields;	/* header fields are put in front of messages */
};

/* Fills *o.  Exits after --help and --version, and if argv makes no sense.
   Strings are borrowed. */
void	options_read(struct options *o, char **argv);

#endif
