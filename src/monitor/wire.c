/*
 * wire.c - questions and answers as octets, both directions.
 *
 * A question comes from a process where strangers' octets were parsed, so
 * wire_read_question() believes nothing: counts, lengths, NULs and control
 * characters are checked.  What a question means is the monitor's affair.
 */
#define _GNU_SOURCE	/* explicit_bzero, MSG_CMSG_CLOEXEC */
#include "monitor/wire.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Sends all of iov[0..n), the descriptor with the first octet, by the deadline
   if there is one; iov is used up.  -1 with errno. */
static int
send_all(int to, struct iovec *iov, size_t n, int fd, int64_t deadline)
{
	const int flags = MSG_NOSIGNAL | (deadline == 0 ? 0 : MSG_DONTWAIT);
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .room = { 0 } };
	struct msghdr msg;
	ssize_t sent;

	while (n > 0) {
		msg = (struct msghdr){ .msg_iov = iov };
		/* An int in musl. */
		msg.msg_iovlen = (__typeof__(msg.msg_iovlen))n;
		if (fd != -1) {
			msg.msg_control = &control;
			msg.msg_controllen = sizeof control;
			control.head.cmsg_level = SOL_SOCKET;
			control.head.cmsg_type = SCM_RIGHTS;
			control.head.cmsg_len = CMSG_LEN(sizeof fd);
			memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
		}
		sent = sendmsg(to, &msg, flags);
		if (sent == -1 && (errno == EINTR || (errno == EAGAIN &&
		    clock_wait(to, POLLOUT, deadline) != -1)))
			continue;
		if (sent == -1)
			return -1;
		fd = -1;
		for (; n > 0 && (size_t)sent >= iov->iov_len; n--)
			sent -= (ssize_t)iov++->iov_len;
		if (n > 0) {
			iov->iov_base = (char *)iov->iov_base + sent;
			iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

/* Receives len octets, by the deadline if there is one, and perhaps a
   descriptor, which replaces *fd.  There is room for one: the kernel closes
   others.  -1 with errno, 0 for the end of file. */
static int
receive_all(int from, void *p, size_t len, int *fd, int64_t deadline)
{
	const int flags = MSG_CMSG_CLOEXEC | (deadline == 0 ? 0 : MSG_DONTWAIT);
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov;
	struct msghdr msg;
	char *octets = p;
	ssize_t n;

	while (len > 0) {
		iov = (struct iovec){ octets, len };
		msg = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1,
			.msg_control = &control,
			.msg_controllen = CMSG_LEN(sizeof *fd) };
		n = recvmsg(from, &msg, flags);
		if (n == -1 && (errno == EINTR || (errno == EAGAIN &&
		    clock_wait(from, POLLIN, deadline) != -1)))
			continue;
		if (n <= 0)
			return -(n < 0);
		if (CMSG_FIRSTHDR(&msg) != NULL &&
		    control.head.cmsg_type == SCM_RIGHTS) {
			file_close(fd);
			memcpy(fd, CMSG_DATA(&control.head), sizeof *fd);
		}
		octets += n;
		len -= (size_t)n;
	}
	return 1;
}

/* ---- questions ---- */

/* Appends s and its NUL at p + n, or only counts if p is NULL: the caller has
   measured. */
static size_t
pack(char *p, size_t n, const char *s)
{
	size_t len = strlen(s) + 1;

	if (p != NULL)
		memcpy(p + n, s, len);
	return n + len;
}

static size_t
pack_strings(char *p, const struct question *q)
{
	size_t n = 0;

	for (size_t i = 0; q->env != NULL && i < FACTS; i++)
		n = pack(p, n, q->env->fact[i]);
	for (size_t i = 0; q->env != NULL && i < q->env->nrecipients; i++) {
		n = pack(p, n, q->env->recipients[i].address);
		n = pack(p, n, q->env->recipients[i].options);
	}
	if (q->a != NULL)
		n = pack(p, n, q->a);
	if (q->b != NULL)
		n = pack(p, n, q->b);
	return n;
}

int
wire_send_question(struct wire *w, const struct question *q)
{
	size_t len = pack_strings(NULL, q), size = sizeof(struct head) + len;
	char *p = size <= sizeof w->usual ? w->usual : malloc(size);
	struct iovec iov = { p, size };
	struct head h = {
		.ask = (uint32_t)q->ask,
		.number = q->number,
		.flags = (q->env != NULL ? HAS_ENVELOPE : 0) |
		    (q->a != NULL ? HAS_A : 0) | (q->b != NULL ? HAS_B : 0),
		.len = (uint32_t)len,
	};
	int status;

	if (p == NULL || w->broken) {
		status = -1;
		goto out;
	}
	if (q->env != NULL) {
		h.flags |= q->env->smtputf8 ? HAS_SMTPUTF8 : 0;
		h.encoding = (uint32_t)q->env->body;
		h.nrecipients = (uint32_t)q->env->nrecipients;
		h.size = q->env->size;
	}
	memcpy(p, &h, sizeof h);
	pack_strings(p + sizeof h, q);
	status = send_all(w->peer, &iov, 1, q->fd, 0);
	if (status == -1)	/* half of it may have been sent */
		w->broken = true;
	if (q->ask == ASK_AUTH)
		explicit_bzero(p, size);
out:
	if (p != w->usual)
		free(p);
	return status;
}

/* Takes the next string off *p.  Returns NULL if there is none without control
   characters before end. */
static const char *
unpack(const char **p, const char *end)
{
	const char *s = *p;

	for (; *p < end && **p != '\0'; ++*p)
		if (text_is_control(**p) && **p != '\t')
			return NULL;
	if (*p == end)
		return NULL;
	++*p;
	return s;
}

/* Reads an envelope's strings, those of its recipients into rows. */
static bool
unpack_envelope(struct envelope *env, struct recipient *rows,
    const struct head *h, const char **p, const char *end)
{
	struct recipient *one;

	env->recipients = rows;
	env->nrecipients = h->nrecipients;
	env->size = h->size;
	env->smtputf8 = (h->flags & HAS_SMTPUTF8) != 0;
	env->body = (enum body)h->encoding;
	if (h->encoding > BODY_BINARYMIME)
		return false;
	for (size_t i = 0; i < FACTS; i++)
		if ((env->fact[i] = unpack(p, end)) == NULL)
			return false;
	for (one = rows; one < rows + h->nrecipients; one++) {
		one->address = unpack(p, end);
		one->options = unpack(p, end);
		if (one->address == NULL || one->options == NULL)
			return false;
	}
	return true;
}

/* Reads a question's strings, by its head.  Returns false if they are none. */
static bool
unpack_question(struct received *r, const struct head *h)
{
	const char *p = r->strings, *end = p + h->len;
	struct envelope env = { .size = 0 };

	r->q.ask = (enum ask)h->ask;
	r->q.number = h->number;
	if ((h->flags & HAS_ENVELOPE) != 0) {
		if (!unpack_envelope(&env, r->recipients, h, &p, end))
			return false;
		r->env = env;
		r->q.env = &r->env;
	}
	if ((h->flags & HAS_A) != 0 && (r->q.a = unpack(&p, end)) == NULL)
		return false;
	if ((h->flags & HAS_B) != 0 && (r->q.b = unpack(&p, end)) == NULL)
		return false;
	return p == end;
}

int
wire_read_question(struct wire *w, size_t recipients, struct received *r,
    int64_t deadline)
{
	struct head h;
	int fd = -1, status;

	memset(r, 0, sizeof *r);
	status = receive_all(w->peer, &h, sizeof h, &fd, deadline);
	r->q.fd = fd;
	if (status != 1)
		return status;
	if (recipients == 0 || recipients > WIRE_RECIPIENTS)
		recipients = WIRE_RECIPIENTS;
	if (h.ask >= ASKS || h.nrecipients > recipients || h.len >
	    WIRE_STRINGS + (uint64_t)h.nrecipients * WIRE_RECIPIENT) {
		errno = EBADMSG;
		return -1;
	}
	r->strings = h.len <= sizeof w->usual ? w->usual : calloc(1, h.len);
	r->recipients = h.nrecipients <= WIRE_FEW ? w->few
	    : calloc(h.nrecipients, sizeof *r->recipients);
	if (r->strings == NULL || r->recipients == NULL)
		return -1;
	r->len = h.len;
	status = receive_all(w->peer, r->strings, h.len, &fd, deadline);
	r->q.fd = fd;
	if (status != 1)
		return status;
	if (!unpack_question(r, &h)) {
		errno = EBADMSG;
		return -1;
	}
	return 1;
}

void
wire_dispose(const struct wire *w, struct received *r)
{
	file_close(&r->q.fd);
	if (r->strings != NULL)
		explicit_bzero(r->strings, r->len);
	if (r->strings != w->usual)
		free(r->strings);
	if (r->recipients != w->few)
		free(r->recipients);
	free(r->completed);
	memset(r, 0, sizeof *r);
	r->q.fd = -1;
}

/* ---- answers ---- */

/* Clears the memory after the words of a reply: it held the monitor's own
   data, which is not for the channel process. */
static void
clear_padding(struct reply *r)
{
	size_t enh = strlen(r->enh), text = strlen(r->text);

	memset(r->enh + enh, 0, sizeof r->enh - enh);
	memset(r->text + text, 0, sizeof r->text - text);
}

int
wire_send_answer(struct wire *w, struct reply r[], size_t n, char *text,
    int fd, int64_t deadline)
{
	struct tail t = { .len = (uint32_t)strlen(text) + 1 };
	struct iovec iov[] = { { &t, sizeof t }, { r, 0 }, { text, t.len } };
	size_t same = 1;
	int status;

	for (size_t i = 0; i < n; i++)
		clear_padding(&r[i]);
	while (same < n && reply_same(&r[0], &r[same]))
		same++;
	t.nreplies = same < n ? (uint32_t)n : n > 0;
	iov[1].iov_len = t.nreplies * sizeof *r;
	status = send_all(w->peer, iov, COUNT(iov), fd, deadline);
	explicit_bzero(text, t.len);
	return status;
}

bool
wire_read_answer(struct wire *w, struct reply r[], size_t n, char *text,
    size_t size, int *fd)
{
	struct tail t;
	int none = -1;

	if (fd == NULL)
		fd = &none;
	*fd = -1;
	if (receive_all(w->peer, &t, sizeof t, fd, 0) != 1 ||
	    t.nreplies > n || t.len > size ||
	    (t.nreplies != n && t.nreplies != 1) ||
	    receive_all(w->peer, r, t.nreplies * sizeof *r, fd, 0) != 1 ||
	    receive_all(w->peer, text, t.len, fd, 0) != 1) {
		/* The rest of it must not answer another question. */
		w->broken = true;
		return false;
	}
	if (t.len > 0)
		text[t.len - 1] = '\0';
	if (t.nreplies == 1)
		reply_spread(r, n);
	return true;
}
