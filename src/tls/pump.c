/*
 * pump.c - the handshake, and the two directions.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <sys/socket.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <openssl/err.h>

#include "base/clock.h"
#include "base/handshake.h"
#include "tls/tls.h"

#define DRAIN_MAX 16		/* buffers read and dropped at the end */
#define COMMAND_MAX 512		/* octets; RFC 5321 4.5.3.1.4 */
#define LARGE 16384		/* octets: a record (RFC 8446 5.1) */

/* Ends f; what still waits in it is lost. */
static void
finish(struct flow *f)
{
	f->done = true;
	f->len = 0;
	f->conn = f->clear = 0;
}

/*
 * Waits for conn on the connection or clear on the clear text, sets of POLLIN
 * and POLLOUT.  An end that nothing is expected of is not polled, because
 * its POLLHUP would end every wait; but the clear-text end is until it hung
 * up, which ends the flow to it.  False: the deadline has passed.
 */
static bool
wait_for(struct engine *e, short conn, short clear)
{
	struct pollfd fds[] = {
		{ conn != 0 ? STDIN_FILENO : -1, conn, 0 },
		{ clear != 0 || !e->hung ? STDOUT_FILENO : -1, clear, 0 },
	};
	int64_t left = -1;

	if (e->deadline != -1 && (left = e->deadline - clock_now()) <= 0)
		return false;
	if (poll(fds, 2, (int)left) > 0 && !e->hung &&
	    (fds[1].revents & (POLLHUP | POLLERR)) != 0) {
		e->hung = true;
		finish(&e->in);
		e->deadline = clock_now() + e->timeout;
	}
	return true;
}

/* What the peer said last and nobody read would make the end of this
   connection a reset, which can overtake our own last words. */
static void
hang_up(struct engine *e)
{
	int i;

	shutdown(STDIN_FILENO, SHUT_WR);
	for (i = 0; i < DRAIN_MAX; i++)
		if (read(STDIN_FILENO, e->in.buffer, sizeof e->in.buffer) <= 0)
			break;
}

/* Why the handshake failed, err being errno. */
static _Noreturn void
refuse(struct engine *e, int err)
{
	long verdict = SSL_get_verify_result(e->ssl);

	hang_up(e);
	if (e->verify != NULL && verdict != X509_V_OK)
		engine_fail(e, EX_PROTOCOL, "the certificate of %s cannot be "
		    "trusted: %s", e->verify,
		    X509_verify_cert_error_string(verdict));
	if (ERR_peek_error() == 0)
		engine_fail(e, EX_PROTOCOL, "%s%s%s", e->server &&
		    BIO_number_read(SSL_get_rbio(e->ssl)) == 0
		    ? HANDSHAKE_NOT_BEGUN : "the connection ended during the "
		    "TLS handshake", err != 0 ? ": " : "",
		    err != 0 ? strerror(err) : "");
	engine_fail(e, EX_PROTOCOL, "the TLS handshake failed: %s",
	    engine_reason("an error without a name"));
}

/* A peer that has sent something may hold back what it sends next until the
   first is acknowledged (RFC 896), and TCP delays acknowledgements in a
   dialogue: both sides would wait for 40 ms. */
static void
acknowledge(void)
{
	const int yes = 1;

	setsockopt(STDIN_FILENO, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof yes);
}

void
pump_handshake(struct engine *e)
{
	int n, err;
	bool in_time = true;

	while (in_time && !e->hung) {
		ERR_clear_error();
		errno = 0;
		n = SSL_do_handshake(e->ssl);
		err = errno;
		if (n == 1) {
			acknowledge();
			return;
		}
		switch (SSL_get_error(e->ssl, n)) {
		case SSL_ERROR_WANT_READ:
			in_time = wait_for(e, POLLIN, 0);
			break;
		case SSL_ERROR_WANT_WRITE:
			in_time = wait_for(e, POLLOUT, 0);
			break;
		default:
			refuse(e, err);
		}
	}
	if (in_time)
		engine_fail(e, EX_IOERR, "the clear-text end was closed during "
		    "the TLS handshake");
	engine_fail(e, EX_TEMPFAIL, "the TLS handshake did not end within %d s",
	    (int)(e->timeout / 1000));
}

/* ---- The pump ---- */

/* What a call to OpenSSL that returned n waits for; 0: the connection can
   carry no more in that direction. */
