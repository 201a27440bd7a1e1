/*
 * certs.c - the certificates and keys that smtpd-tls shows, and those that it
 * trusts.
 */
#define _GNU_SOURCE	/* explicit_bzero, memmem, reallocarray */
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "tls/tls.h"

#define FILE_MAX 4194304	/* octets of a file of certificates or keys */

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

/* Says why s cannot be read: errno. */
static _Noreturn void
unreadable(struct engine *e, const struct source *s, const char *what)
{
	const char *why = strerror(errno);

	engine_fail(e, EX_CONFIG, "cannot read the %s %s: %s", what, name_of(s),
	    why);
}

/* Gives the text back, and what reads it. */
static void
drop_text(struct reading *r)
{
	BIO_free(r->bio);
	free(r->text);
	r->bio = NULL;
	r->text = NULL;
}

void
certs_drop(struct engine *e)
{
	struct reading *r = &e->reading;

	if (r->text != NULL)
		explicit_bzero(r->text, r->len);
	drop_text(r);
	X509_free(r->leaf);
	EVP_PKEY_free(r->key);
	r->leaf = NULL;
	r->key = NULL;
}

/* Opens the text of s for reading, until drop_text().  A descriptor is read
   from its start, wherever others that share it are, and left open. */
static BIO *
slurp(struct engine *e, const struct source *s, const char *what)
{
	int fd = s->path == NULL ? s->fd : open(s->path, O_RDONLY | O_CLOEXEC);
	struct reading *r = &e->reading;
	size_t size = FILE_MAX;
	struct stat st;
	ssize_t n = -1;
	int error;

	if (fd == -1 || fstat(fd, &st) == -1)
		unreadable(e, s, what);
	if (S_ISREG(st.st_mode) && st.st_size < FILE_MAX)
		size = (size_t)st.st_size + 1;
	r->len = 0;
	r->text = malloc(size);
	while (r->text != NULL && r->len < size) {
		n = pread(fd, r->text + r->len, size - r->len, (off_t)r->len);
		if (n == -1 && errno == ESPIPE)
			n = read(fd, r->text + r->len, size - r->len);
		if (n <= 0)
			break;
		r->len += (size_t)n;
	}
	error = n > 0 ? EFBIG : errno;
	if (s->path != NULL)
		close(fd);
	errno = error;
	if (n != 0)
		unreadable(e, s, what);
	r->bio = BIO_new_mem_buf(r->text, (int)r->len);
	return r->bio;
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

/* Reads a certificate, which becomes e->reading.leaf, and after it the chain to
   its CA. */
static void
load_certificate(struct engine *e, const struct source *s)
{
	BIO *bio = slurp(e, s, "certificate");
	X509 *leaf = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL), *x;

	e->reading.leaf = leaf;
	if (leaf == NULL)
		engine_fail(e, EX_CONFIG, "the certificate %s is not one in "
		    "PEM form", name_of(s));
	if (SSL_use_certificate(e->ssl, leaf) != 1)
		engine_fail(e, EX_CONFIG, "the certificate %s cannot be used: "
		    "%s", name_of(s), engine_reason("no memory"));
	while ((x = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL)
		if (SSL_add0_chain_cert(e->ssl, x) != 1) {
			X509_free(x);
			engine_fail(e, EX_CONFIG, "the chain of the "
			    "certificate %s cannot be used: %s", name_of(s),
			    engine_reason("no memory"));
		}
	if (!pem_ended())
		engine_fail(e, EX_CONFIG, "the chain of the certificate %s is "
		    "damaged: %s", name_of(s), engine_reason("no memory"));
	ERR_clear_error();
	drop_text(&e->reading);
}

/* The first private key in bio, if keys_read() can read it. */
static EVP_PKEY *
usual_key(BIO *bio, const X509 *leaf)
{
	unsigned char *der;
	char *form;
	EVP_PKEY *key;
	long len;

	if (!PEM_bytes_read_bio(&der, &len, &form, PEM_STRING_EVP_PKEY, bio,
	    no_passphrase, NULL))
		return NULL;
	key = keys_read(form, der, len, X509_get0_pubkey(leaf));
	OPENSSL_free(form);
	OPENSSL_free(der);
	return key;
}

/* Is it the key of a certificate that was taken for the chain? */
static bool
is_of_chain(struct engine *e, EVP_PKEY *key)
{
	STACK_OF(X509) *chain = NULL;
	bool found = false;

	SSL_get0_chain_certs(e->ssl, &chain);
	for (int i = 0; i < sk_X509_num(chain) && !found; i++)
		found = X509_check_private_key(sk_X509_value(chain, i), key)
		    == 1;
	return found;
}

/* Reads the key of the certificate that was loaded last.  Returns its kind. */
static int
load_key(struct engine *e, const struct source *s, const struct source *cert)
{
	BIO *bio = slurp(e, s, "key");
	X509 *leaf = e->reading.leaf;
	EVP_PKEY *key = usual_key(bio, leaf);

	if (key == NULL && BIO_reset(bio) == 1)
		key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	e->reading.key = key;
	ERR_clear_error();
	if (key == NULL)
		engine_fail(e, EX_CONFIG, "the key %s is not an unencrypted "
		    "private key in PEM form", name_of(s));
	if (X509_check_private_key(leaf, key) != 1)
		engine_fail(e, EX_CONFIG, "the key %s does not match the "
		    "certificate %s%s", name_of(s), name_of(cert),
		    is_of_chain(e, key) ? ", but one after it: the server's "
		    "own must be the first" : "");
	if (SSL_use_PrivateKey(e->ssl, key) != 1)
		engine_fail(e, EX_CONFIG, "the key %s cannot be used: %s",
		    name_of(s), engine_reason("no memory"));
	return EVP_PKEY_get_base_id(key);
}

/* Certificates and keys belong to e->ssl and not to its SSL_CTX, so that
   they can be dropped once the handshake is over. */
void
certs_load(struct engine *e)
{
	int kinds[PAIRS_MAX];
	size_t i, j;

	for (i = 0; i < e->ncerts; i++) {
		load_certificate(e, &e->cert[i]);
		kinds[i] = load_key(e, &e->key[i], &e->cert[i]);
		certs_drop(e);
		for (j = 0; j < i && kinds[j] != kinds[i]; j++)
			;
		if (j < i)
			engine_fail(e, EX_CONFIG, "the certificates %s and %s "
			    "have the same kind of key", name_of(&e->cert[j]),
			    name_of(&e->cert[i]));
	}
	for (i = 0; i < e->ncerts; i++) {
		if (e->cert[i].fd != -1)
			close(e->cert[i].fd);
		if (e->key[i].fd != -1)
			close(e->key[i].fd);
	}
}

/* ---- Trust ---- */

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
	engine_fail(e, EX_CONFIG, "there is no file of CA certificates in any "
	    "of the usual places: the package ca-certificates has one");
}

