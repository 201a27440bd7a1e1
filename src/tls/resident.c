/*
 * resident.c - an engine that stays: what OpenSSL needs a long time for,
 * certificates and keys included, is done once.
 *
 * A connection is handed over on a SOCK_SEQPACKET socket, in one packet:
 * the words that the command line would have, role and options, each with its
 * NUL; and descriptors for 0, 1 and 3.  Each is served by a process of its own,
 * which has nothing of the others.  This process reads nothing that a client
 * or the one who hands over sent: it accepts, and forks.
 */
#define _GNU_SOURCE	/* accept4 */
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <openssl/err.h>

#include "base/clock.h"
#include "tls/tls.h"

#define LISTEN_FD 3		/* sd_listen_fds(3) */
#define WORDS_MAX 16
#define PACKET_MAX 8192		/* octets of all words */
#define HANDED 3		/* descriptors */
#define HAND_OVER_SECONDS 10	/* until the packet must be here */
#define REST 100		/* milliseconds, when there are no processes */

/* What is known of a file by which a change is noticed. */
struct version {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec written;
};

struct resident {
	struct engine *server;
	struct engine any, verified;	/* of next hops */
	SSL_CTX *ctx, *any_ctx, *verified_ctx;
	struct version cert[PAIRS_MAX], key[PAIRS_MAX];
	int listener, signals;
	unsigned children;
	bool reload, ended;
};

/* ---- The socket ---- */

static int
listen_on(struct engine *e, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK,
	    0);

	if (*path == '\0')	/* bind(2) would make up a name */
		engine_fail(e, EX_USAGE, "--listen: no path is named");
	if (strlen(path) >= sizeof address.sun_path)
		engine_fail(e, EX_USAGE, "--listen: %s is too long", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	/* A socket on which no program listens is left over; any other file
	   refuses the connection as well. */
	if (fd != -1 && connect(fd, (struct sockaddr *)&address,
	    sizeof address) == -1 && errno == ECONNREFUSED &&
	    lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(path);
	if (fd == -1 || bind(fd, (struct sockaddr *)&address, sizeof address)
	    == -1 || listen(fd, SOMAXCONN) == -1)
		engine_fail(e, EX_OSERR, "cannot listen on %s: %s", path,
		    strerror(errno));
	return fd;
}

/* The socket that systemd opened. */
static int
take_listener(struct engine *e)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int type = 0;
	socklen_t len = sizeof type;

	if (pid == NULL || fds == NULL || strtol(pid, NULL, 10) != getpid() ||
	    strcmp(fds, "1") != 0)
		engine_fail(e, EX_USAGE,
		    "resident needs --listen, or one socket from systemd");
	if (getsockopt(LISTEN_FD, SOL_SOCKET, SO_TYPE, &type, &len) == -1 ||
	    type != SOCK_SEQPACKET ||
	    fcntl(LISTEN_FD, F_SETFD, FD_CLOEXEC) == -1 ||
	    fcntl(LISTEN_FD, F_SETFL, O_NONBLOCK) == -1)
		engine_fail(e, EX_USAGE, "the socket from systemd is not "
		    "ListenSequentialPacket=");
	return LISTEN_FD;
}

/* ---- Certificates, keys, contexts ---- */

static struct version
version_of(const struct source *s)
{
	struct version v;
	struct stat st;

	memset(&v, 0, sizeof v);	/* they are compared as octets */
	if (stat(s->path, &st) == 0) {
		v.dev = st.st_dev;
		v.ino = st.st_ino;
		v.size = st.st_size;
		v.written = st.st_mtim;
	}
	return v;
}

/* Whether a file has changed since it was looked at; looks at all of them. */
static bool
files_changed(struct resident *r)
{
	struct engine *e = r->server;
	struct version v;
	bool changed = false;
	size_t i;

	for (i = 0; i < 2 * e->ncerts; i++) {
		struct version *known = i % 2 ? &r->key[i / 2]
		    : &r->cert[i / 2];

		v = version_of(i % 2 ? &e->key[i / 2] : &e->cert[i / 2]);
		if (memcmp(&v, known, sizeof v) != 0)
			changed = true;
		*known = v;
	}
	return changed;
}

