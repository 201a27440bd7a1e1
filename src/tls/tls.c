/*
 * tls.c - smtpd-tls: speaks TLS on one connection for a process that does
 * not, so that the one that parses mail never sees the private key.  It knows
 * nothing of what it carries.  Its descriptors:
 *
 *	0	the connection, a socket
 *	1	the clear text, one end of a pair of AF_UNIX stream sockets
 *	3	the report: lines NAME=VALUE and an empty line; standard error
 *		gets the errors where there is none
 *
 * Or it stays (resident.c), and does all this in a process for each connection
 * that it is handed.
 *
 *  1. It reads certificates and keys, and gives up every other right.
 *  2. It shakes hands until a deadline, reports, and forgets the keys.
 *  3. It pumps.  Each direction is a flow with one buffer, which is filled
 *     only when it is empty: that is the backpressure.  A flow ends by
 *     itself; when both have ended, so does the program.
 */
#define _GNU_SOURCE	/* close_range */
#include <sys/socket.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "base/clock.h"
#include "base/fingerprint.h"
#include "base/text.h"
#include "monitor/confine.h"
#include "tls/tls.h"

#define REPORT_FD 3
#define REPORT_TEXT 1024	/* octets of a report, with NUL */
#define VALUE_MAX 255		/* octets of one of its values */
#define TIMEOUT_SECONDS 60
#define TIMEOUT_MAX 86400	/* seconds that --timeout takes */

struct text {
	size_t len;
	char p[REPORT_TEXT];
};

/*
 * Appends a line.  It stays one line, and moves no cursor: control characters
 * become '?', those of Unicode's C1 too, and so do octets above top, which is
 * 0x7e for ASCII and 0xff for UTF-8.
 */
static void
put_value(struct text *t, const char *name, const char *value, size_t len,
    unsigned char top)
{
	unsigned char c;
	size_t i;

	if (len > VALUE_MAX)
		for (len = VALUE_MAX; len > 0 && (value[len] & 0xc0) == 0x80;)
			len--;
	assert(sizeof t->p - t->len > strlen(name) + len + 3);
	t->len += (size_t)snprintf(t->p + t->len, sizeof t->p - t->len, "%s=",
	    name);
	for (i = 0; i < len; i++) {
		c = (unsigned char)value[i];
		if (c == 0xc2 && i + 1 < len && (value[i + 1] & 0xe0) == 0x80) {
			c = 0x7f;
			i++;
		}
		if (c < ' ' || c == 0x7f || c > top)
			c = '?';
		t->p[t->len++] = (char)c;
	}
	t->p[t->len++] = '\n';
}

/* Writes the report and closes it.  That nobody reads it is no error: the
   clear text will show that it is so. */
static void
send_report(struct engine *e, struct text *t)
{
	size_t done = 0;
	ssize_t n;

	t->p[t->len++] = '\n';
	while (done < t->len) {
		n = write(REPORT_FD, t->p + done, t->len - done);
		if (n == -1 && errno != EINTR)
			break;
		if (n > 0)
			done += (size_t)n;
	}
	close(REPORT_FD);
	e->report = -1;
}

void
engine_fail(struct engine *e, int status, const char *fmt, ...)
{
	struct text t = { .len = 0 };
	char why[VALUE_MAX + 1];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	if (e->rescue == NULL && e->report == REPORT_FD) {
		put_value(&t, "error", why, strlen(why), 0xff);
		if (status == EX_CONFIG)
			put_value(&t, "status", "78", 2, 0xff);
		send_report(e, &t);
	} else if (e->report == STDERR_FILENO)
		dprintf(STDERR_FILENO, "smtpd-tls: %s\n", why);
	if (e->rescue != NULL)
		longjmp(*e->rescue, status);
	_exit(status);
}

/*
 * What OpenSSL complained of first; otherwise is what it means if it did not.
 * context_start() has left out the words of libcrypto: where libssl, or the
 * system, has none either there is the number, for "openssl errstr".
 */
const char *
engine_reason(const char *otherwise)
{
	static char number[sizeof "OpenSSL error 0123456789abcdef"];
	unsigned long code, first = ERR_peek_error();
	const char *text;

	while ((code = ERR_get_error()) != 0) {
		if (ERR_SYSTEM_ERROR(code))
			return strerror(ERR_GET_REASON(code));
		text = ERR_reason_error_string(code);
		if (text != NULL)
			return text;
	}
	if (first == 0)
		return otherwise;
	snprintf(number, sizeof number, "OpenSSL error %08lX", first);
	return number;
}

/* ---- Command line ---- */

