/*
 * digest.c - the role "digest" of smtpd-tls: hashes a password for
 * SCRAM-SHA-256 (RFC 5802 3) and CRAM-MD5 (RFC 2195), once, and ends.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <errno.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "net/digest.h"
#include "tls/tls.h"

#define SHA_LEN 32

static bool
read_all(void *to, size_t len)
{
	char *p = to;
	ssize_t n;

	for (; len > 0; p += n, len -= (size_t)n) {
		do
			n = read(STDOUT_FILENO, p, len);
		while (n == -1 && errno == EINTR);
		if (n <= 0)
			return false;
	}
	return true;
}

static bool
hmac(const EVP_MD *md, const void *key, size_t len, const char *text,
    size_t textlen, unsigned char *to)
{
	return HMAC(md, key, (int)len, (const unsigned char *)text, textlen,
	    to, NULL) != NULL;
}

static bool
scram(const struct digest_question *q, const char *password, const char *salt,
    const char *text, struct digest_answer *a)
{
	const EVP_MD *md = EVP_sha256();
	unsigned char salted[SHA_LEN], key[SHA_LEN] = { 0 }, stored[SHA_LEN];
	unsigned char server[SHA_LEN];
	bool ok = PKCS5_PBKDF2_HMAC(password, (int)q->password,
	    (const unsigned char *)salt, (int)q->salt, (int)q->iterations, md,
	    SHA_LEN, salted) == 1 &&
	    hmac(md, salted, SHA_LEN, "Client Key", 10, key) &&
	    EVP_Digest(key, SHA_LEN, stored, NULL, md, NULL) == 1 &&
	    hmac(md, stored, SHA_LEN, text, q->text, a->proof) &&
	    hmac(md, salted, SHA_LEN, "Server Key", 10, server) &&
	    hmac(md, server, SHA_LEN, text, q->text, a->signature);

	for (size_t i = 0; i < SHA_LEN; i++)
		a->proof[i] ^= key[i];
	explicit_bzero(salted, sizeof salted);
	explicit_bzero(key, sizeof key);
	explicit_bzero(stored, sizeof stored);
	explicit_bzero(server, sizeof server);
	return ok;
}

void
digest_run(struct engine *e)
{
	static char data[DIGEST_TEXT];
	struct digest_question q;
	struct digest_answer a = { { 0 }, { 0 } };
	bool ok;

	if (!read_all(&q, sizeof q))
		_exit(EX_OK);	/* it was not needed */
	if (q.password > sizeof data || q.salt > sizeof data ||
	    q.text > sizeof data || q.iterations < 1 ||
	    q.iterations > DIGEST_ITERATIONS ||
	    (size_t)q.password + q.salt + q.text > sizeof data ||
	    !read_all(data, (size_t)q.password + q.salt + q.text))
		engine_fail(e, EX_PROTOCOL, "not a question");
	if (q.kind == DIGEST_CRAM_MD5)
		ok = hmac(EVP_md5(), data, q.password,
		    data + q.password + q.salt, q.text, a.proof);
	else
		ok = scram(&q, data, data + q.password, data + q.password +
		    q.salt, &a);
	explicit_bzero(data, sizeof data);
	if (!ok || write(STDOUT_FILENO, &a, sizeof a) != (ssize_t)sizeof a)
		engine_fail(e, EX_SOFTWARE, "cannot compute the digest");
	_exit(EX_OK);
}
