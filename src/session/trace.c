/*
 * trace.c - the header fields that we write in front of a message.
 */
#include <stdarg.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "session/session.h"

/* RFC 5322 3.3, in UTC, whatever the locale is. */
static void
write_date(char *to, size_t size)
{
	static const char days[] = "SunMonTueWedThuFriSat";
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	const struct date d = clock_split(clock_date().tv_sec);
	char name[2][4] = { "", "" }, n[5][TEXT_NUMBER];

	memcpy(name[0], days + 3 * d.weekday, 3);
	memcpy(name[1], months + 3 * (d.month - 1), 3);
	text_join(to, size, name[0], ", ", text_number(n[0], d.day, 2),
	    " ", name[1], " ", text_number(n[1], d.year, 4), " ",
	    text_number(n[2], d.hour, 2), ":", text_number(n[3], d.minute, 2),
	    ":", text_number(n[4], d.second, 2), " +0000", NULL);
}

/* What the client called itself, without anything that would mean something
   in a header field. */
static const char *
harmless(char *to, size_t size, const char *name)
{
	size_t n = 0;

	for (; *name != '\0' && n + 1 < size; name++)
		to[n++] = strchr("()<>,;\\\"", *name) != NULL ||
		    (unsigned char)*name <= ' ' || (unsigned char)*name > '~'
		    ? '?' : *name;
	to[n] = '\0';
	return to;
}

/* "name [address]" of the client, as a comment of the trace header. */
static void
write_client(char *to, size_t size, const struct channel_peer *peer)
{
	const char *address = peer->address;
	bool v6 = strchr(address, ':') != NULL;
	bool v4 = !v6 && strchr(address, '.') != NULL;
	char name[CHANNEL_NAME_MAX];

	harmless(name, sizeof name, peer->name);
	text_join(to, size, strcmp(name, "unknown") == 0 ? "" : name,
	    strcmp(name, "unknown") == 0 ? "" : " ",
	    v6 ? "[IPv6:" : v4 ? "[" : "", address, v6 || v4 ? "]" : "", NULL);
}

/* Appends strings, up to a NULL, to the message. */
static void
write_words(struct session *s, const char *word, ...)
{
	va_list words;

	va_start(words, word);
	for (; word != NULL; word = va_arg(words, const char *))
		spool_write(&s->spool, word, strlen(word));
	va_end(words);
}

/* RFC 5321 4.4; the proxies of Python's smtpd add X-Peer. */
void
trace_write(struct session *s, const struct envelope *env)
{
	const struct channel *ch = &s->ch;
	char client[2 * CHANNEL_NAME_MAX + 8], helo[CHANNEL_NAME_MAX];
	char tls[96] = "", date[64];
	const char *to = env->nrecipients == 1 ? env->recipients[0].address
					       : NULL;

	write_client(client, sizeof client, &ch->peer);
	write_date(date, sizeof date);
	if (ch->tls.protocol[0] != '\0')
		text_join(tls, sizeof tls, " (", ch->tls.protocol, " ",
		    ch->tls.cipher, ")", NULL);
	if (!s->options->no_received) {
		write_words(s, "Received: from ",
		    harmless(helo, sizeof helo, ch->seen_greeting), " (",
		    client, ")\r\n\tby ", ch->set->fqdn, " (smtpd) with ",
		    env->fact[FACT_CLIENT_PROTOCOL], tls, " id ",
		    s->queue_id, to == NULL ? NULL : "\r\n\tfor <", NULL);
		if (to != NULL) {	/* RFC 5322 2.1.1: 998 octets a line */
			spool_write(&s->spool, to, strlen(to) < 700
			    ? strlen(to) : 700);
			write_words(s, ">", NULL);
		}
		write_words(s, ";\r\n\t", date, "\r\n", NULL);
	}
	if (s->options->x_peer)
		write_words(s, "X-Peer: ", ch->peer.address, "\r\n", NULL);
}
