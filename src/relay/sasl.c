/*
 * sasl.c - what clients say in SASL: messages as octets, without I/O.
 */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "net/digest.h"
#include "relay/sasl.h"

#define GS2 "n,,"	/* no channel binding: RFC 5802 7 */
#define GS2_BASE64 "biws"

/* A user as RFC 5801 4 wants it, in to[0..size).  False: it does not fit. */
static bool
write_saslname(char *to, size_t size, const char *user)
{
	size_t len = 0;

	for (; *user != '\0'; user++) {
		if (len + 4 > size)
			return false;
		if (*user == '=' || *user == ',')
			len += (size_t)snprintf(to + len, size - len, "=%02X",
			    (unsigned)*user);
		else
			to[len++] = *user;
	}
	to[len] = '\0';
	return true;
}

size_t
sasl_plain(char *to, const struct credentials *c)
{
	return (size_t)snprintf(to, SASL_MESSAGE, "%c%s%c%s", '\0', c->user,
	    '\0', c->secret);
}

size_t
sasl_oauthbearer(char *to, const struct credentials *c, const char *host,
    const char *port)
{
	char user[3 * CREDENTIAL_USER];

	write_saslname(user, sizeof user, c->user);
	return (size_t)snprintf(to, SASL_MESSAGE,
	    "n,a=%s,\001host=%s\001port=%s\001auth=Bearer %s\001\001", user,
	    host, port, c->secret);
}

size_t
sasl_xoauth2(char *to, const struct credentials *c)
{
	return (size_t)snprintf(to, SASL_MESSAGE,
	    "user=%s\001auth=Bearer %s\001\001", c->user, c->secret);
}

void
sasl_status(char *to, size_t size, const char *json)
{
	const char *p = strstr(json, "\"status\"");
	size_t len;

	*to = '\0';
	if (p == NULL)
		return;
	p += sizeof "\"status\"" - 1;
	p += strspn(p, " \t\r\n");
	if (*p != ':')
		return;
	p++;
	p += strspn(p, " \t\r\n\"");
	len = strcspn(p, "\",} \t\r\n");
	snprintf(to, size, "%.*s", len > 64 ? 64 : (int)len, p);
	text_make_safe(to, to, false);
}

bool
scram_begin(struct scram *s, const char *user)
{
	char name[SCRAM_TEXT];

	return write_saslname(name, 3 * CREDENTIAL_USER, user) &&
	    (size_t)snprintf(s->first, sizeof s->first, GS2 "n=%s,r=%s", name,
	    s->nonce) < sizeof s->first;
}

/* The value of the attribute at *p, which must be that one; *p moves past the
   comma that follows it.  NULL: it is another. */
static bool
take_attribute(const char **p, char name, struct span *value)
{
	if ((*p)[0] != name || (*p)[1] != '=')
		return false;
	value->p = *p + 2;
	value->len = strcspn(value->p, ",");
	*p = value->p + value->len;
	*p += **p == ',';
	return true;
}

bool
scram_continue(struct scram *s, const char *server)
{
	const char *p = server;
	struct span nonce, salt, count;
	size_t ours = strlen(s->nonce);
	uint64_t n;
	long len;

	/* "m=", a mandatory extension, fails here, as RFC 5802 5.1 wants. */
	if (strlen(server) >= SCRAM_TEXT || !take_attribute(&p, 'r', &nonce) ||
	    !take_attribute(&p, 's', &salt) ||
	    !take_attribute(&p, 'i', &count) || nonce.len <= ours ||
	    memcmp(nonce.p, s->nonce, ours) != 0 ||
	    !text_parse_number(count, &n) || n < 1 || n > DIGEST_ITERATIONS)
		return false;
	len = text_decode_base64(s->salt, sizeof s->salt, salt);
	if (len < 1 || (size_t)len > sizeof s->salt)
		return false;
	s->saltlen = (size_t)len;
	s->iterations = (uint32_t)n;
	snprintf(s->final, sizeof s->final, "c=" GS2_BASE64 ",r=%.*s",
	    (int)nonce.len, nonce.p);
	snprintf(s->text, sizeof s->text, "%s,%s,%s",
	    s->first + sizeof GS2 - 1, server, s->final);
	return true;
}