static const struct option server_options[] = {
	{ "cert", required_argument, NULL, 'c' },
	{ "certfd", required_argument, NULL, 'C' },
	{ "key", required_argument, NULL, 'k' },
	{ "keyfd", required_argument, NULL, 'K' },
	{ "ca", required_argument, NULL, 'a' },
	{ "timeout", required_argument, NULL, 't' },
	{ NULL, 0, NULL, 0 },
};

static const struct option client_options[] = {
	{ "verify", required_argument, NULL, 'v' },
	{ "sni", required_argument, NULL, 's' },
	{ "fingerprint", required_argument, NULL, 'f' },
	{ "ca", required_argument, NULL, 'a' },
	{ "timeout", required_argument, NULL, 't' },
	{ NULL, 0, NULL, 0 },
};

static const struct option no_options[] = { { NULL, 0, NULL, 0 } };

static const struct option resident_options[] = {
	{ "listen", required_argument, NULL, 'l' },
	{ "idle", required_argument, NULL, 'i' },
	{ "cert", required_argument, NULL, 'c' },
	{ "key", required_argument, NULL, 'k' },
	{ "ca", required_argument, NULL, 'a' },
	{ NULL, 0, NULL, 0 },
};

/* Of a server that is handed over: it has what the resident one has. */
static const struct option handed_options[] = {
	{ "timeout", required_argument, NULL, 't' },
	{ NULL, 0, NULL, 0 },
};

/* The number in text, from min, which is not negative, to max. */
static int
number(struct engine *e, const char *text, int min, int max)
{
	uint64_t n;

	if (!text_parse_number((struct span){ text, strlen(text) }, &n) ||
	    n < (unsigned)min || n > (unsigned)max)
		engine_fail(e, EX_USAGE, "\"%s\" is not a number from %d to "
		    "%d", text, min, max);
	return (int)n;
}

/* One more certificate or key. */
static void
add(struct engine *e, struct source list[], size_t *n, bool descriptor,
    const char *arg)
{
	if (*n == PAIRS_MAX)
		engine_fail(e, EX_USAGE, "more than %d certificates or keys",
		    PAIRS_MAX);
	list[*n].path = descriptor ? NULL : arg;
	list[*n].fd = descriptor ? number(e, arg, e->check ? 0 : REPORT_FD + 1,
	    INT_MAX) : -1;
	(*n)++;
}

/* A host's name without the dot at its end.  OpenSSL takes "" for any name,
   and a dot in front for any name that ends so. */
static char *
host(struct engine *e, char *name)
{
	size_t len = strlen(name);

	if (len > 1 && name[len - 1] == '.')
		name[len - 1] = '\0';
	if (name[0] == '\0' || name[0] == '.')
		engine_fail(e, EX_USAGE, "\"%s\" is not a host's name", name);
	return name;
}

static void
option(struct engine *e, int c, const char *word)
{
	switch (c) {
	case 'c':
	case 'C':
		add(e, e->cert, &e->ncerts, c == 'C', optarg);
		break;
	case 'k':
	case 'K':
		add(e, e->key, &e->nkeys, c == 'K', optarg);
		break;
	case 'a':
		e->ca = optarg;
		break;
	case 't':
		e->timeout = number(e, optarg, 1, TIMEOUT_MAX) * INT64_C(1000);
		break;
	case 'v':
		e->verify = host(e, optarg);
		break;
	case 's':
		e->sni = host(e, optarg);
		break;
	case 'f':
		if (!fingerprint_are(optarg))
			engine_fail(e, EX_USAGE, "\"%s\" is not a SHA-256 "
			    "fingerprint", optarg);
		e->pins = optarg;
		break;
	case 'l':
		e->listen = optarg;
		break;
	case 'i':
		e->idle = number(e, optarg, 1, TIMEOUT_MAX) * INT64_C(1000);
		break;
	case ':':
		engine_fail(e, EX_USAGE, "option %s needs an argument", word);
	default:
		engine_fail(e, EX_USAGE, "option %s is not known", word);
	}
}

void
engine_options(struct engine *e, int argc, char *argv[])
{
	const char *role = argc > 1 ? argv[1] : "";
	const struct option *known = client_options;
	int c;

	e->resident = !e->handed && strcmp(role, "resident") == 0;
	e->check = strcmp(role, "check") == 0;
	e->digest = !e->handed && strcmp(role, "digest") == 0;
	e->server = e->resident || e->check ||
	    strcmp(role, "server") == 0;
	if (e->resident) {
		known = resident_options;
		e->report = STDERR_FILENO;
	} else if (e->server)
		known = e->handed ? handed_options : server_options;
	else if (e->digest)
		known = no_options;
	else if (strcmp(role, "client") != 0)
		engine_fail(e, EX_USAGE,
		    "the first argument is server, client, "
		    "resident, check or digest");
	argc--;
	argv++;
	optind = 0;	/* from the beginning, also for a second time */
	while ((c = getopt_long(argc, argv, "+:", known, NULL)) != -1)
		option(e, c, argv[optind - 1]);
	if (optind != argc)
		engine_fail(e, EX_USAGE, "argument %s is one too many",
		    argv[optind]);
	if (e->check && e->ncerts == 0 && e->nkeys == 0)
		return;		/* a client's authorities are looked at */
	if (e->server && (e->ncerts == 0 || e->ncerts != e->nkeys))
		engine_fail(e, EX_USAGE, "a server needs certificates, and a "
		    "key for each");
}

