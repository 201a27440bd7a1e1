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
 *  1. It reads certificates and keys, and gives up every other right.
 *  2. It shakes hands until a deadline, reports, and forgets the keys.
 *  3. It pumps.  Each direction is a flow with one buffer, which is filled
 *     only when it is empty: that is the backpressure.  A flow ends by
 *     itself; when both have ended, so does the program.
 */
#define _GNU_SOURCE	/* close_range, explicit_bzero, memmem, syscall */
#include <sys/socket.h>
#include <sys/stat.h>


#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "monitor/confine.h"

#include <openssl/decoder.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#define PAIRS_MAX 4		/* certificates, with their keys */
#define FILE_MAX 4194304	/* octets of a file of them */
#define FLOW_BUFFER 65536	/* octets; four records (RFC 8446 5.1) */
#define REPORT_FD 3
#define REPORT_TEXT 1024	/* octets of a report, with NUL */
#define VALUE_MAX 255		/* octets of one of its values */
#define TIMEOUT_SECONDS 60
#define TIMEOUT_MAX 86400	/* seconds that --timeout takes */
#define DRAIN_MAX 16		/* buffers read and dropped at the end */

/* Forward secrecy for everyone; the cipher suites of TLS 1.3 all have it. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES"

/* A file, or a descriptor that somebody opened for us (path is NULL). */
struct source {
	const char *path;
	int fd;
};

/* The DER of one CA certificate. */
struct blob {
	unsigned char *p;
	long len;
};

/* One direction. */
struct flow {
	size_t start, len;	/* the octets in buffer that wait */
	bool eof;		/* the source has ended */
	bool done;		/* and the sink was told, or is gone */
	short conn, clear;	/* what it waits for: POLLIN, POLLOUT, 0 */
	char buffer[FLOW_BUFFER];
};

struct engine {
	bool server;
	struct source cert[PAIRS_MAX], key[PAIRS_MAX];
	size_t ncerts, nkeys;
	const char *ca, *verify, *sni;	/* or NULL */
	int64_t timeout;	/* milliseconds */
	int64_t deadline;	/* of CLOCK_MONOTONIC, milliseconds; -1: none */
	int report;		/* descriptor; -1: the report is out */
	struct blob *trusted;
	size_t ntrusted;
	SSL *ssl;
	bool verified;		/* the peer has a certificate we trust */
	bool hung;		/* the clear-text end was closed */
	bool broken;		/* the connection can carry no more */
	size_t heard;		/* octets since something was written to it */
	struct flow in, out;	/* to the clear text, and from it */
};

struct text {
	size_t len;
	char p[REPORT_TEXT];
};

/* Milliseconds of CLOCK_MONOTONIC. */
static int64_t
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/*
 * Appends a line.  It stays one line, and moves no cursor: control characters
 * become '?', those of Unicode's C1 too, and so do octets above top, which is
 * 0x7e for ASCII and 0xff for UTF-8.
 */
static void
put(struct text *t, const char *name, const char *value, size_t len,
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

/* Says what went wrong, if there is still somebody to tell, and exits. */
static _Noreturn void __attribute__((format(printf, 3, 4)))
fail(struct engine *e, int status, const char *fmt, ...)
{
	struct text t = { .len = 0 };
	char why[VALUE_MAX + 1];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	if (e->report == REPORT_FD) {
		put(&t, "error", why, strlen(why), 0xff);
		send_report(e, &t);
	} else if (e->report == STDERR_FILENO)
		dprintf(STDERR_FILENO, "smtpd-tls: %s\n", why);
	_exit(status);
}

/*
 * What OpenSSL complained of first; otherwise is what it means if it did not.
 * prepare() has left out the words of libcrypto: where libssl, or the system,
 * has none either there is the number, for "openssl errstr".
 */
static const char *
reason(const char *otherwise)
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

/* Command line */

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
	{ "ca", required_argument, NULL, 'a' },
	{ "timeout", required_argument, NULL, 't' },
	{ NULL, 0, NULL, 0 },
};

/* The number in text, which must be digits alone and in min..max. */
static int
number(struct engine *e, const char *text, int min, int max)
{
	long n = 0;
	size_t i;

	for (i = 0; text[i] >= '0' && text[i] <= '9' && n <= max; i++)
		n = n * 10 + (text[i] - '0');
	if (i == 0 || text[i] != '\0' || n < min || n > max)
		fail(e, EX_USAGE, "\"%s\" is not a number from %d to %d", text,
		    min, max);
	return (int)n;
}

