/*
 * digest.c - asks smtpd-tls for hashes of a password.
 *
 * A process of its own for each authentication costs some milliseconds, and
 * only where a server offers such a mechanism; in return smtpd has no
 * cryptography of its own.  The password goes out only after the program has
 * reported, as no other process of our user can look into it then.
 */
#include <sys/socket.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "net/digest.h"
#include "net/engine.h"
#include "net/stream.h"

bool
digest_start(struct digest *d, const char *program, int64_t deadline,
    char *why, size_t size)
{
	struct tls_job j = { .program = program, .words = { "digest" },
		.deadline = deadline };
	int pair[2];

	d->fd = -1;
	if (program == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC,
	    0, pair) == -1) {
		text_copy(why, size, program == NULL ? "no smtpd-tls" :
		    strerror(errno));
		return false;
	}
	/* It wants a connection; nothing goes over this one. */
	j.fd = pair[0];
	d->fd = tls_start(&j, why, size);
	close(pair[0]);
	close(pair[1]);
	return d->fd != -1;
}

bool
digest_ask(struct digest *d, const struct digest_question *q,
    const char *password, const char *salt, const char *text,
    struct digest_answer *a, int64_t deadline)
{
	struct stream s = { .fd = d->fd };

	return (size_t)q->password + q->salt + q->text <= DIGEST_TEXT &&
	    stream_write(&s, q, sizeof *q, deadline) == 0 &&
	    stream_write(&s, password, q->password, deadline) == 0 &&
	    stream_write(&s, salt, q->salt, deadline) == 0 &&
	    stream_write(&s, text, q->text, deadline) == 0 &&
	    stream_read(&s, a, sizeof *a, deadline) == 0;
}

void
digest_close(struct digest *d)
{
	file_close(&d->fd);
}
