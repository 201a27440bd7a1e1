/*
 * session.c - the channel process: octets, time, TLS.
 */
#define _GNU_SOURCE	/* MAP_ANONYMOUS */
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/handshake.h"
#include "base/text.h"
#include "net/engine.h"
#include "session/faults.h"
#include "session/session.h"
#include "session/transcript.h"

#define LOOK_UP 1000		/* milliseconds of reading without a look at
				   deadlines and SIGTERM */
#define ENGINE_GRACE 5		/* seconds in which it delivers the last
				   replies */

/* RFC 3848, RFC 6531 4.3: "with" in the trace header. */
static const char *
protocol(const struct channel *ch)
{
	static const char *const names[2][2][2] = {
		{ { "ESMTP", "ESMTPA" }, { "ESMTPS", "ESMTPSA" } },
		{ { "UTF8SMTP", "UTF8SMTPA" }, { "UTF8SMTPS", "UTF8SMTPSA" } },
	};
	static const char *const lmtp[2][2][2] = {
		{ { "LMTP", "LMTPA" }, { "LMTPS", "LMTPSA" } },
		{ { "UTF8LMTP", "UTF8LMTPA" }, { "UTF8LMTPS", "UTF8LMTPSA" } },
	};

	if (ch->set->lmtp)
		return lmtp[ch->smtp_utf8][ch->ssl][ch->authenticated];
	if (!ch->extended_smtp)
		return "SMTP";
	return names[ch->smtp_utf8][ch->ssl][ch->authenticated];
}

struct envelope
session_facts(const struct session *s)
{
	const struct channel *ch = &s->ch;
	const struct channel_forward *f = &ch->forward;
	struct envelope env = { .fact = {
		[FACT_SENDER] = ch->mailfrom == NULL ? "" : ch->mailfrom,
		[FACT_MAIL_OPTIONS] = ch->mail_options == NULL ? ""
		    : ch->mail_options,
		[FACT_QUEUE_ID] = s->queue_id,
		[FACT_CLIENT_ADDRESS] = ch->peer.address,
		[FACT_CLIENT_PORT] = ch->peer.port,
		[FACT_CLIENT_NAME] = ch->peer.name,
		[FACT_CLIENT_HELO] = ch->seen_greeting,
		[FACT_CLIENT_USER] = s->client_user,
		[FACT_CLIENT_PROTOCOL] = protocol(ch),
		[FACT_SERVER_ADDRESS] = ch->peer.server_address,
		[FACT_SERVER_PORT] = ch->peer.server_port,
		[FACT_SASL_METHOD] = ch->auth_method,
		[FACT_SASL_USERNAME] = ch->auth_user,
		[FACT_TLS_PROTOCOL] = ch->tls.protocol,
		[FACT_TLS_CIPHER] = ch->tls.cipher,
		[FACT_TLS_SNI] = ch->tls.sni,
		[FACT_TLS_SUBJECT] = ch->tls.subject,
		[FACT_TLS_ISSUER] = ch->tls.issuer,
		[FACT_TLS_FINGERPRINT] = ch->tls.fingerprint,
		[FACT_FORWARD_ADDRESS] = f->address,
		[FACT_FORWARD_PORT] = f->port,
		[FACT_FORWARD_NAME] = f->name,
		[FACT_FORWARD_HELO] = f->helo,
		[FACT_FORWARD_PROTOCOL] = f->protocol,
		[FACT_FORWARD_IDENT] = f->ident,
		[FACT_FORWARD_SOURCE] = f->source,
	} };

	for (size_t i = FACT_FORWARD_ADDRESS; i <= FACT_FORWARD_SOURCE &&
	    !ch->forwarded; i++)
		env.fact[i] = "";
	env.size = ch->declared;
	env.smtputf8 = ch->smtp_utf8;
	env.body = ch->body;
	return env;
}

void
session_log(struct session *s, int priority, const char *event,
    const char *text)
{
	struct envelope env = session_facts(s);

	ask_log(&s->asker, priority, event, &env, text);
}

/* Milliseconds that the client has, and a reply that is held back. */
static int
time_left(const struct session *s)
{
	int64_t until = s->idle < s->end ? s->idle : s->end;

	return clock_left(s->pause != 0 && s->pause < until ? s->pause : until);
}