/* One more certificate or key. */
static void
add(struct engine *e, struct source list[], size_t *n, bool descriptor,
    const char *arg)
{
	if (*n == PAIRS_MAX)
		fail(e, EX_USAGE, "more than %d certificates or keys",
		    PAIRS_MAX);
	list[*n].path = descriptor ? NULL : arg;
	list[*n].fd = descriptor ? number(e, arg, REPORT_FD + 1, INT_MAX) : -1;
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
		fail(e, EX_USAGE, "\"%s\" is not a host's name", name);
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
	case ':':
		fail(e, EX_USAGE, "option %s needs an argument", word);
	default:
		fail(e, EX_USAGE, "option %s is not known", word);
	}
}

static void
options(struct engine *e, int argc, char *argv[])
{
	const char *role = argc > 1 ? argv[1] : "";
	int c;

	e->server = strcmp(role, "server") == 0;
	if (!e->server && strcmp(role, "client") != 0)
		fail(e, EX_USAGE, "the first argument is server or client");
	argc--;
	argv++;
	while ((c = getopt_long(argc, argv, "+:", e->server ? server_options :
	    client_options, NULL)) != -1)
		option(e, c, argv[optind - 1]);
	if (optind != argc)
		fail(e, EX_USAGE, "argument %s is one too many", argv[optind]);
	if (e->server && (e->ncerts == 0 || e->ncerts != e->nkeys))
		fail(e, EX_USAGE, "a server needs certificates, and a key for "
		    "each");
}

