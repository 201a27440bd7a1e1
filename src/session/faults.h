/*
 * faults.h - does what the rules of --rules say.
 */
#ifndef SESSION_FAULTS_H
#define SESSION_FAULTS_H

#include "session/session.h"

/* Reads the file and prepares o's channel for what it offers.  Returns what
   nobody frees, or NULL with one sentence in error[0..size). */
struct faults *faults_open(struct options *o, const char *name, char *error,
	    size_t size);

/* Does any rule reset connections?  Then the jail must allow it. */
bool	faults_reset(const struct faults *f);

/* Is there a rule that offers STARTTLS although there is no certificate? */
bool	faults_fake_tls(const struct faults *f);

/* Makes *h the hooks of a session with rules: they ask the rules, then
   session_hooks. */
void	faults_hook(struct channel_hooks *h);

/* Does to the last reply what a rule said, if one did.  Returns false with
   *why if the session is over. */
bool	faults_run(struct session *s, enum ending *why);

#endif