/* ---- Descriptors and rights ---- */

/* The lowest descriptor from n on that is ours to keep, or -1. */
static int
kept(const struct engine *e, int n)
{
	int fd = e->report >= n ? e->report : -1;
	size_t i;

	for (i = 0; i < e->ncerts; i++) {
		if (e->cert[i].fd >= n && (fd == -1 || e->cert[i].fd < fd))
			fd = e->cert[i].fd;
		if (e->key[i].fd >= n && (fd == -1 || e->key[i].fd < fd))
			fd = e->key[i].fd;
	}
	return fd;
}

/* Closes what we inherited and were not told of. */
static void
close_others(const struct engine *e)
{
	int from, next, fd, end;
	long limit;

	for (from = STDERR_FILENO; from > 0; from = next + 1) {
		next = kept(e, from);
		if (next == from)
			continue;
		if (close_range((unsigned)from, next == -1 ? UINT_MAX :
		    (unsigned)next - 1, 0) == -1) {
			limit = sysconf(_SC_OPEN_MAX);
			end = next != -1 ? next :
			    limit < INT_MAX ? (int)limit : INT_MAX;
			for (fd = from; fd < end; fd++)
				close(fd);
		}
	}
}

static void
check_descriptors(struct engine *e)
{
	static const char *const what[] = { "the connection",
		"the clear-text end" };
	socklen_t len;
	int fd, type, flags;

	for (fd = STDIN_FILENO; fd <= STDOUT_FILENO; fd++) {
		len = sizeof type;
		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == -1 ||
		    type != SOCK_STREAM)
			engine_fail(e, EX_USAGE, "descriptor %d, %s, is not a "
			    "stream socket", fd, what[fd]);
		flags = fcntl(fd, F_GETFL);
		if (flags == -1 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == -1)
			engine_fail(e, EX_OSERR, "descriptor %d: %s", fd,
			    strerror(errno));
	}
	/* Records are whole: Nagle's algorithm (RFC 896) could only hold the
	   last one back.  Where this is not TCP there is none. */
	type = 1;
	setsockopt(STDIN_FILENO, IPPROTO_TCP, TCP_NODELAY, &type, sizeof type);
}

#ifdef CONFINE_ARCH
/* The system calls of handshake and pump. */
static const struct sock_filter calls[] = {
	CONFINE_BEGIN,
	CONFINE_ALLOW(poll, futex, getpid, time, gettimeofday, getrandom),
	CONFINE_ALLOW_OPTION(IPPROTO_TCP, TCP_QUICKACK),
	CONFINE_END
};
#define CALLS (sizeof calls / sizeof calls[0])
#else
static const struct sock_filter calls[1];
#define CALLS 0
#endif

/* Appends the common name in name, or nothing. */
static void
put_common_name(struct text *t, const char *what, const X509_NAME *name)
{
	int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
	unsigned char *p = NULL;
	int len = 0;

	if (at >= 0)
		len = ASN1_STRING_to_UTF8(&p, X509_NAME_ENTRY_get_data(
		    X509_NAME_get_entry(name, at)));
	put_value(t, what, (const char *)p, len > 0 ? (size_t)len : 0, 0xff);
	OPENSSL_free(p);
}

/* Appends the SHA-256 of the certificate. */
static void
put_fingerprint(struct text *t, const X509 *peer)
{
	unsigned char md[EVP_MAX_MD_SIZE];
	char hex[3 * sizeof md + 1] = "";
	unsigned i, n = 0;
	size_t len = 0;

	if (!X509_digest(peer, EVP_sha256(), md, &n))
		n = 0;
	for (i = 0; i < n; i++)
		len += (size_t)snprintf(hex + len, sizeof hex - len, "%s%02X",
		    i == 0 ? "" : ":", md[i]);
	put_value(t, "fingerprint", hex, n > 0 ? len : 0, 0x7e);
}