/*
 * Reads certificates and keys.  If they cannot be used, because only half of
 * them are new, those that we have stay; the next change is noticed again.
 */
static void
load(struct resident *r)
{
	struct engine *e = r->server;
	SSL *old = e->ssl;
	jmp_buf again;

	e->rescue = &again;
	if (setjmp(again) == 0) {
		context_connect(e, r->ctx);
		SSL_free(old);
	} else {
		certs_drop(e);
		ERR_clear_error();
		if (e->ssl != old)
			SSL_free(e->ssl);
		e->ssl = old;
	}
	e->rescue = NULL;
}

/* A context for next hops; NULL if this machine trusts nobody: then each
   connection that must be verified says so. */
static SSL_CTX *
client_context(struct engine *e, const char *verify)
{
	SSL_CTX *volatile ctx = NULL;
	jmp_buf again;

	e->report = STDERR_FILENO;
	e->verify = verify;
	e->rescue = &again;
	if (setjmp(again) == 0)
		ctx = context_new(e);
	certs_drop(e);
	ERR_clear_error();
	e->rescue = NULL;
	return ctx;
}

/* Makes a handshake with itself, because OpenSSL looks for each algorithm when
   it is first used. */
static void
warm_up(struct resident *r, int version)
{
	SSL *server = SSL_dup(r->server->ssl), *client = SSL_new(r->any_ctx);
	BIO *a, *b;
	int i;

	if (server != NULL && client != NULL &&
	    BIO_new_bio_pair(&a, 0, &b, 0) == 1) {
		SSL_set_bio(server, a, a);
		SSL_set_bio(client, b, b);
		SSL_set_accept_state(server);
		SSL_set_connect_state(client);
		SSL_set_max_proto_version(client, version);
		for (i = 0; i < 4; i++) {
			SSL_do_handshake(client);
			SSL_do_handshake(server);
		}
	}
	ERR_clear_error();
	SSL_free(server);
	SSL_free(client);
}

/* ---- One connection, in its own process ---- */

/* Takes what is handed over: words in packet, which become argv, and the
   descriptors.  False: nothing that we could answer. */
static bool
take_over(int from, char packet[PACKET_MAX + 1], char *argv[WORDS_MAX + 2],
    int *argc)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(HANDED * sizeof(int))];
	} control;
	struct iovec part = { packet, PACKET_MAX };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof control };
	static const int to[HANDED] = { 0, 1, 3 };
	int fd[HANDED], i;
	const struct cmsghdr *c;
	ssize_t n;
	char *p;

	if (clock_wait(from, POLLIN, clock_now() + HAND_OVER_SECONDS * 1000)
	    == -1 || (n = recvmsg(from, &m, MSG_CMSG_CLOEXEC)) <= 0)
		return false;
	c = CMSG_FIRSTHDR(&m);
	if ((m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ||
	    packet[n - 1] != '\0' || c == NULL ||
	    c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
	    c->cmsg_len != CMSG_LEN(sizeof fd))
		return false;
	memcpy(fd, CMSG_DATA(c), sizeof fd);
	/* Out of the way first: one may sit where another belongs. */
	for (i = 0; i < HANDED; i++)
		if ((fd[i] = fcntl(fd[i], F_DUPFD_CLOEXEC, 10)) == -1)
			return false;
	for (i = 0; i < HANDED; i++)
		if (dup2(fd[i], to[i]) == -1)
			return false;
	for (p = packet, *argc = 0; p < packet + n; p += strlen(p) + 1) {
		if (*argc == WORDS_MAX)
			return false;
		argv[1 + (*argc)++] = p;
	}
	argv[++*argc] = NULL;
	return true;
}

/* Becomes the client of a next hop: the server's key is wiped. */
static struct engine *
become_client(struct resident *r, const struct engine *asked)
{
	bool usual = asked->verify != NULL && asked->ca == NULL &&
	    r->verified_ctx != NULL;
	SSL_CTX *ctx = usual ? r->verified_ctx
	    : asked->verify == NULL && asked->pins == NULL ? r->any_ctx : NULL;
	struct engine *e = usual ? &r->verified : &r->any;

	SSL_free(r->server->ssl);
	tickets_forget();
	e->report = asked->report;
	e->verify = asked->verify;
	e->sni = asked->sni;
	e->ca = asked->ca;
	e->pins = asked->pins;
	e->timeout = asked->timeout;
	if (ctx != NULL)
		context_connect(e, ctx);
	return e;
}

