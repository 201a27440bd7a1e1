/*
 * provider.c - leaves out algorithms that no handshake of a server uses.
 *
 * When the first algorithm of a kind is asked for, OpenSSL 3 prepares all of
 * that kind that its providers have: some 250 until a handshake is over, which
 * uses a few dozen.  So the provider that it asks here is one that has what the
 * default one has, less what is named below: provider-base(7).  No algorithm is
 * its own, and it leaves in what it does not know.  A program of its own for
 * each connection executes a third less.
 */
#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

#include "tls/tls.h"

#define KINDS (OSSL_OP_STORE + 1)	/* the highest that OpenSSL has */
#define KEPT_MAX 128		/* algorithms of a kind */

static struct {
	const OSSL_PROVIDER *standard;	/* the default one, not asked */
	OSSL_ALGORITHM kept[KINDS][KEPT_MAX + 1];
} state;

/* How the first name of one that is left out begins, or ends. */
static const char *const begins[] = { "AES-192-", "ARIA-", "BLAKE2",
	"CAMELLIA-", "CMAC", "DES-", "DES3-", "DH", "DSA", "GMAC", "KBKDF",
	"KECCAK-", "KMAC-", "KRB5KDF", "POLY1305", "RIPEMD", "SCRYPT",
	"SIPHASH", "SM2", "SM3", "SM4-", "SSHKDF", "SSKDF", "X942KDF-",
	"X963KDF" };
static const char *const ends[] = { "-CCM", "-CFB", "-CFB1", "-CFB8", "-CTS",
	"-INV", "-OCB", "-OFB", "-PAD", "-SIV", "-WRAP", "-XTS" };

static bool
is_left_out(const char *names)
{
	const size_t len = strcspn(names, ":");
	size_t i, n;

	for (i = 0; i < sizeof begins / sizeof begins[0]; i++)
		if (strncmp(names, begins[i], strlen(begins[i])) == 0)
			return true;
	for (i = 0; i < sizeof ends / sizeof ends[0]; i++) {
		n = strlen(ends[i]);
		if (len > n && memcmp(names + len - n, ends[i], n) == 0)
			return true;
	}
	return false;
}

/* Certificates and keys are of two structures.  Where a key has another, it has
   functions of its own that read it. */
static bool
is_for_others(int kind, const OSSL_ALGORITHM *a)
{
	return kind == OSSL_OP_DECODER &&
	    strstr(a->property_definition, "=SubjectPublicKeyInfo") == NULL &&
	    strstr(a->property_definition, "=PrivateKeyInfo") == NULL;
}

/* OSSL_FUNC_provider_query_operation */
static const OSSL_ALGORITHM *
query(void *provctx, int kind, int *no_cache)
{
	const OSSL_ALGORITHM *a;
	OSSL_ALGORITHM *kept = state.kept[kind < KINDS ? kind : 0];
	size_t n = 0;

	(void)provctx;
	*no_cache = 0;
	if (kind < KINDS && kept[0].algorithm_names != NULL)
		return kept;
	a = OSSL_PROVIDER_query_operation(state.standard, kind, no_cache);
	if (a == NULL || kind >= KINDS || *no_cache)
		return a;
	for (; a->algorithm_names != NULL; a++)
		if (n < KEPT_MAX && !is_for_others(kind, a) &&
		    !is_left_out(a->algorithm_names))
			kept[n++] = *a;
	return kept;
}

/* OSSL_FUNC_provider_get_capabilities */
static int
capabilities(void *provctx, const char *what, OSSL_CALLBACK *tell, void *arg)
{
	(void)provctx;
	return OSSL_PROVIDER_get_capabilities(state.standard, what, tell, arg);
}

static const OSSL_DISPATCH calls[] = {
	{ OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query },
	{ OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))capabilities },
	{ 0, NULL }
};

/* OSSL_provider_init: algorithms are called with the context of the provider
   that they are from. */
static int
begin(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
    const OSSL_DISPATCH **out, void **provctx)
{
	(void)handle, (void)in;
	*out = calls;
	*provctx = OSSL_PROVIDER_get0_provider_ctx(state.standard);
	return 1;
}

void
provider_start(void)
{
	OSSL_PROVIDER *p = OSSL_PROVIDER_load(NULL, "default");
	EVP_ASYM_CIPHER *held = EVP_ASYM_CIPHER_fetch(NULL, "RSA", NULL);

	if (p == NULL || held == NULL)
		return;
	state.standard = EVP_ASYM_CIPHER_get0_provider(held);
	/* Nobody asks the default one once it is unloaded; it is there for as
	   long as somebody holds one of its algorithms.  All of that kind stay
	   its own, so it is one that is not used with forward secrecy. */
	if (OSSL_PROVIDER_add_builtin(NULL, "smtpd-tls", begin) == 1 &&
	    OSSL_PROVIDER_load(NULL, "smtpd-tls") != NULL)
		OSSL_PROVIDER_unload(p);
}