/* Reports what the handshake came to. */
static void
report(struct engine *e)
{
	struct text t = { .len = 0 };
	const char *protocol = SSL_get_version(e->ssl);
	const char *cipher = SSL_get_cipher_name(e->ssl);
	const char *sni = SSL_get_servername(e->ssl, TLSEXT_NAMETYPE_host_name);
	X509 *peer = NULL;

	if (e->report != REPORT_FD)
		return;
	/* The ticket has the result of the first handshake. */
	if (e->server && e->ca != NULL && SSL_session_reused(e->ssl))
		e->verified = SSL_get_verify_result(e->ssl) == X509_V_OK;
	if (e->verified || e->verify != NULL || e->pins != NULL)
		peer = SSL_get0_peer_certificate(e->ssl);
	put_value(&t, "protocol", protocol, strlen(protocol), 0x7e);
	put_value(&t, "cipher", cipher, strlen(cipher), 0x7e);
	put_value(&t, "sni", sni, sni != NULL ? strlen(sni) : 0, 0x7e);
	if (peer != NULL) {
		put_common_name(&t, "subject", X509_get_subject_name(peer));
		put_common_name(&t, "issuer", X509_get_issuer_name(peer));
		put_fingerprint(&t, peer);
	} else {
		put_value(&t, "subject", NULL, 0, 0);
		put_value(&t, "issuer", NULL, 0, 0);
		put_value(&t, "fingerprint", NULL, 0, 0);
	}
	send_report(e, &t);
}

/* Says that nobody can look into this process, and hashes for it that
   started us. */
static _Noreturn void
run_digest(struct engine *e)
{
	struct text t = { .len = 0 };

	close_others(e);
	context_start(e);
	confine(calls, CALLS);
	put_value(&t, "ready", "1", 1, 0x7e);
	if (e->report == REPORT_FD)
		send_report(e, &t);
	digest_run(e);
}

int
engine_serve(struct engine *e)
{
	SSL_CTX *ctx;

	close_others(e);
	check_descriptors(e);
	e->deadline = clock_now() + e->timeout;
	if (e->ssl == NULL) {
		ctx = context_new(e);
		context_connect(e, ctx);
		SSL_CTX_free(ctx);
	}
	/* The program goes on without what the kernel lacks: the process that
	   started it has logged that. */
	confine(calls, CALLS);
	pump_handshake(e);
	SSL_certs_clear(e->ssl);
	tickets_forget();
	if (e->pins != NULL && !pins_match(e))
		engine_fail(e, EX_NOPERM, "the certificate has another "
		    "fingerprint");
	report(e);
	return pump_run(e);
}

/* Answers --help or --version, which stand alone.  False if word is neither. */
static bool
answer_about(const char *word)
{
	static const char help[] =
	    "usage: smtpd-tls server [OPTION]... --cert FILE --key FILE\n"
	    "       smtpd-tls client [OPTION]...\n"
	    "       smtpd-tls check [OPTION]... [--cert FILE --key FILE]\n"
	    "       smtpd-tls digest\n"
	    "       smtpd-tls resident [OPTION]... --cert FILE --key FILE\n"
	    "Speaks TLS on one connection for smtpd, which starts it.\n"
	    "\n"
	    "smtpd-tls(8) explains the options:\n"
	    "      --cert FILE          certificate chain of a server\n"
	    "      --key FILE           its private key\n"
	    "      --certfd N           the same, open as descriptor N\n"
	    "      --keyfd N            the same, open as descriptor N\n"
	    "      --ca FILE            authorities of the other side\n"
	    "      --timeout SECONDS    time for the handshake (60)\n"
	    "      --verify NAME        the server must be NAME\n"
	    "      --sni NAME           the name to ask the server for\n"
	    "      --fingerprint SHA256,...\n"
	    "                           of the server's certificate\n"
	    "      --listen PATH        resident: listen on this unix socket\n"
	    "      --idle SECONDS       resident: end when idle for so long\n"
	    "  -V, --version            print the version\n"
	    "  -h, --help               print this\n";

	if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
		dprintf(STDOUT_FILENO, "%s", help);
	else if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
		dprintf(STDOUT_FILENO, "smtpd-tls %s\n", VERSION);
	else
		return false;
	return true;
}

int
main(int argc, char *argv[])
{
	static struct engine engine;	/* most of it is never touched */
	struct engine *e = &engine;

	if (argc == 2 && answer_about(argv[1]))
		return EX_OK;
	signal(SIGPIPE, SIG_IGN);	/* EPIPE says it */
	confine_secrets();
	e->report = fcntl(REPORT_FD, F_GETFD) != -1 ? REPORT_FD : STDERR_FILENO;
	e->timeout = TIMEOUT_SECONDS * 1000;
	engine_options(e, argc, argv);
	if (e->check) {
		e->report = STDERR_FILENO;
		context_start(e);
		if (e->ncerts == 0)
			_exit(check_trusted(e));
		context_connect(e, context_new(e));
		_exit(check_certificates(e));
	}
	if (e->digest)
		run_digest(e);
	context_start(e);
	_exit(e->resident ? resident_run(e) : engine_serve(e));
}
