/*
 * smtp_text.c - sends one message to a next hop that has accepted its envelope:
 * as DATA, or as one chunk (RFC 3030).
 */
#include <sys/stat.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "relay/smtp_private.h"

/* Sends what is held, as a part of the message.  smtp_send_group() reports a
   failure. */
static void
write_held(struct nexthop *h, int64_t deadline)
{
	h->begun = true;
	if (h->error == 0 && stream_write(&h->s, h->out, h->held,
	    clock_within(deadline, BLOCK_SECONDS)) == -1)
		h->error = errno;
	h->held = 0;
}

/* Our own copy cannot be read: nothing may end it.  Returns false. */
static bool
spool_error(struct nexthop *h, int err, struct reply *r)
{
	smtp_hang_up(h);
	smtp_log(h, "cannot read the message", strerror(err));
	reply_set(r, 451, "4.3.0", "Cannot read the message");
	return false;
}

/* The message as one chunk (RFC 3030), just as it is. */
static bool
send_chunk(struct nexthop *h, int spool, int64_t deadline, struct reply *r)
{
	off_t offset = 0;
	size_t room, left;
	struct stat st;
	ssize_t n;

	if (fstat(spool, &st) == -1)
		return spool_error(h, errno, r);
	smtp_add(h, "BDAT %jd LAST\r\n", (intmax_t)st.st_size);
	for (; offset < st.st_size && h->error == 0; offset += n) {
		if (h->held == sizeof h->out)
			write_held(h, deadline);
		room = sizeof h->out - h->held;
		left = (size_t)(st.st_size - offset);
		n = file_read_at(spool, h->out + h->held,
		    left < room ? left : room, offset);
		if (n <= 0)
			return spool_error(h, n == 0 ? EIO : errno, r);
		h->held += (size_t)n;
	}
	return smtp_send_group(h, STEP_END, deadline, r);
}

/* Adds to the message.  Something is always held back for smtp_send_group(). */
static void
add_octets(struct nexthop *h, const char *p, size_t len, int64_t deadline)
{
	size_t n;

	for (; len > 0; p += n, len -= n) {
		if (h->held == sizeof h->out)
			write_held(h, deadline);
		n = sizeof h->out - h->held;
		if (n > len)
			n = len;
		memcpy(h->out + h->held, p, n);
		h->held += n;
	}
}

/*
 * Adds text to the message: lines end in CRLF however they end in the spool,
 * and a dot before them is doubled (RFC 5321 4.5.2).  last is the octet
 * before, '\n' at first; returns it for the next time.
 */
static char
add_text(struct nexthop *h, const char *p, size_t len, char last,
    int64_t deadline)
{
	const char *end = p + len, *lf;
	size_t n;

	for (; p < end; p += n) {
		if (last == '\n' && *p == '.')
			add_octets(h, ".", 1, deadline);
		lf = memchr(p, '\n', (size_t)(end - p));
		n = (size_t)((lf != NULL ? lf : end) - p);
		if (n > 0)
			last = p[n - 1];
		if (lf != NULL && last != '\r') {
			add_octets(h, p, n, deadline);
			add_octets(h, "\r\n", 2, deadline);
			n++;
		} else
			add_octets(h, p, n += lf != NULL, deadline);
		last = p[n - 1];
	}
	return last;
}

/* The message as DATA, up to and with the final dot. */
static bool
send_text(struct nexthop *h, int spool, int64_t deadline, struct reply *r)
{
	off_t offset = 0;
	char last = '\n';
	ssize_t n;

	while ((n = file_read_at(spool, h->in, sizeof h->in, offset)) > 0) {
		last = add_text(h, h->in, (size_t)n, last, deadline);
		offset += n;
		if (h->error != 0)
			break;
	}
	if (n == -1)
		return spool_error(h, errno, r);
	if (last != '\n' && last != '\r')
		add_octets(h, "\r", 1, deadline);
	if (last != '\n')
		add_octets(h, "\n", 1, deadline);
	add_octets(h, ".\r\n", 3, deadline);
	return smtp_send_group(h, STEP_END, deadline, r);
}

bool
smtp_is_chunked(const struct nexthop *h, enum spool_form form)
{
	return (h->can & CAN_CHUNKING) && form == SPOOL_CRLF;
}

bool
smtp_send_message(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, struct reply *r)
{
	if (h->s.fd == -1) {
		smtp_no_connection(r);
		return false;
	}
	if (smtp_is_chunked(h, form))
		return send_chunk(h, spool, deadline, r);
	if (env->body == BODY_BINARYMIME) {
		reply_set(r, 554, "5.6.3", "Cannot relay BINARYMIME");
		return false;
	}
	smtp_add(h, "DATA\r\n");
	return smtp_command(h, STEP_DATA, deadline, r) &&
	    send_text(h, spool, deadline, r);
}
