/*
 * pins.c - peers that are known by a fingerprint, and not by who signed their
 * certificates: the SHA-256 of the certificate, or of its public key.
 */
#include <string.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "tls/tls.h"

#define SHA_LEN 32

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads one SHA-256.  Returns what follows it, or NULL. */
static const char *
read_pin(const char *p, unsigned char md[SHA_LEN])
{
	size_t i;

	for (i = 0; i < SHA_LEN; i++) {
		if (i > 0 && *p == ':')
			p++;
		if (hex_digit(p[0]) == -1 || hex_digit(p[1]) == -1)
			return NULL;
		md[i] = (unsigned char)(hex_digit(p[0]) << 4 |
		    hex_digit(p[1]));
		p += 2;
	}
	return *p == ',' || *p == '\0' ? p : NULL;
}

bool
pins_valid(const char *list)
{
	unsigned char md[SHA_LEN];

	for (;; list++) {
		list = read_pin(list, md);
		if (list == NULL || *list == '\0')
			return list != NULL;
	}
}

bool
pins_match(const struct engine *e)
{
	X509 *peer = SSL_get0_peer_certificate(e->ssl);
	unsigned char cert[SHA_LEN], key[SHA_LEN], md[SHA_LEN], *der = NULL;
	const char *p = e->pins;
	int len = peer == NULL ? -1 : i2d_X509_PUBKEY(X509_get_X509_PUBKEY(
	    peer), &der);
	bool ok = len > 0 &&
	    X509_digest(peer, EVP_sha256(), cert, NULL) == 1 &&
	    EVP_Digest(der, (size_t)len, key, NULL, EVP_sha256(), NULL) == 1;

	OPENSSL_free(der);
	while (ok && (p = read_pin(p, md)) != NULL) {
		if (memcmp(md, cert, SHA_LEN) == 0 ||
		    memcmp(md, key, SHA_LEN) == 0)
			return true;
		p += *p == ',';
		if (*p == '\0')
			break;
	}
	return false;
}
