/*
 * login.c - AUTH in the monitor: who the client is, by a source of users or by
 * the next hop.
 *
 * The monitor itself counts and delays guesses, and remembers who the client
 * is.  The records of a message name its user, so a login has a record of its
 * own only if no message follows.
 */
#include "base/clock.h"
#include "base/text.h"
#include "monitor/private.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#define TRIED (3 * MONITOR_USER)	/* octets of a name, with NUL, that need
					   not be a user's */

/* Remembers that somebody has authenticated, whose name may be "" for unknown,
   or nobody has; unless XCLIENT might name somebody else, of which nobody
   tells us. */
static void
remember_user(struct monitor *m, bool good, const char *user)
{
	if (m->known[FACT_SASL_USERNAME] == NULL)
		return;
	text_copy(m->user, sizeof m->user, user);
	m->known[FACT_SASL_USERNAME] = m->user;
	m->known[FACT_SASL_METHOD] = good ? m->method : "";
}

/* Waits until the next guess may be looked at.  The channel process writes its
   replies late; one that was taken over does not, and asks at once. */
static void
delay_guess(struct monitor *m)
{
	int left;

	while ((left = clock_left(m->next_auth)) > 0)
		poll(NULL, 0, left);
}

/* Keeps of a login what a record needs, as long as the session may last. */
static void
keep_login(struct monitor *m, const struct envelope *env, const char *source)
{
	char *p = m->login_facts;
	size_t n, left = sizeof m->login_facts;

	monitor_tell_login(m);
	m->login = (struct envelope){ .size = 0 };
	for (size_t i = 0; i < FACTS; i++) {
		n = strlen(env->fact[i]) + 1;
		m->login.fact[i] = "";
		if (i < FACT_CLIENT_ADDRESS || i > FACT_TLS_CIPHER || n > left)
			continue;
		m->login.fact[i] = memcpy(p, env->fact[i], n);
		p += n;
		left -= n;
	}
	m->source = source;
	m->untold = true;
}

void
monitor_tell_login(struct monitor *m)
{
	struct notes notes = { .delay = -1, .source = m->source };
	char line[128];

	if (!m->untold)
		return;
	m->untold = false;
	m->login.notes = &notes;
	logger_put(&m->set->log, LOG_INFO, "auth-ok", &m->login,
	    text_join(line, sizeof line, m->login.fact[FACT_SASL_METHOD],
	    " by ", m->source, NULL));
}

/* The mechanism, who was asked, and of a failure why.  The name that was tried,
   name_there if the next hop was asked, is told with --log-auth-names only: it
   may be a password that was typed in the wrong field.  What a next hop says is
   never told: it may repeat one. */
static void
log_auth(struct monitor *m, const struct envelope *env, const struct reply *v,
    const char *name_there)
{
	char line[REPLY_TEXT + 128], name[TRIED], codes[64];
	struct notes notes = { .delay = -1, .tried = name };
	struct envelope noted = *env;
	const char *why, *tried, *source = auth_asked(m->auth, &why, &tried);

	if (strcmp(m->method, "EXTERNAL") == 0)
		source = auth_asked(NULL, &why, &tried);
	if (m->set->relay.through) {
		source = AUTH_THROUGH;
		tried = m->set->log_names ? name_there : "";
		why = codes;
		snprintf(codes, sizeof codes, "refused with %d %s", v->code,
		    v->enh);
	}
	if (v->code == 235) {
		keep_login(m, env, source);
		return;
	}
	text_make_safe(name, text_copy(name, sizeof name, tried), false);
	noted.notes = &notes;
	logger_put(&m->set->log, LOG_WARNING, "auth-failed", &noted,
	    text_join(line, sizeof line, m->method, " by ", source, " ",
	    why != NULL ? why : v->text, NULL));
}

/* Is it about the credentials, and not about the dialogue? */
static bool
is_guess(const struct reply *v)
{
	return v->code > 504;
}

/* Hands a step to the next hop; name[0..TRIED) becomes what the client calls
   itself.  If that is taken, it counts only if it can be shown. */
static void
step_next_hop(struct monitor *m, const struct question *q,
    const char *mechanism, struct reply *v, char *user, char *name)
{
	const struct relay_login l = { .mechanism = mechanism,
		.response = q->b, .user = name, .size = TRIED };

	user[0] = '\0';
	if (m->guesses >= AUTH_FAILURES_MAX) {
		relay_auth_forget(m->relay);
		reply_set(v, 421, "4.7.0", "Too many failed authentications");
		return;
	}
	relay_auth_step(m->relay, q->env, &l, v);
	m->guesses += is_guess(v);
	if (v->code == 235 && !auth_take_name(name, user, MONITOR_USER))
		user[0] = '\0';
}

const char *
monitor_mechanisms(struct monitor *m, const struct envelope *env)
{
	return m->set->relay.through ? relay_auth_mechanisms(m->relay)
	    : auth_mechanisms(m->auth, env);
}

void
monitor_authenticate(struct monitor *m, const struct question *q,
    struct reply *v, char *user)
{
	const char *mechanism = q->a[0] == '\0' ? NULL : q->a;
	struct envelope env = *q->env;
	char name[TRIED] = "";

	delay_guess(m);
	if (m->set->relay.through)
		step_next_hop(m, q, mechanism, v, user, name);
	else
		auth_step(m->auth, q->env, mechanism, q->b, v, user,
		    MONITOR_USER);
	m->failures += v->code >= 400;
	if (v->code == 535 || (m->set->relay.through && is_guess(v)))
		m->next_auth = clock_after(AUTH_DELAY);
	if (mechanism != NULL)
		text_copy(m->method, sizeof m->method, mechanism);
	if (v->code == 235) {
		env.fact[FACT_SASL_USERNAME] = user;
		env.fact[FACT_SASL_METHOD] = m->method;
	}
	if (v->code != 334)
		log_auth(m, &env, v, name);
	remember_user(m, v->code == 235, v->code == 235 ? user : "");
}

void
monitor_abandon_auth(struct monitor *m)
{
	monitor_forget_login(m);
	auth_abandon(m->auth);
}

void
monitor_forget_login(struct monitor *m)
{
	monitor_tell_login(m);
	m->source = NULL;
	if (m->set->relay.through)
		relay_auth_forget(m->relay);
	remember_user(m, false, "");
}