/* Descriptors and rights */

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
	long i, end, limit;
	int from, next;

	for (from = STDERR_FILENO;; from = next + 1) {
		next = kept(e, from);
		if (next == from)
			continue;
		if (close_range((unsigned)from, next == -1 ? UINT_MAX :
		    (unsigned)next - 1, 0) == -1) {
			limit = sysconf(_SC_OPEN_MAX);
			end = next == -1 ? limit : next;
			for (i = from; i < end; i++)
				close((int)i);
		}
		if (next == -1)
			return;
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
			fail(e, EX_USAGE, "descriptor %d, %s, is not a stream "
			    "socket", fd, what[fd]);
		flags = fcntl(fd, F_GETFL);
		if (flags == -1 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == -1)
			fail(e, EX_OSERR, "descriptor %d: %s", fd,
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

/* OpenSSL's memory: whatever it frees is wiped, because it is careful with
   keys once they are keys, but not with the text and DER that they come in. */

static void *
take(size_t size, const char *file, int line)
{
	(void)file, (void)line;
	return malloc(size);
}

static void
wipe(void *p, const char *file, int line)
{
	(void)file, (void)line;
	if (p != NULL)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}

static void *
resize(void *p, size_t size, const char *file, int line)
{
	size_t old = p != NULL ? malloc_usable_size(p) : 0;
	void *fresh;

	if (p != NULL && size != 0 && size <= old)
		return p;
	fresh = size != 0 ? malloc(size) : NULL;
	if (fresh != NULL && p != NULL)
		memcpy(fresh, p, old);
	if (fresh != NULL || size == 0)
		wipe(p, file, line);
	return fresh;
}

/* Certificates */

/* Says why s can not be read: errno. */
static _Noreturn void
unreadable(struct engine *e, const struct source *s, const char *what)
{
	const char *why = strerror(errno);

	if (s->path != NULL)
		fail(e, EX_CONFIG, "cannot read the %s %s: %s", what, s->path,
		    why);
	fail(e, EX_CONFIG, "cannot read the %s in descriptor %d: %s", what,
	    s->fd, why);
}

/* Reads all of s into memory that the caller frees.  A descriptor is read
   from its start, wherever others that share it are, and left open. */
static char *
slurp(struct engine *e, const struct source *s, const char *what, size_t *len)
{
	int fd = s->path == NULL ? s->fd : open(s->path, O_RDONLY | O_CLOEXEC);
	size_t size = FILE_MAX;
	struct stat st;
	ssize_t n = -1;
	char *p;

	if (fd == -1 || fstat(fd, &st) == -1)
		unreadable(e, s, what);
	if (S_ISREG(st.st_mode) && st.st_size < FILE_MAX)
		size = (size_t)st.st_size + 1;
	p = malloc(size);
	for (*len = 0; p != NULL && *len < size; *len += (size_t)n) {
		n = pread(fd, p + *len, size - *len, (off_t)*len);
		if (n == -1 && errno == ESPIPE)
			n = read(fd, p + *len, size - *len);
		if (n <= 0)
			break;
	}
	if (n > 0)
		errno = EFBIG;
	if (n != 0)
		unreadable(e, s, what);
	if (s->path != NULL)
		close(fd);
	return p;
}

/* How messages, which are our last words, call it: a descriptor was opened by
   some name, and that is what can be looked at. */
static const char *
name_of(const struct source *s)
{
	char link[sizeof "/proc/self/fd/" + 3 * sizeof s->fd], *name;

	if (s->path != NULL)
		return s->path;
	snprintf(link, sizeof link, "/proc/self/fd/%d", s->fd);
	name = calloc(1, PATH_MAX);
	if (name == NULL || readlink(link, name, PATH_MAX - 1) == -1)
		return "given as a descriptor";
	return name;
}

/* No passphrase: there is nobody to ask. */
static int
no_passphrase(char *buffer, int size, int writing, void *ctx)
{
	(void)buffer, (void)size, (void)writing, (void)ctx;
	return -1;
}

/* True if reading PEM ended because there was no more of it. */
static bool
pem_ended(void)
{
	unsigned long code = ERR_peek_last_error();

	return ERR_GET_LIB(code) == ERR_LIB_PEM &&
	    ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
}

/* Reads a certificate, and behind it the chain to its CA.  Returns it, owned
   by the caller. */
static X509 *
load_certificate(struct engine *e, const struct source *s)
{
	size_t len;
	char *p = slurp(e, s, "certificate", &len);
	BIO *bio = BIO_new_mem_buf(p, (int)len);
	X509 *leaf = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL), *x;

	if (leaf == NULL)
		fail(e, EX_CONFIG, "the certificate %s is not one in PEM form",
		    name_of(s));
	if (SSL_use_certificate(e->ssl, leaf) != 1)
		fail(e, EX_CONFIG, "the certificate %s can not be used: %s",
		    name_of(s), reason("no memory"));
	while ((x = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL)
		if (SSL_add0_chain_cert(e->ssl, x) != 1)
			fail(e, EX_CONFIG, "the chain of the certificate %s "
			    "can not be used: %s", name_of(s),
			    reason("no memory"));
	if (!pem_ended())
		fail(e, EX_CONFIG, "the chain of the certificate %s is "
		    "damaged: %s", name_of(s), reason("no memory"));
	ERR_clear_error();
	BIO_free(bio);
	free(p);
	return leaf;
}

/*
 * The first private key in bio, if it is in the clear and of leaf's kind; else
 * NULL, whatever the reason.  PEM_read_bio_PrivateKey() takes any kind, and
 * for that has OpenSSL 3 prepare all its decoders: a quarter of what this
 * program executes before the handshake is over.
 */
static EVP_PKEY *
expected_key(BIO *bio, X509 *leaf)
{
	const char *kind = EVP_PKEY_get0_type_name(X509_get0_pubkey(leaf));
	OSSL_DECODER_CTX *decoder;
	const unsigned char *p;
	unsigned char *der;
	EVP_PKEY *key = NULL;
	size_t left;
	long len;

	if (!PEM_bytes_read_bio(&der, &len, NULL, PEM_STRING_EVP_PKEY, bio,
	    no_passphrase, NULL))
		return NULL;
	p = der;
	left = (size_t)len;
	decoder = OSSL_DECODER_CTX_new_for_pkey(&key, "DER", NULL, kind,
	    EVP_PKEY_KEYPAIR, NULL, NULL);
	if (decoder != NULL)
		OSSL_DECODER_from_data(decoder, &p, &left);
	OSSL_DECODER_CTX_free(decoder);
	OPENSSL_free(der);
	return key;
}

/* Reads the key of the certificate that was loaded last.  Returns its kind. */
static int
load_key(struct engine *e, const struct source *s, X509 *leaf,
    const struct source *cert)
{
	size_t len;
	char *p = slurp(e, s, "key", &len);
	BIO *bio = BIO_new_mem_buf(p, (int)len);
	EVP_PKEY *key = expected_key(bio, leaf);
	int kind;

	if (key == NULL && BIO_reset(bio) == 1)
		key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	ERR_clear_error();
	BIO_free(bio);
	explicit_bzero(p, len);
	free(p);
	if (key == NULL)
		fail(e, EX_CONFIG, "the key %s is not an unencrypted private "
		    "key in PEM form", name_of(s));
	if (X509_check_private_key(leaf, key) != 1)
		fail(e, EX_CONFIG, "the key %s does not match the certificate "
		    "%s", name_of(s), name_of(cert));
	if (SSL_use_PrivateKey(e->ssl, key) != 1)
		fail(e, EX_CONFIG, "the key %s can not be used: %s",
		    name_of(s), reason("no memory"));
	kind = EVP_PKEY_get_base_id(key);
	EVP_PKEY_free(key);
	return kind;
}

/* Certificates and keys belong to e->ssl and not to its SSL_CTX, so that
   they can be dropped once the handshake is over. */
static void
load_pairs(struct engine *e)
{
	int kinds[PAIRS_MAX];
	size_t i, j;
	X509 *leaf;

	for (i = 0; i < e->ncerts; i++) {
		leaf = load_certificate(e, &e->cert[i]);
		kinds[i] = load_key(e, &e->key[i], leaf, &e->cert[i]);
		X509_free(leaf);
		for (j = 0; j < i; j++)
			if (kinds[j] == kinds[i])
				fail(e, EX_CONFIG, "the certificates %s and %s "
				    "have the same kind of key",
				    name_of(&e->cert[j]), name_of(&e->cert[i]));
	}
	for (i = 0; i < e->ncerts; i++) {
		if (e->cert[i].fd != -1)
			close(e->cert[i].fd);
		if (e->key[i].fd != -1)
			close(e->key[i].fd);
	}
}

/* Trust */

/* Where the CA certificates of this system are, in one file. */
static const char *
system_ca(struct engine *e)
{
	const char *const places[] = {
		X509_get_default_cert_file(),
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
	};
	const char *path = getenv(X509_get_default_cert_file_env());
	size_t i;

	if (path != NULL)
		return path;
	for (i = 0; i < sizeof places / sizeof places[0]; i++)
		if (access(places[i], R_OK) == 0)
			return places[i];
	fail(e, EX_CONFIG, "there is no file of CA certificates in any of the "
	    "usual places");
}

/*
 * Reads the CA certificates.  They stay DER until one is asked for: OpenSSL
 * needs 20 to 30 ms for the 140 of a whole system, and one or two are used.
 */
static void
load_trusted(struct engine *e)
{
	struct source s = { e->ca != NULL ? e->ca : system_ca(e), -1 };
	size_t len;
	char *p = slurp(e, &s, "CA certificates", &len), *name, *header;
	BIO *bio = BIO_new_mem_buf(p, (int)len);
	struct blob *list, b;

	while (PEM_read_bio(bio, &name, &header, &b.p, &b.len) == 1) {
		if (strcmp(name, PEM_STRING_X509) == 0) {
			list = reallocarray(e->trusted, e->ntrusted + 1,
			    sizeof *list);
			if (list == NULL)
				fail(e, EX_OSERR, "no memory");
			e->trusted = list;
			e->trusted[e->ntrusted++] = b;
		} else
			OPENSSL_free(b.p);
		OPENSSL_free(name);
		OPENSSL_free(header);
	}
	if (!pem_ended())
		fail(e, EX_CONFIG, "the CA certificates %s are damaged: %s",
		    s.path, reason("no memory"));
	if (e->ntrusted == 0)
		fail(e, EX_CONFIG, "there are no CA certificates in %s",
		    s.path);
	ERR_clear_error();
	BIO_free(bio);
	free(p);
}

/* OpenSSL wants the CA of that name: adds those that have it to the store. */
static int
find_ca(X509_LOOKUP *lookup, X509_LOOKUP_TYPE type, const X509_NAME *name,
    X509_OBJECT *found)
{
	const struct engine *e = X509_LOOKUP_get_method_data(lookup);
	const unsigned char *der, *p;
	size_t i, len;
	int n = 0;
	X509 *x;

	if (type != X509_LU_X509 || !X509_NAME_get0_der(name, &der, &len))
		return 0;
	for (i = 0; i < e->ntrusted; i++) {
		p = e->trusted[i].p;
		if (memmem(p, (size_t)e->trusted[i].len, der, len) == NULL)
			continue;
		x = d2i_X509(NULL, &p, e->trusted[i].len);
		if (x == NULL)
			continue;
		if (X509_NAME_cmp(X509_get_subject_name(x), name) == 0 &&
		    X509_STORE_add_cert(X509_LOOKUP_get_store(lookup), x) &&
		    n++ == 0) {
			X509_OBJECT_set1_X509(found, x);
			/* The caller counts its reference once more:
			   X509_LOOKUP_meth_new(3). */
			X509_free(x);
		}
		X509_free(x);
	}
	return n > 0;
}

/* For a server: a client whose certificate is not good is a client without
   one, and not a failure, because mail servers show whatever they have. */
static int
verify_client(X509_STORE_CTX *store, void *ctx)
{
	struct engine *e = ctx;

	e->verified = X509_verify_cert(store) == 1;
	return 1;
}

/* Asks the peer for a certificate, and verifies it.  Whatever the file names
   is trusted, be it a root, a CA below one or the peer's own certificate. */
static void
demand_certificate(struct engine *e, SSL_CTX *ctx)
{
	X509_LOOKUP_METHOD *method = X509_LOOKUP_meth_new("memory");
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	X509_LOOKUP *lookup;

	load_trusted(e);
	if (method == NULL ||
	    !X509_LOOKUP_meth_set_get_by_subject(method, find_ca) ||
	    (lookup = X509_STORE_add_lookup(store, method)) == NULL ||
	    !X509_LOOKUP_set_method_data(lookup, e) ||
	    !X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN))
		fail(e, EX_OSERR, "no memory");
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (e->server)
		SSL_CTX_set_cert_verify_callback(ctx, verify_client, e);
}

/* The handshake */

static bool
is_address(const char *name)
{
	struct in6_addr any;

	return inet_pton(AF_INET, name, &any) == 1 ||
	    inet_pton(AF_INET6, name, &any) == 1;
}

/* Tells OpenSSL whom we want to speak to.  RFC 6066 3: names alone. */
static void
set_names(struct engine *e)
{
	const char *sni = e->sni != NULL ? e->sni : e->verify;
	int ok = 1;

	if (e->verify != NULL && is_address(e->verify))
		ok = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(e->ssl),
		    e->verify);
	else if (e->verify != NULL)
		ok = SSL_set1_host(e->ssl, e->verify);
	SSL_set_hostflags(e->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (ok == 1 && sni != NULL && !is_address(sni))
		ok = (int)SSL_ctrl(e->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME,
		    TLSEXT_NAMETYPE_host_name, (void *)(uintptr_t)sni);
	if (ok != 1)
		fail(e, EX_USAGE, "\"%s\" can not be the name of a server",
		    sni);
}

/*
 * Nothing of a session is kept, and so no tickets are given out: every
 * connection has a process of its own, and none could read another's.
 */
static SSL_CTX *
new_context(struct engine *e)
{
	SSL_CTX *ctx = SSL_CTX_new(e->server ? TLS_server_method() :
	    TLS_client_method());

	if (ctx == NULL || !SSL_CTX_set_num_tickets(ctx, 0) ||
	    !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION))
		fail(e, EX_OSERR, "cannot start OpenSSL: %s",
		    reason("no memory"));
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION |
	    SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF);
	/* A buffer is released, and so wiped, when the records that were read
	   have been handed on and no further one has begun: that is why we do
	   without SSL_OP_CLEANSE_PLAINTEXT, a tenth of a large message. */
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
	    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS |
	    SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, FLOW_BUFFER);
	if (!e->server && e->verify == NULL)
		/* Whoever it is: better any encryption than none (RFC 7435). */
		SSL_CTX_set_security_level(ctx, 0);
	else if (!SSL_CTX_set_cipher_list(ctx, CIPHERS))
		fail(e, EX_SOFTWARE, "OpenSSL has none of our ciphers");
	return ctx;
}