int
session_wait(struct session *s, int fd, short what)
{
	struct pollfd p[] = { { .fd = s->signals, .events = POLLIN },
		{ .fd = fd, .events = what },
		{ .fd = s->orphaned ? -1 : ask_fd(&s->asker) } };
	int n, left;

	if (!s->orphaned && ask_broken(&s->asker)) {
		s->orphaned = true;
		return -1;
	}
	do {
		left = time_left(s);
		/* Check first: a client that is always readable must not
		   outrun its deadline. */
		n = left == 0 ? 0 : poll(p, 3, left);
	} while (n == -1 && errno == EINTR);
	if (n <= 0)
		return n;
	s->terminated = s->terminated || p[0].revents != 0;
	s->orphaned = s->orphaned || p[2].revents != 0;
	return p[0].revents != 0 || p[2].revents != 0 ? -1 : 1;
}

enum ending
session_interrupted(const struct session *s)
{
	return s->terminated ? END_TERM : s->orphaned ? END_ORPHAN : END_LOST;
}

/* Holds a reply back for a while, after a wrong password. */
static void
wait_out(struct session *s)
{
	session_wait(s, -1, 0);
	s->pause = 0;
}

void
session_restart_clock(struct session *s)
{
	s->idle = clock_now() + (int64_t)s->options->timeout * 1000;
}

/* Is a pipe ready to be written to? */
static bool
ready(struct session *s, bool patient)
{
	struct pollfd p = { .fd = s->out, .events = POLLOUT };

	return patient ? session_wait(s, s->out, POLLOUT) > 0
	    : poll(&p, 1, 0) > 0;
}

/* Writes some of p[0..len).  Returns how many octets, or -1 if the client
   cannot take them: at the moment if patient is false, else at all. */