/*
 * Reads the CA certificates.  They stay DER until one is asked for: OpenSSL
 * needs 20 to 30 ms for the 140 of a whole system, and one or two are used.
 */
void
certs_trust(struct engine *e)
{
	struct source s = { e->ca != NULL ? e->ca : system_ca(e), -1 };
	BIO *bio = slurp(e, &s, "CA certificates");
	struct blob *list, b;
	char *name, *header;

	while (PEM_read_bio(bio, &name, &header, &b.p, &b.len) == 1) {
		if (strcmp(name, PEM_STRING_X509) == 0) {
			list = reallocarray(e->trusted, e->ntrusted + 1,
			    sizeof *list);
			if (list == NULL)
				engine_fail(e, EX_OSERR, "no memory");
			e->trusted = list;
			e->trusted[e->ntrusted++] = b;
		} else
			OPENSSL_free(b.p);
		OPENSSL_free(name);
		OPENSSL_free(header);
	}
	if (!pem_ended())
		engine_fail(e, EX_CONFIG, "the CA certificates %s are damaged: "
		    "%s", s.path, engine_reason("no memory"));
	if (e->ntrusted == 0)
		engine_fail(e, EX_CONFIG, "there are no CA certificates in %s",
		    s.path);
	ERR_clear_error();
	drop_text(&e->reading);
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
void
certs_demand(struct engine *e, SSL_CTX *ctx)
{
	X509_LOOKUP_METHOD *method = X509_LOOKUP_meth_new("memory");
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	X509_LOOKUP *lookup;

	certs_trust(e);
	if (method == NULL ||
	    !X509_LOOKUP_meth_set_get_by_subject(method, find_ca) ||
	    (lookup = X509_STORE_add_lookup(store, method)) == NULL ||
	    !X509_LOOKUP_set_method_data(lookup, e) ||
	    !X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN))
		engine_fail(e, EX_OSERR, "no memory");
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (e->server)
		SSL_CTX_set_cert_verify_callback(ctx, verify_client, e);
}
