/*
 * tickets.c - the keys of session tickets: RFC 8446 4.6.1, RFC 5077 4.
 *
 * Only an engine that stays has any.  Every process of a connection has a copy
 * of them during its handshake, as it has of the certificate's key, and wipes
 * both when that is over.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <string.h>
#include <sysexits.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/clock.h"
#include "tls/tls.h"

/* Seconds for which a ticket is good.  A key makes tickets as long, and then
   only opens them, as long again. */
#define TICKET_LIFE 3600

struct ticket_key {
	unsigned char name[16], cipher[32];
	char mac[32];
};

static struct {
	struct ticket_key key[2];	/* the newest, and the one before it */
	int64_t made;		/* the newest; 0: there is none */
} tickets;

/* The name that the client asked for; "": none. */
static char asked[TLSEXT_MAXLEN_host_name + 1];

/* Which of our keys has that name; -1: none. */
static int
find_key(const unsigned char name[16])
{
	int i;

	for (i = 0; i < 2; i++)
		if (memcmp(tickets.key[i].name, name, 16) == 0)
			return i;
	return -1;
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): 0 is no ticket, and so a full
   handshake; 2 a new ticket in place of an old one. */
static int
use_key(SSL *ssl, unsigned char *name, unsigned char *iv,
    EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int closing)
{
	int i = closing ? 0 : find_key(name);
	const struct ticket_key *key = &tickets.key[i == -1 ? 0 : i];
	OSSL_PARAM with[] = {
		OSSL_PARAM_octet_string(OSSL_MAC_PARAM_KEY, NULL, 0),
		OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_DIGEST, NULL, 0),
		OSSL_PARAM_END
	};
	char digest[] = "SHA256", secret[sizeof key->mac];
	int ok;

	(void)ssl;
	if (i == -1)
		return 0;
	if (closing) {
		memcpy(name, key->name, sizeof key->name);
		if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc()))
		    != 1)
			return -1;
	}
	memcpy(secret, key->mac, sizeof secret);
	with[0].data = secret;
	with[0].data_size = sizeof secret;
	with[1].data = digest;
	with[1].data_size = sizeof digest - 1;
	ok = EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->cipher, iv,
	    closing) == 1 && EVP_MAC_CTX_set_params(mac, with) == 1;
	explicit_bzero(secret, sizeof secret);
	if (!ok)
		return -1;
	return i == 0 ? 1 : 2;
}

void
tickets_rotate(struct engine *e, bool demanded)
{
	struct ticket_key *key = tickets.key;
	int64_t now = clock_now();

	if (!demanded && tickets.made != 0 &&
	    now - tickets.made < TICKET_LIFE * 1000)
		return;
	/* After a long rest the last one has nothing left to open. */
	if (tickets.made == 0 || now - tickets.made >= 2 * TICKET_LIFE * 1000)
		tickets_forget();
	key[1] = key[0];
	if (RAND_priv_bytes((unsigned char *)&key[0], sizeof key[0]) != 1)
		engine_fail(e, EX_OSERR, "no random numbers");
	if (tickets.made == 0)
		key[1] = key[0];
	tickets.made = now;
}

/*
 * RFC 6066 3, RFC 8446 4.2.11: a session is resumed only for the name that it
 * was begun for.  OpenSSL keeps the name in the ticket if somebody accepts it,
 * but compares nothing; and the client's name can be read in its hello alone.
 */

/* SSL_CTX_set_client_hello_cb(3): keeps the name.  There is one connection in a
   process, and warm_up()'s one after the other. */
static int
note_name(SSL *ssl, int *alert, void *arg)
{
	/* ServerNameList with one host_name: lengths, type, length. */
	static const size_t head = 5;
	const unsigned char *p;
	size_t len, n;

	(void)alert;
	(void)arg;
	asked[0] = '\0';
	if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &p, &len)
	    == 0 || len <= head)
		return SSL_CLIENT_HELLO_SUCCESS;
	n = (size_t)p[3] << 8 | p[4];
	if (n == len - head && n < sizeof asked) {
		memcpy(asked, p + head, n);
		asked[n] = '\0';
	}
	return SSL_CLIENT_HELLO_SUCCESS;
}

/* SSL_CTX_set_tlsext_servername_callback(3): there is one certificate, and it
   is for whatever name. */
static int
accept_name(SSL *ssl, int *alert, void *arg)
{
	(void)ssl;
	(void)alert;
	(void)arg;
	return SSL_TLSEXT_ERR_OK;
}

/* SSL_CTX_set_session_ticket_cb(3) */
static SSL_TICKET_RETURN
use_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
    size_t len, SSL_TICKET_STATUS status, void *arg)
{
	const char *first;

	(void)ssl;
	(void)name;
	(void)len;
	(void)arg;
	if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	first = SSL_SESSION_get0_hostname(session);
	if (strcmp(first != NULL ? first : "", asked) != 0)
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE
	    : SSL_TICKET_RETURN_USE_RENEW;
}

void
tickets_offer(struct engine *e, SSL_CTX *ctx)
{
	static const unsigned char place[] = "smtpd-tls";

	tickets_rotate(e, false);
	SSL_CTX_clear_options(ctx, SSL_OP_NO_TICKET);
	SSL_CTX_set_timeout(ctx, TICKET_LIFE);
	if (!SSL_CTX_set_num_tickets(ctx, 1) ||
	    !SSL_CTX_set_session_id_context(ctx, place, sizeof place - 1) ||
	    !SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, use_key) ||
	    !SSL_CTX_set_session_ticket_cb(ctx, NULL, use_ticket, NULL) ||
	    !SSL_CTX_set_tlsext_servername_callback(ctx, accept_name))
		engine_fail(e, EX_OSERR, "no memory");
	SSL_CTX_set_client_hello_cb(ctx, note_name, NULL);
}

void
tickets_forget(void)
{
	explicit_bzero(&tickets, sizeof tickets);
}