/*
 * Gets everything ready.  OpenSSL's configuration is not read: what we speak
 * is what is written here, no file or variable can load code beside the key,
 * and it would cost half a millisecond, as would the names of all ciphers and
 * the words for all errors.
 */
static void
prepare(struct engine *e)
{
	SSL_CTX *ctx;

	if (!CRYPTO_set_mem_functions(take, resize, wipe) ||
	    !OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG |
	    OPENSSL_INIT_NO_ADD_ALL_CIPHERS | OPENSSL_INIT_NO_ATEXIT |
	    OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS, NULL) ||
	    RAND_status() != 1)
		fail(e, EX_OSERR, "cannot start OpenSSL: %s",
		    reason("no entropy"));
	ctx = new_context(e);
	if (e->server ? e->ca != NULL : e->verify != NULL)
		demand_certificate(e, ctx);
	e->ssl = SSL_new(ctx);
	SSL_CTX_free(ctx);
	if (e->ssl == NULL || SSL_set_fd(e->ssl, STDIN_FILENO) != 1)
		fail(e, EX_OSERR, "no memory");
	if (e->server) {
		load_pairs(e);
		SSL_set_accept_state(e->ssl);
	} else {
		set_names(e);
		SSL_set_connect_state(e->ssl);
	}
}

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

	if (e->deadline != -1 && (left = e->deadline - now()) <= 0)
		return false;
	if (poll(fds, 2, (int)left) > 0 && !e->hung &&
	    (fds[1].revents & (POLLHUP | POLLERR)) != 0) {
		e->hung = true;
		finish(&e->in);
		e->deadline = now() + e->timeout;
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
		fail(e, EX_PROTOCOL, "the certificate of %s can not be "
		    "trusted: %s", e->verify,
		    X509_verify_cert_error_string(verdict));
	if (ERR_peek_error() == 0)
		fail(e, EX_PROTOCOL, "the connection ended during the TLS "
		    "handshake%s%s", err != 0 ? ": " : "",
		    err != 0 ? strerror(err) : "");
	fail(e, EX_PROTOCOL, "the TLS handshake failed: %s",
	    reason("an error without a name"));
}