static ssize_t
put_some(struct session *s, const char *p, size_t len, bool patient)
{
	ssize_t n;

	if (s->socket)
		n = send(s->out, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	else if (!ready(s, patient))
		return -1;
	else	/* what a pipe takes at once, so it cannot block */
		n = write(s->out, p, len < PIPE_BUF ? len : PIPE_BUF);
	if (n >= 0)
		return n;
	if (errno != EAGAIN && errno != EINTR)
		return -1;
	return s->socket && !ready(s, patient) ? -1 : 0;
}

bool
session_write(struct session *s, size_t most, bool patient)
{
	const char *p;
	size_t len;
	ssize_t n;

	for (;;) {
		p = channel_output(&s->ch, &len);
		if (len > most)
			len = most;
		if (len == 0)
			return true;
		session_restart_clock(s);	/* a command came to its end */
		n = put_some(s, p, len, patient);
		if (n == -1) {
			s->reset = errno == EPIPE || errno == ECONNRESET;
			return false;
		}
		channel_sent(&s->ch, (size_t)n);
		most -= (size_t)n;
		s->before -= (size_t)n < s->before ? (size_t)n : s->before;
	}
}

bool
session_put(struct session *s, const char *p, size_t len)
{
	ssize_t n;

	for (; len > 0; p += n, len -= (size_t)n)
		if ((n = put_some(s, p, len, true)) == -1)
			return false;
	return true;
}

bool
session_flush(struct session *s, bool patient)
{
	if (s->pause != 0 && !patient)
		return false;
	if (s->pause != 0)
		wait_out(s);
	return session_write(s, SIZE_MAX, patient);
}

static bool
drain(struct session *s)
{
	return session_flush(s, true);
}

static const char *const endings[] = {
	[END_QUIT] = "quit",
	[END_CLOSED] = "closed by server",
	[END_EOF] = "closed by client",
	[END_TIMEOUT] = "timed out",
	[END_TERM] = "shut down",
	[END_ORPHAN] = "monitor process lost",
	[END_LOST] = "client lost",
	[END_RULE] = "closed by a rule",
	[END_TLS] = "TLS handshake failed",
};

/* Is the client sending a message's text? */
static bool
in_text(const struct session *s)
{
	return s->ch.smtp_state == PHASE_DATA ||
	    s->ch.smtp_state == PHASE_BDAT;
}

/*
 * A dialogue makes TCP hold its acknowledgements back, to send them along with
 * replies.  In a message's text there is none, and a client whose last segment
 * is short holds that back until all else is acknowledged (RFC 896): both
 * would wait for 40 ms.
 */
static void
acknowledge_soon(struct session *s)
{
	const int yes = 1;

	if (!s->soon)	/* where this is not TCP there is nothing to hasten */
		setsockopt(s->in, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof yes);
	s->soon = true;
}

/* Reads more octets, waiting for them.  Returns their number, 0 at the end of
   file, or -1 with *why. */
static ssize_t
fill(struct session *s, char *in, size_t size, enum ending *why)
{
	bool header = s->ch.smtp_state == PHASE_PROXY && s->socket;
	bool text = in_text(s) && s->socket;
	ssize_t n;
	int waited;

	for (;;) {
		/* Where there was some of a message there is more, mostly. */
		if (text && s->looked != 0 &&
		    clock_now() - s->looked < LOOK_UP &&
		    (n = recv(s->in, in, size, MSG_DONTWAIT)) > 0)
			return n;
		/* Text comes after DATA's reply, and right after BDAT. */
		if (text && (s->looked != 0 ||
		    s->ch.smtp_state == PHASE_BDAT))
			acknowledge_soon(s);
		s->looked = text ? clock_now() : 0;
		s->soon = s->soon && text;
		waited = session_wait(s, s->in, POLLIN);
		if (waited != 1) {
			*why = waited == 0 ? END_TIMEOUT
			    : session_interrupted(s);
			return -1;
		}
		/* A PROXY header is looked at before it is taken: a TLS
		   handshake may follow it. */
		n = header ? recv(s->in, in, size, MSG_PEEK)
			   : read(s->in, in, size);
		if (n == -1 && (errno == EINTR || errno == EAGAIN))
			continue;
		*why = n == 0 ? END_EOF : END_LOST;
		s->reset = n == -1 && errno == ECONNRESET;
		return n;
	}
}

/* Did a client that must begin with TLS leave before it sent an octet of it, as
   probes of port 465 do?  Then nothing has failed. */
static bool
is_gone_before_tls(const struct session *s, const char *report)
{
	return s->options->channel.tls_on_connect &&
	    text_starts(report, HANDSHAKE_NOT_BEGUN);
}

/* The handshake, by the engine; then its clear-text end is the client.  False:
   *why is what became of it. */
static bool
start_tls(struct session *s, enum ending *why)
{
	struct channel_tls tls = { .protocol = "" };
	char *report = s->in_buffer;	/* there is nothing else in it now */
	int fd;

	*why = END_TLS;
	if (s->faults != NULL && faults_fake_tls(s->faults)) {
		session_log(s, LOG_WARNING, "tls-failed", "a rule offered "
		    "STARTTLS, and there is no certificate");
		return false;
	}
	fd = ask_tls(&s->asker, s->in, report, MONITOR_REPORT);
	if (fd == -1 && is_gone_before_tls(s, report)) {
		*why = END_EOF;
		return false;
	}
	if (fd == -1) {
		session_log(s, LOG_WARNING, "tls-failed", report);
		return false;
	}
	tls_report_value(report, "protocol", tls.protocol, sizeof tls.protocol);
	tls_report_value(report, "cipher", tls.cipher, sizeof tls.cipher);
	tls_report_value(report, "sni", tls.sni, sizeof tls.sni);
	tls_report_value(report, "subject", tls.subject, sizeof tls.subject);
	tls_report_value(report, "issuer", tls.issuer, sizeof tls.issuer);
	tls_report_value(report, "fingerprint", tls.fingerprint,
	    sizeof tls.fingerprint);
	/* The engine has the connection; nothing of it may stay open here,
	   or its end would not be seen. */
	dup2(fd, s->in);
	dup2(fd, s->out);
	close(fd);
	s->socket = s->engine = true;
	if (s->transcript != NULL)
		transcript_word(s->transcript, "TLS");
	channel_tls(&s->ch, &tls);
	return true;
}

/* Did the client reset the connection instead of taking the reply to its last
   dot?  Then writing succeeds all the same. */
static bool
client_gone(const struct session *s)
{
	struct pollfd p = { .fd = s->out };

	return s->relayed_id[0] != '\0' && poll(&p, 1, 0) == 1 &&
	    (p.revents & POLLERR) != 0;
}

/* Answers 421 if the client can still read it.  A proxy that has not sent its
   header gets no answer. */
static void
hang_up(struct session *s, enum ending why)
{
	static const char *const words[][2] = {
		[END_TIMEOUT] = { "4.4.2", "Timed out" },
		[END_TERM] = { "4.3.2", "Shutting down" },
		[END_ORPHAN] = { "4.3.0", "Internal error, try again" },
		[END_TLS] = { NULL, NULL },	/* as all others */
	};

	if (words[why][0] == NULL || s->ch.smtp_state == PHASE_PROXY)
		return;
	if (why == END_TERM)
		ask_status(&s->asker, "shutting down", true);
	channel_close(&s->ch, 421, words[why][0], words[why][1]);
	s->idle = s->end = clock_now() + 1000;
	s->signals = -1;
	if (drain(s) && !client_gone(s))
		s->relayed_id[0] = '\0';
}

/* Tells systemd which client is at which command, when that changes. */
static void
tell_status(struct session *s)
{
	const struct channel *ch = &s->ch;
	static const char *const where[] = {
		[PHASE_PROXY] = "before its PROXY header",
		[PHASE_REFUSED] = "turned away",
		[PHASE_CONNECT] = "greeted",
		[PHASE_READY] = "between messages",
		[PHASE_MAIL] = "at MAIL",
		[PHASE_RCPT] = "at RCPT",
		[PHASE_DATA] = "in DATA",
		[PHASE_BDAT] = "in BDAT",
		[PHASE_AUTH] = "in AUTH",
		[PHASE_CLOSED] = "leaving",
	};
	char text[300];

	if (s->options->monitor.status == NULL || s->shown == ch->smtp_state)
		return;
	s->shown = ch->smtp_state;
	snprintf(text, sizeof text, "%.64s %s%s%.100s%s%.60s",
	    ch->peer.address, where[ch->smtp_state],
	    ch->mailfrom == NULL ? "" : ", from <",
	    ch->mailfrom == NULL ? "" : ch->mailfrom,
	    ch->mailfrom == NULL ? "" : ">, ", s->queue_id);
	ask_status(&s->asker, text, false);
}

/* Gives the channel what was read.  Returns how much of it was used. */
static size_t
feed(struct session *s, const char *in, size_t len)
{
	bool header = s->ch.smtp_state == PHASE_PROXY && s->socket;
	size_t used = channel_feed(&s->ch, in, len);

	if (!header)
		return used;
	while (used > 0) {	/* it was only looked at */
		ssize_t n = read(s->in, s->path,
		    used < sizeof s->path ? used : sizeof s->path);

		if (n <= 0)
			break;
		used -= (size_t)n;
	}
	return len;
}

/* The dialogue, from greeting to end. */
static enum ending
talk(struct session *s)
{
	const bool passwords = s->options->monitor.auth != NULL;
	char *in = s->in_buffer;
	size_t used = 0, have = 0, len;
	enum ending why;
	ssize_t n;

	session_restart_clock(s);
	channel_greet(&s->ch);
	for (;;) {
		if (used < have) {
			len = feed(s, in + used, have - used);
			if (passwords && !in_text(s))
				explicit_bzero(in + used, len);
			used += len;
		}
		if (s->faults != NULL && !faults_run(s, &why))
			return why;
		if (!drain(s) || client_gone(s))
			return session_interrupted(s);
		s->relayed_id[0] = '\0';
		if (s->ch.want == WANT_CLOSE)
			return s->quit ? END_QUIT : END_CLOSED;
		if (s->ch.want == WANT_TLS) {
			used = have = 0;	/* RFC 3207 4.2 */
			if (!start_tls(s, &why))
				return why;
			continue;
		}
		if (used < have)
			continue;
		if (in_text(s))
			session_restart_clock(s);
		tell_status(s);
		if (s->transcript != NULL)
			transcript_flush(s->transcript);
		n = fill(s, in, INPUT, &why);
		if (n <= 0)
			return why;
		have = (size_t)n;
		used = 0;
	}
}

/* How the session went, as its last record says. */
static void
write_ending(char *to, size_t size, const struct channel *ch, enum ending why)
{
	const struct reply *first = &ch->refusal;
	char n[3][TEXT_NUMBER];
	bool any = ch->errors > 0;
	bool bye = why == END_CLOSED && ch->errors != 1 &&
	    ch->farewell[0] != '\0';	/* a single error is the 421 */

	text_join(to, size, endings[why], bye ? " (" : "",
	    bye ? ch->farewell : "", bye ? ")" : "", " after ",
	    text_number(n[0], ch->messages, 1),
	    ch->messages == 1 ? " message, " : " messages, ",
	    text_number(n[1], ch->errors, 1),
	    ch->errors == 1 ? " error" : " errors",
	    ch->errors > 1 ? ", the first" : "", any ? ": " : "",
	    any ? text_number(n[2], (unsigned)first->code, 3) : "",
	    any ? " " : "", any ? first->enh : "",
	    any && first->enh[0] != '\0' ? " " : "", any ? first->text : "",
	    NULL);
}

/* The client was gone before it got the reply to a message that the relay has:
   it will send the message again. */
static void
log_unheard(struct session *s)
{
	struct envelope env = session_facts(s);

	env.fact[FACT_QUEUE_ID] = s->relayed_id;
	env.fact[FACT_SENDER] = s->relayed_from;
	ask_log(&s->asker, LOG_WARNING, "duplicate-possible", &env,
	    "the message was relayed, but the client left before the reply");
}

/* Did the client come and go without an error, and without a message?
   Monitors, load balancers and scanners do so all the time. */
static bool
is_probe(const struct session *s, enum ending why)
{
	const struct channel *ch = &s->ch;

	return (why == END_QUIT || why == END_EOF || s->reset) &&
	    ch->mails == 0 && ch->errors == 0 && !ch->authenticated;
}

/* Was all that happened in the session messages that came whole?  Each of them
   has a record with its reply; but with XFORWARD not of who was connected. */
static bool
is_told(const struct session *s, enum ending why)
{
	const struct channel *ch = &s->ch;

	return why == END_QUIT && s->judged > 0 && s->judged == ch->mails &&
	    s->told == ch->errors && s->options->xforward == NULL;
}

/* Writes the end of the transcript. */
static void
end_transcript(struct session *s, enum ending why)
{
	char text[512];
	int error;

	transcript_word(s->transcript, why == END_EOF || why == END_LOST
	    ? "# the client left" : "CLOSED");
	error = transcript_flush(s->transcript);
	if (error == 0)
		return;
	snprintf(text, sizeof text, "--record %.400s: %s",
	    s->options->record, strerror(error));
	session_log(s, LOG_ERR, "config-error", text);
}

/* The session is over. */
static void
end_session(struct session *s, enum ending why)
{
	const struct channel *ch = &s->ch;
	struct envelope env = session_facts(s);
	char *text = s->path;
	bool quiet = is_probe(s, why) || is_told(s, why);

	if (s->relayed_id[0] != '\0')
		log_unheard(s);
	if (why != END_QUIT && ch->mailfrom != NULL)
		session_log(s, LOG_WARNING, why == END_TIMEOUT ? "timeout"
		    : "client-lost", "the transaction was not finished, "
		    "nothing of it was relayed");
	if (!quiet || s->options->debug)
		write_ending(text, sizeof s->path, ch, why);
	spool_close(&s->spool);
	if (s->transcript != NULL)
		end_transcript(s, why);
	if (quiet && s->options->debug)
		session_log(s, LOG_DEBUG, "session", text);
	ask_end(&s->asker, EX_OK, quiet ? NULL : "session", &env, text);
}

/* Waits until smtpd-tls has delivered the last replies and closes: if this
   process ended before, a super-server would end smtpd-tls, too. */
static void
wait_for_engine(struct session *s)
{
	char rest[512];

	s->idle = s->end = clock_now() + ENGINE_GRACE * 1000;
	shutdown(s->out, SHUT_WR);
	while (session_wait(s, s->in, POLLIN) == 1 &&
	    read(s->in, rest, sizeof rest) > 0)
		;
}

int
session_turn_away(struct session *s, int error, int status)
{
	char text[128];

	if (ask_fd(&s->asker) == -1) {
		text_join(text, sizeof text, "cannot start a second process: ",
		    strerror(error), error == EAGAIN ?
		    " (see TasksMax= of the unit, or ulimit -u)" : "", NULL);
		session_log(s, LOG_ERR, "session", text);
	}
	channel_close(&s->ch, 421, "4.3.2", "Service not available");
	drain(s);
	return status;
}

int
session_run(struct session *s, const char *tls_trouble)
{
	/* Its client could not read a reply without TLS. */
	const bool close = s->options->channel.tls_on_connect &&
	    tls_trouble[0] != '\0';
	enum ending why;

	if (tls_trouble[0] != '\0')
		session_log(s, LOG_ERR, "config-error", text_join(s->path,
		    sizeof s->path, close ? "--smtps: the connection is "
		    "closed: " : "", tls_trouble, NULL));
	if (close)
		return EX_CONFIG;
	why = talk(s);
	hang_up(s, why);
	if (s->engine && why != END_TLS)
		wait_for_engine(s);
	end_session(s, why);	/* memory is freed by exit */
	return EX_OK;
}

struct session *
session_open(struct options *o, const struct channel_hooks *hook,
    const struct client *who)
{
	/* Zeroed, and malloc's own pages stay as they are while nobody asks
	   for mail. */
	struct session *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED)
		return NULL;
	ask_open(&s->asker, &o->monitor.log);
	s->options = o;
	s->faults = o->faults;
	s->transcript = o->transcript;
	s->in = STDIN_FILENO;
	s->out = STDOUT_FILENO;
	s->pid = who->pid;
	s->header.hold = s->held;
	memcpy(s->client_user, who->user, sizeof s->client_user);
	s->idle = s->end = clock_now() +
	    (int64_t)o->monitor.session_timeout * 1000;
	channel_init(&s->ch, &o->channel, hook, s);
	s->ch.peer = who->peer;
	return s;
}