static short
wanted(struct engine *e, int n)
{
	switch (SSL_get_error(e->ssl, n)) {
	case SSL_ERROR_WANT_READ:
		return POLLIN;
	case SSL_ERROR_WANT_WRITE:
		return POLLOUT;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	default:
		e->broken = true;
		return 0;
	}
}

/* The next n octets have been handed on.  There may be a password in them. */
static void
spent(struct flow *f, size_t n)
{
	explicit_bzero(f->buffer + f->start, n);
	f->start += n;
	f->len -= n;
}

/*
 * The peer sent so many octets more.  More than a command line (RFC 5321
 * 4.5.3.1.4) is no dialogue.  Of a large message a buffer is wiped as it is
 * released, when all records in it have been handed on, and not record by
 * record: that would take a tenth of its time.
 */
static void
notice_text(struct engine *e, size_t more)
{
	const size_t before = e->heard;

	e->heard += more;
	if (before <= COMMAND_MAX && e->heard > COMMAND_MAX)
		acknowledge();
	if (before <= LARGE && e->heard > LARGE) {
		SSL_set_mode(e->ssl, SSL_MODE_RELEASE_BUFFERS);
		SSL_clear_options(e->ssl, SSL_OP_CLEANSE_PLAINTEXT);
	}
}

/* Carries a buffer at most from the connection to the clear text.  If f waits
   for nothing afterwards there may be more. */
static void
decrypt(struct engine *e, struct flow *f)
{
	const size_t had = f->len;
	ssize_t n;

	f->conn = f->clear = 0;
	if (f->len == 0)
		f->start = 0;
	while (f->start == 0 && !f->eof && f->len < sizeof f->buffer) {
		ERR_clear_error();
		n = SSL_read(e->ssl, f->buffer + f->len,
		    (int)(sizeof f->buffer - f->len));
		if (n > 0) {
			f->len += (size_t)n;
			continue;
		}
		f->conn = wanted(e, (int)n);
		f->eof = f->conn == 0;
		break;
	}
	if (f->len > had && f->conn == POLLIN)
		notice_text(e, f->len - had);
	if (f->len > 0) {
		n = write(STDOUT_FILENO, f->buffer + f->start, f->len);
		if (n > 0)
			spent(f, (size_t)n);
		else if (errno == EAGAIN)
			f->clear = POLLOUT;
		else if (errno != EINTR)
			finish(f);
		if (f->len > 0)
			f->conn = 0;
	} else if (f->eof) {
		shutdown(STDOUT_FILENO, SHUT_WR);
		finish(f);
	}
}

/* The same from the clear text to the connection.  When the former has ended
   that is said with a close_notify, RFC 8446 6.1. */
static void
encrypt(struct engine *e, struct flow *f)
{
	ssize_t n = 0;

	f->conn = f->clear = 0;
	if (f->len == 0 && !f->eof) {
		f->start = 0;
		n = read(STDOUT_FILENO, f->buffer, sizeof f->buffer);
		if (n > 0)
			f->len = (size_t)n;
		else if (n == -1 && errno == EAGAIN)
			f->clear = POLLIN;
		else
			f->eof = n == 0 || errno != EINTR;
	}
	while (f->len > 0 && f->conn == 0 && !f->done) {
		ERR_clear_error();
		n = SSL_write(e->ssl, f->buffer + f->start, (int)f->len);
		if (n > 0) {
			e->heard = 0;
			spent(f, (size_t)n);
			continue;
		}
		f->conn = wanted(e, (int)n);
		if (f->conn == 0)
			finish(f);
	}
	if (f->eof && f->len == 0 && !f->done) {
		ERR_clear_error();
		n = SSL_shutdown(e->ssl);
		f->conn = n < 0 ? wanted(e, (int)n) : 0;
		if (f->conn == 0)
			finish(f);
	}
	/* A further write fails with EPIPE. */
	if (f->done)
		shutdown(STDOUT_FILENO, SHUT_RD);
}

/* True if there is no use in trying f again before something happened. */
static bool
idle(const struct flow *f)
{
	return f->done || f->conn != 0 || f->clear != 0;
}

int
pump_run(struct engine *e)
{
	struct flow *in = &e->in, *out = &e->out;

	e->deadline = -1;
	while (!in->done || !out->done) {
		if (!in->done)
			decrypt(e, in);
		if (!out->done)
			encrypt(e, out);
		if (idle(in) && idle(out) && (!in->done || !out->done) &&
		    !wait_for(e, in->conn | out->conn, in->clear | out->clear))
			return EX_TEMPFAIL;
	}
	hang_up(e);
	return e->broken ? EX_IOERR : EX_OK;
}