/* Who has said something, and is not answered yet, may hold back what he has
   to say next until that is acknowledged (RFC 896); which TCP does not hurry
   to do in a dialogue.  Both would wait for 40 ms. */
static void
acknowledge(void)
{
	const int yes = 1;

	setsockopt(STDIN_FILENO, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof yes);
}

static void
shake_hands(struct engine *e)
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
		fail(e, EX_IOERR, "the clear-text end was closed during the "
		    "TLS handshake");
	fail(e, EX_TEMPFAIL, "the TLS handshake did not end within %d s",
	    (int)(e->timeout / 1000));
}

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
	put(t, what, (const char *)p, len > 0 ? (size_t)len : 0, 0xff);
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
	put(t, "fingerprint", hex, n > 0 ? len : 0, 0x7e);
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
	if (e->verified || e->verify != NULL)
		peer = SSL_get0_peer_certificate(e->ssl);
	put(&t, "protocol", protocol, strlen(protocol), 0x7e);
	put(&t, "cipher", cipher, strlen(cipher), 0x7e);
	put(&t, "sni", sni, sni != NULL ? strlen(sni) : 0, 0x7e);
	if (peer != NULL) {
		put_common_name(&t, "subject", X509_get_subject_name(peer));
		put_common_name(&t, "issuer", X509_get_issuer_name(peer));
		put_fingerprint(&t, peer);
	} else {
		put(&t, "subject", NULL, 0, 0);
		put(&t, "issuer", NULL, 0, 0);
		put(&t, "fingerprint", NULL, 0, 0);
	}
	send_report(e, &t);
}

