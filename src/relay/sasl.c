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
	text_cut(to, size, p, len > 64 ? 64 : len);
	text_make_safe(to, to, false);
}

/* ---- names ---- */

/* A saslname of RFC 5801 4, in place: "=2C" is a comma, "=3D" an equals sign.
   Returns its length; 0 where it is none. */
static size_t
read_saslname(char *name, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (name[i] != '=') {
			name[n++] = name[i];
			continue;
		}
		if (len - i < 3 || (memcmp(name + i, "=2C", 3) != 0 &&
		    memcmp(name + i, "=3D", 3) != 0))
			return 0;
		name[n++] = name[i + 1] == '2' ? ',' : '=';
		i += 2;
	}
	return n;
}

/* Takes what comes before an octet off *rest, and that octet.  False: it is not
   there. */
static bool
take_until(struct span *rest, char end, struct span *part)
{
	const char *stop = rest->len == 0 ? NULL
	    : memchr(rest->p, end, rest->len);

	if (stop == NULL)
		return false;
	*part = (struct span){ rest->p, (size_t)(stop - rest->p) };
	rest->len -= part->len + 1;
	rest->p = stop + 1;
	return true;
}

/* Takes the header of RFC 5801 4 off *rest: what it says of channel binding,
   and the identity to act as. */
static bool
take_gs2(struct span *rest, struct span *identity)
{
	struct span flag;

	return take_until(rest, ',', &flag) && flag.len > 0 &&
	    (flag.len == 1 ? flag.p[0] == 'n' || flag.p[0] == 'y'
	    : flag.p[0] == 'p' && flag.p[1] == '=') &&
	    take_until(rest, ',', identity) && (identity->len == 0 ||
	    (identity->len > 2 && memcmp(identity->p, "a=", 2) == 0));
}

static bool
find_plain(struct span said, struct span *name)
{
	return take_until(&said, '\0', name) && take_until(&said, '\0', name);
}

static bool
find_login(struct span said, struct span *name)
{
	*name = said;
	return true;
}

/* RFC 2195: the name, a blank, and a digest. */
static bool
find_cram(struct span said, struct span *name)
{
	*name = said;
	while (name->len > 0 && name->p[name->len - 1] != ' ')
		name->len--;
	return name->len > 0 && name->len-- < said.len;
}

/* RFC 5802 7.  "m=", a mandatory extension, may mean anything. */
static bool
find_scram(struct span said, struct span *name)
{
	if (!take_gs2(&said, name) || !take_until(&said, ',', name) ||
	    name->len < 2 || memcmp(name->p, "n=", 2) != 0)
		return false;
	name->p += 2;
	name->len -= 2;
	return true;
}

/* RFC 7628 3.1: who the token is for. */
static bool
find_oauthbearer(struct span said, struct span *name)
{
	if (!take_gs2(&said, name) || name->len < 2)
		return false;
	name->p += 2;
	name->len -= 2;
	return true;
}

static bool
find_xoauth2(struct span said, struct span *name)
{
	if (!take_until(&said, '\001', name) || name->len < 5 ||
	    memcmp(name->p, "user=", 5) != 0)
		return false;
	name->p += 5;
	name->len -= 5;
	return true;
}

static const struct {
	const char *mechanism;	/* or its beginning, if it ends in a hyphen */
	bool quoted;		/* the name is a saslname */
	bool (*find)(struct span said, struct span *name);
} namers[] = {
	{ "PLAIN", false, find_plain },
	{ "LOGIN", false, find_login },
	{ "CRAM-MD5", false, find_cram },
	{ "SCRAM-", true, find_scram },
	{ "OAUTHBEARER", true, find_oauthbearer },
	{ "XOAUTH2", false, find_xoauth2 },
};

void
sasl_name(char *to, size_t size, const char *mechanism, const char *p,
    size_t len)
{
	struct span name = { NULL, 0 };
	size_t i = 0, n;

	to[0] = '\0';
	for (; i < COUNT(namers); i++) {
		n = strlen(namers[i].mechanism);
		if (strncmp(mechanism, namers[i].mechanism, n) == 0 &&
		    (mechanism[n] == '\0' ||
		    namers[i].mechanism[n - 1] == '-'))
			break;
	}
	if (i == COUNT(namers) || !namers[i].find((struct span){ p, len },
	    &name) || name.len == 0 || name.len >= size ||
	    memchr(name.p, '\0', name.len) != NULL)
		return;
	memcpy(to, name.p, name.len);
	to[namers[i].quoted ? read_saslname(to, name.len) : name.len] = '\0';
}

/* ---- SCRAM ---- */

bool
scram_begin(struct scram *s, const char *user)
{
	char name[SCRAM_TEXT];

	return write_saslname(name, 3 * CREDENTIAL_USER, user) &&
	    (size_t)snprintf(s->first, sizeof s->first, GS2 "n=%s,r=%s", name,
	    s->nonce) < sizeof s->first;
}

/* The value of the attribute at *p, which must be that one; *p moves past the
   comma that follows it.  False: it is another. */
static bool
take_scram_attribute(const char **p, char name, struct span *value)
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
	if (strlen(server) >= SCRAM_TEXT ||
	    !take_scram_attribute(&p, 'r', &nonce) ||
	    !take_scram_attribute(&p, 's', &salt) ||
	    !take_scram_attribute(&p, 'i', &count) || nonce.len <= ours ||
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
