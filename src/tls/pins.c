/*
 * pins.c - peers that are known by a fingerprint, and not by who signed their
 * certificates: the SHA-256 of the certificate, or of its public key.
 */
#include <string.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "base/fingerprint.h"
#include "tls/tls.h"

bool
pins_match(const struct engine *e)
{
	X509 *peer = SSL_get0_peer_certificate(e->ssl);
	unsigned char cert[FINGERPRINT], key[FINGERPRINT], md[FINGERPRINT];
	unsigned char *der = NULL;
	const char *p = e->pins;
	int len = peer == NULL ? -1 : i2d_X509_PUBKEY(X509_get_X509_PUBKEY(
	    peer), &der);
	bool ok = len > 0 &&
	    X509_digest(peer, EVP_sha256(), cert, NULL) == 1 &&
	    EVP_Digest(der, (size_t)len, key, NULL, EVP_sha256(), NULL) == 1;

	OPENSSL_free(der);
	while (ok && (p = fingerprint_read(p, md)) != NULL) {
		if (memcmp(md, cert, sizeof md) == 0 ||
		    memcmp(md, key, sizeof md) == 0)
			return true;
		p += *p == ',';
		if (*p == '\0')
			break;
	}
	return false;
}
