/*
 * check.c - `smtpd-tls check': what is wrong with a server's certificates and
 * keys, for people.  certs_load() has refused what cannot be used.  A line
 * begins with good, doubt or bad.
 */
#include <stdio.h>
#include <sysexits.h>
#include <time.h>

#include <openssl/x509v3.h>

#include "tls/tls.h"

#define SOON (14 * 86400)	/* seconds before its end when it is told */

/* Is there a gap between the certificates that clients are shown? */
static bool
is_broken_chain(X509 *leaf, STACK_OF(X509) *chain)
{
	X509 *below = leaf;

	for (int i = 0; i < sk_X509_num(chain); i++) {
		if (X509_check_issued(sk_X509_value(chain, i), below) !=
		    X509_V_OK)
			return true;
		below = sk_X509_value(chain, i);
	}
	return false;
}

/* One certificate's dates and chain.  Returns an exit status. */
static int
check_certificate(X509 *leaf, STACK_OF(X509) *chain)
{
	time_t soon = time(NULL) + SOON;
	char end[32] = "", name[256] = "";
	struct tm tm;

	X509_NAME_get_text_by_NID(X509_get_subject_name(leaf), NID_commonName,
	    name, sizeof name);
	for (char *p = name; *p != '\0'; p++)
		if (*p < ' ' || *p == 127)
			*p = '?';
	if (ASN1_TIME_to_tm(X509_get0_notAfter(leaf), &tm))
		strftime(end, sizeof end, "%Y-%m-%d", &tm);
	if (X509_cmp_current_time(X509_get0_notBefore(leaf)) > 0)
		return printf("bad certificate of \"%s\" is not valid yet; "
		    "is the clock right?\n", name), EX_CONFIG;
	if (X509_cmp_current_time(X509_get0_notAfter(leaf)) < 0)
		return printf("bad certificate of \"%s\" expired on %s\n", name,
		    end), EX_CONFIG;
	if (is_broken_chain(leaf, chain))
		return printf("bad certificate of \"%s\": the certificates "
		    "after it are not its chain\n", name), EX_CONFIG;
	if (X509_cmp_time(X509_get0_notAfter(leaf), &soon) < 0)
		printf("doubt certificate of \"%s\" expires on %s\n", name,
		    end);
	else
		printf("good certificate of \"%s\" is valid until %s\n", name,
		    end);
	if (sk_X509_num(chain) <= 0 && X509_self_signed(leaf, 0) != 1)
		printf("doubt certificate of \"%s\" comes without its chain: "
		    "many clients cannot verify it\n", name);
	return EX_OK;
}

int
check_trusted(struct engine *e)
{
	certs_trust(e);
	printf("good the certificate authorities of %s can be read\n",
	    e->ca == NULL ? "this system" : e->ca);
	fflush(stdout);
	return EX_OK;
}

int
check_certificates(struct engine *e)
{
	STACK_OF(X509) *chain = NULL;
	int status = EX_OK, one;

	for (long next = SSL_set_current_cert(e->ssl, SSL_CERT_SET_FIRST);
	    next == 1; next = SSL_set_current_cert(e->ssl, SSL_CERT_SET_NEXT)) {
		SSL_get0_chain_certs(e->ssl, &chain);
		one = check_certificate(SSL_get_certificate(e->ssl), chain);
		if (one != EX_OK)
			status = one;
	}
	fflush(stdout);
	return status;
}
