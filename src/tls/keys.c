/*
 * keys.c - reads a private key whose kind is known by its certificate.
 *
 * PEM_read_bio_PrivateKey(3) takes any kind, and for that has OpenSSL 3 prepare
 * all its decoders: a quarter of what this program executes until a handshake
 * is over; those of one kind would be a twelfth.  The keys that nearly all
 * have, RSA and EC, are lists of numbers, and EVP_PKEY_fromdata(3) takes those.
 */
#include <string.h>

#include <openssl/asn1.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "tls/tls.h"

#define NUMBERS 8		/* of a key of RSA */

/* The numbers in the DER of a key of RSA after its version: RFC 8017 A.1.2. */
static const char *const rsa_numbers[NUMBERS] = {
	OSSL_PKEY_PARAM_RSA_N, OSSL_PKEY_PARAM_RSA_E, OSSL_PKEY_PARAM_RSA_D,
	OSSL_PKEY_PARAM_RSA_FACTOR1, OSSL_PKEY_PARAM_RSA_FACTOR2,
	OSSL_PKEY_PARAM_RSA_EXPONENT1, OSSL_PKEY_PARAM_RSA_EXPONENT2,
	OSSL_PKEY_PARAM_RSA_COEFFICIENT1,
};

/* A key's DER, and what it becomes. */
struct plain {
	const unsigned char *der, *end;
	const unsigned char *p;	/* what is read next */
	unsigned char *room;	/* for numbers in this machine's order, each
				   where it is in der */
	OSSL_PARAM list[NUMBERS + 1];
	size_t n;
};

/* The octets of the next element, which must be of that type; NULL if it is
   not.  Those of one that has others in it are what comes next. */
static const unsigned char *
next_element(struct plain *k, int type, int class, long *len)
{
	const unsigned char *content = k->p;
	int tag = 0, its = 0, form = 0x80;

	if (k->p < k->end)
		form = ASN1_get_object(&content, len, &tag, &its,
		    k->end - k->p);
	if ((form & 0x80) != 0 || tag != type || its != class)
		return NULL;
	k->p = (form & V_ASN1_CONSTRUCTED) != 0 ? content : content + *len;
	return content;
}

/* Adds the next element, a number.  False if there is none. */
static bool
add_number(struct plain *k, const char *name, int type)
{
	long len;
	const unsigned char *p = next_element(k, type, V_ASN1_UNIVERSAL, &len);
	unsigned char *to = p == NULL ? NULL : k->room + (p - k->der);
	BIGNUM *bn = p == NULL ? NULL : BN_bin2bn(p, (int)len, NULL);
	bool ok = bn != NULL && BN_bn2nativepad(bn, to, (int)len) == len;

	BN_clear_free(bn);
	if (ok)
		k->list[k->n++] = OSSL_PARAM_construct_BN(name, to,
		    (size_t)len);
	return ok;
}

/* Adds what a key of RSA has. */
static bool
add_rsa(struct plain *k)
{
	size_t i;

	for (i = 0; i < NUMBERS; i++)
		if (!add_number(k, rsa_numbers[i], V_ASN1_INTEGER))
			return false;
	return true;
}

/* Adds what a key of EC has, RFC 5915 3: the number, what may be left out and
   the certificate says, and the point, which the certificate is compared with.
   False if there is no point: it would have to be calculated. */
static bool
add_ec(struct plain *k, char *group)
{
	long len;
	const unsigned char *p;

	if (!add_number(k, OSSL_PKEY_PARAM_PRIV_KEY, V_ASN1_OCTET_STRING))
		return false;
	if (next_element(k, 0, V_ASN1_CONTEXT_SPECIFIC, &len) != NULL)
		k->p += len;
	if (next_element(k, 1, V_ASN1_CONTEXT_SPECIFIC, &len) == NULL)
		return false;
	p = next_element(k, V_ASN1_BIT_STRING, V_ASN1_UNIVERSAL, &len);
	if (p == NULL || len < 2)
		return false;
	/* Its first octet counts bits that are not used: there are none. */
	memcpy(k->room + (p - k->der), p, (size_t)len);
	k->list[k->n++] = OSSL_PARAM_construct_octet_string(
	    OSSL_PKEY_PARAM_PUB_KEY, k->room + (p - k->der) + 1,
	    (size_t)len - 1);
	k->list[k->n++] = OSSL_PARAM_construct_utf8_string(
	    OSSL_PKEY_PARAM_GROUP_NAME, group, 0);
	return true;
}

/* Makes a key of what list has. */
static EVP_PKEY *
make_key(const char *kind, OSSL_PARAM list[])
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, kind, NULL);
	EVP_PKEY *key = NULL;

	if (ctx == NULL || EVP_PKEY_fromdata_init(ctx) != 1 ||
	    EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_KEYPAIR, list) != 1)
		key = NULL;
	EVP_PKEY_CTX_free(ctx);
	return key;
}

/* Reads k as a key of that kind; group is NULL, or EC's. */
static EVP_PKEY *
read_key(struct plain *k, const char *kind, char *group)
{
	EVP_PKEY *key = NULL;
	long len;

	k->p = k->der;
	k->room = OPENSSL_malloc((size_t)(k->end - k->der));
	if (k->room != NULL &&
	    next_element(k, V_ASN1_SEQUENCE, V_ASN1_UNIVERSAL, &len) != NULL &&
	    next_element(k, V_ASN1_INTEGER, V_ASN1_UNIVERSAL, &len) != NULL &&
	    (group != NULL ? add_ec(k, group) : add_rsa(k))) {
		k->list[k->n] = OSSL_PARAM_construct_end();
		key = make_key(kind, k->list);
	}
	OPENSSL_free(k->room);
	return key;
}

/* The key of PKCS #8 (RFC 5208) in der, if it is of the kind of public. */
static bool
unwrap(struct plain *k, const PKCS8_PRIV_KEY_INFO *info, const EVP_PKEY *public)
{
	const ASN1_OBJECT *kind;
	int len;

	if (info == NULL || PKCS8_pkey_get0(&kind, &k->der, &len, NULL, info)
	    != 1)
		return false;
	k->end = k->der + len;
	return EVP_PKEY_is_a(public, OBJ_nid2sn(OBJ_obj2nid(kind)));
}

EVP_PKEY *
keys_read(const char *form, const unsigned char *der, long len,
    const EVP_PKEY *public)
{
	const bool ec = EVP_PKEY_is_a(public, "EC");
	PKCS8_PRIV_KEY_INFO *info = NULL;
	struct plain k = { .der = der, .end = der + len };
	char group[64];
	EVP_PKEY *key = NULL;

	if (!ec && !EVP_PKEY_is_a(public, "RSA"))
		return NULL;
	if (ec && EVP_PKEY_get_group_name(public, group, sizeof group, NULL)
	    != 1)
		return NULL;
	if (strcmp(form, PEM_STRING_PKCS8INF) == 0)
		info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &der, len);
	if (strcmp(form, PEM_STRING_PKCS8INF) != 0 || unwrap(&k, info, public))
		key = read_key(&k, ec ? "EC" : "RSA", ec ? group : NULL);
	PKCS8_PRIV_KEY_INFO_free(info);
	return key;
}