/* The pump */

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

/* More than a command line (RFC 5321 4.5.3.1.4) is no dialogue. */
static void
notice_text(struct engine *e, size_t more)
{
	const bool known = e->heard > 512;

	e->heard += more;
	if (!known && e->heard > 512)
		acknowledge();
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
	/* Who writes on learns it by EPIPE. */
	if (f->done)
		shutdown(STDOUT_FILENO, SHUT_RD);
}

/* True if there is no use in trying f again before something happened. */
static bool
idle(const struct flow *f)
{
	return f->done || f->conn != 0 || f->clear != 0;
}

/* Returns the exit status. */
static int
pump(struct engine *e)
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

int
main(int argc, char *argv[])
{
	static struct engine engine;	/* most of it is never touched */
	struct engine *e = &engine;

	signal(SIGPIPE, SIG_IGN);	/* EPIPE says it */
	confine_secrets();
	e->report = fcntl(REPORT_FD, F_GETFD) != -1 ? REPORT_FD : STDERR_FILENO;
	e->timeout = TIMEOUT_SECONDS * 1000;
	options(e, argc, argv);
	close_others(e);
	check_descriptors(e);
	e->deadline = now() + e->timeout;
	prepare(e);
	/* What the kernel lacks we do without: who started us has said so. */
	confine(calls, CALLS);
	shake_hands(e);
	SSL_certs_clear(e->ssl);
	report(e);
	_exit(pump(e));
}