/* Serves what comes from there.  Returns the exit status. */
static int
serve_one(struct resident *r, int from)
{
	static struct engine asked;
	static char packet[PACKET_MAX + 1];
	char name[] = "smtpd-tls", *argv[WORDS_MAX + 2] = { name };
	struct engine *e = r->server;
	int argc;

	memory_renew();
	close(r->listener);
	close(r->signals);
	if (!take_over(from, packet, argv, &argc))
		return EX_USAGE;
	close(from);
	asked.handed = true;
	asked.report = LISTEN_FD;
	asked.timeout = e->timeout;
	/* The certificate that engine_options() demands is ours. */
	asked.ncerts = asked.nkeys = 1;
	asked.cert[0].fd = asked.key[0].fd = -1;
	engine_options(&asked, argc, argv);
	if (asked.check)	/* what has been loaded is looked at */
		return check_certificates(e);
	if (asked.server) {
		e->report = asked.report;
		e->timeout = asked.timeout;
	} else
		e = become_client(r, &asked);
	return engine_serve(e);
}

/* ---- The life ---- */

static void
take_signals(struct resident *r)
{
	struct signalfd_siginfo info;

	while (read(r->signals, &info, sizeof info) == sizeof info)
		switch (info.ssi_signo) {
		case SIGHUP:
			r->reload = true;
			break;
		case SIGCHLD:
			while (waitpid(-1, NULL, WNOHANG) > 0)
				r->children--;
			break;
		default:
			r->ended = true;
		}
}

/* Accepts one, and gives it a process.  In that, returns its exit status; else
   -1. */
static int
accept_one(struct resident *r)
{
	int from = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC), changed;
	sigset_t none;
	pid_t pid;

	if (from == -1) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
			poll(NULL, 0, REST);
		return -1;
	}
	changed = files_changed(r);
	if (changed || r->reload)
		load(r);
	tickets_rotate(r->server, r->reload);
	r->reload = false;
	pid = fork();
	if (pid == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		return serve_one(r, from);
	}
	close(from);	/* no process has it: the peer sees its end */
	if (pid != -1)
		r->children++;
	else
		dprintf(STDERR_FILENO, "smtpd-tls: cannot start a process: "
		    "%s\n", strerror(errno));
	return -1;
}

static void
open_resident(struct resident *r)
{
	struct engine *e = r->server;
	sigset_t set;

	r->listener = e->listen != NULL ? listen_on(e, e->listen)
	    : take_listener(e);
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	r->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (r->signals == -1)
		engine_fail(e, EX_OSERR, "signalfd: %s", strerror(errno));
	r->ctx = context_new(e);
	files_changed(r);
	context_connect(e, r->ctx);
	r->any_ctx = client_context(&r->any, NULL);
	r->verified_ctx = client_context(&r->verified, "localhost");
	if (r->any_ctx == NULL)
		engine_fail(e, EX_OSERR, "no memory");
	warm_up(r, TLS1_3_VERSION);
	warm_up(r, TLS1_2_VERSION);
}

int
resident_run(struct engine *e)
{
	static struct resident resident;
	struct resident *r = &resident;
	struct pollfd p[2];
	int status = -1, n;

	r->server = e;
	open_resident(r);
	p[0] = (struct pollfd){ .fd = r->listener, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = r->signals, .events = POLLIN };
	while (status == -1 && !r->ended) {
		n = poll(p, 2, e->idle != 0 && r->children == 0 ? (int)e->idle
		    : -1);
		if (n == 0)
			break;
		if (n > 0 && p[1].revents != 0)
			take_signals(r);
		if (n > 0 && p[0].revents != 0 && !r->ended)
			status = accept_one(r);
	}
	if (status == -1 && e->listen != NULL)
		unlink(e->listen);
	return status == -1 ? EX_OK : status;
}
