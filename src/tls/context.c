/*
 * context.c - OpenSSL as smtpd-tls uses it.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "tls/tls.h"

/* Of TLS 1.2; the cipher suites of TLS 1.3 have all this.  A server has
   forward secrecy and authenticated encryption, and no more groups than any
   client needs one of; a next hop that is verified may be older. */
#define SERVER_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"
#if OPENSSL_VERSION_NUMBER >= 0x30500000L
/* What is recorded today may be read by a quantum computer later: that is worth
   another round trip with a client that can, and guessed another group. */
#define SERVER_GROUPS "?X25519MLKEM768/X25519:P-256:P-384"
#else
#define SERVER_GROUPS "X25519:P-256:P-384"
#endif
#define CLIENT_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES"

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
	/* RFC 9525 6.3: a common name is no server's name. */
	SSL_set_hostflags(e->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
	    X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
	if (ok == 1 && sni != NULL && !is_address(sni))
		ok = (int)SSL_ctrl(e->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME,
		    TLSEXT_NAMETYPE_host_name, (void *)(uintptr_t)sni);
	if (ok != 1)
		engine_fail(e, EX_USAGE, "\"%s\" cannot be the name of a "
		    "server", sni);
}

/*
 * Where every connection has a program of its own nothing of a session is
 * kept, and so no tickets are given out: none could read another's.
 */
SSL_CTX *
context_new(struct engine *e)
{
	SSL_CTX *ctx = SSL_CTX_new(e->server ? TLS_server_method() :
	    TLS_client_method());

	if (ctx == NULL || !SSL_CTX_set_num_tickets(ctx, 0) ||
	    !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION))
		engine_fail(e, EX_OSERR, "cannot start OpenSSL: %s",
		    engine_reason("no memory"));
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	/* A dialogue touches little of a buffer, and no more is wiped; see
	   pump.c. */
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION |
	    SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF |
	    SSL_OP_CLEANSE_PLAINTEXT);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
	    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, FLOW_BUFFER);
	if (!e->server && e->verify == NULL && e->pins == NULL)
		/* Unverified encryption is better than none (RFC 7435). */
		SSL_CTX_set_security_level(ctx, 0);
	else if (!SSL_CTX_set_cipher_list(ctx, e->server ? SERVER_CIPHERS :
	    CLIENT_CIPHERS) ||
	    (e->server && !SSL_CTX_set1_groups_list(ctx, SERVER_GROUPS)))
		engine_fail(e, EX_SOFTWARE, "OpenSSL has none of our ciphers");
	if (e->server ? e->ca != NULL : e->verify != NULL)
		certs_demand(e, ctx);
	if (e->server && e->resident)
		tickets_offer(e, ctx);
	return ctx;
}

/*
 * OpenSSL's configuration is not read: what we speak is what is written here,
 * no file or variable can load code beside the key, and it would cost half a
 * millisecond, as would the names of all ciphers and the words for all errors.
 */
void
context_start(struct engine *e)
{
	if (e->resident)
		memory_stay();
	if (!CRYPTO_set_mem_functions(memory_take, memory_resize,
	    memory_give) ||
	    !OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG |
	    OPENSSL_INIT_NO_ADD_ALL_CIPHERS | OPENSSL_INIT_NO_ATEXIT |
	    OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS, NULL))
		engine_fail(e, EX_OSERR, "cannot start OpenSSL");
	/* A next hop, or a client's certificate, may be of any kind. */
	if (e->server && !e->resident && e->ca == NULL)
		provider_start();
	if (RAND_status() != 1)
		engine_fail(e, EX_OSERR, "cannot start OpenSSL: %s",
		    engine_reason("no entropy"));
}

void
context_connect(struct engine *e, SSL_CTX *ctx)
{
	e->ssl = SSL_new(ctx);
	if (e->ssl == NULL || SSL_set_fd(e->ssl, STDIN_FILENO) != 1)
		engine_fail(e, EX_OSERR, "no memory");
	if (e->server) {
		certs_load(e);
		SSL_set_accept_state(e->ssl);
	} else {
		set_names(e);
		SSL_set_connect_state(e->ssl);
	}
}
