/*
 * milter_wire.c - a filter's connection: packets, negotiation.
 *
 * A fault is sticky: what is written after it goes nowhere, and the caller
 * looks once, at the end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "service/milter_private.h"

#define GOODBYE 2		/* seconds for QUIT to leave */

static void
write_number(char *p, uint32_t n)
{
	for (int i = 0; i < 4; i++)
		p[i] = (char)(n >> (24 - 8 * i) & 0xff);
}

uint32_t
milter_number(const char *p)
{
	const unsigned char *u = (const unsigned char *)p;

	return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 |
	    (uint32_t)u[2] << 8 | u[3];
}

/* A filter that is at work for ever does not keep a session for ever. */
static int64_t
deadline(const struct milter *m, unsigned seconds)
{
	return clock_within(m->set->end, (int)seconds);
}

void
milter_flush(struct milter *m, unsigned seconds)
{
	if (m->fault == NULL && m->outlen > 0 && stream_write(&m->link, m->out,
	    m->outlen, deadline(m, seconds)) == -1)
		m->fault = stream_reason(errno);
	m->outlen = 0;
}

void
milter_begin(struct milter *m, char command)
{
	m->begun = m->outlen;
	m->outlen += 4;
	m->out[m->outlen++] = command;
}

char *
milter_room(struct milter *m, size_t *len)
{
	if (*len > sizeof m->out - m->outlen)
		*len = sizeof m->out - m->outlen;
	return m->out + m->outlen;
}

void
milter_add(struct milter *m, const char *p, size_t len)
{
	if (len > sizeof m->out - m->outlen) {
		if (m->fault == NULL)
			m->fault = "too much for one packet";
		return;
	}
	if (p != m->out + m->outlen)
		memcpy(m->out + m->outlen, p, len);
	m->outlen += len;
}

void
milter_string(struct milter *m, const char *s)
{
	milter_add(m, s, strlen(s) + 1);
}

/* There is always room for the next packet, the largest is a body's. */
void
milter_end(struct milter *m, unsigned seconds)
{
	write_number(m->out + m->begun, (uint32_t)(m->outlen - m->begun - 4));
	if (m->outlen > 16384)
		milter_flush(m, seconds);
}

/* Reads len octets of data to m->in.  Returns false for a fault. */
static bool
read_data(struct milter *m, size_t len, unsigned seconds)
{
	char *more;

	if (len + 1 > m->size) {
		more = realloc(m->in, len + 1);
		if (more == NULL) {
			m->fault = "no memory for its answer";
			return false;
		}
		m->in = more;
		m->size = len + 1;
	}
	if (stream_read(&m->link, m->in, len, deadline(m, seconds)) == -1) {
		m->fault = stream_reason(errno);
		return false;
	}
	m->in[len] = '\0';
	m->len = len;
	return true;
}

char
milter_answer(struct milter *m, unsigned seconds, uint64_t *body)
{
	char head[5];
	uint32_t len;

	milter_flush(m, seconds);
	if (m->fault != NULL)
		return 0;
	if (stream_read(&m->link, head, sizeof head,
	    deadline(m, seconds)) == -1) {
		m->fault = stream_reason(errno);
		return 0;
	}
	len = milter_number(head);
	if (len == 0 || (len > MILTER_IN && head[4] != 'b')) {
		m->fault = "answer of an impossible length";
		return 0;
	}
	*body = len - 1;
	if (head[4] == 'b')
		return head[4];
	return read_data(m, len - 1, seconds) ? head[4] : 0;
}

size_t
milter_body_data(struct milter *m, uint64_t left, unsigned seconds)
{
	size_t len = left < MILTER_CHUNK ? (size_t)left : MILTER_CHUNK;

	return read_data(m, len, seconds) ? len : 0;
}

/* Takes the filter's lists of macros: a number and a string each. */
static void
take_symbols(struct milter *m, const char *p, const char *end)
{
	const char *nul;
	uint32_t stage;

	/* It wants no others than those that it names. */
	for (stage = 0; p < end && stage < SYMBOLS; stage++) {
		free(m->symbols[stage]);
		m->symbols[stage] = NULL;
	}
	while (end - p >= 5) {
		stage = milter_number(p);
		p += 4;
		nul = memchr(p, '\0', (size_t)(end - p));
		if (nul == NULL)
			break;
		if (stage < SYMBOLS && m->symbols[stage] == NULL)
			m->symbols[stage] = strdup(p);
		p = nul + 1;
	}
	if (p != end)
		m->fault = "malformed list of macros";
}

static void
negotiate(struct milter *m)
{
	char offer[12];
	uint64_t body;
	char command;

	write_number(offer, MILTER_VERSION);
	write_number(offer + 4, MILTER_ACTIONS);
	write_number(offer + 8, MILTER_STEPS);
	milter_begin(m, 'O');
	milter_add(m, offer, sizeof offer);
	milter_end(m, m->set->command);
	command = milter_answer(m, m->set->command, &body);
	if (m->fault != NULL)
		return;
	if (command != 'O' || m->len < sizeof offer) {
		m->fault = "it does not negotiate";
		return;
	}
	m->version = milter_number(m->in);
	m->actions = milter_number(m->in + 4);
	m->steps = milter_number(m->in + 8) & MILTER_STEPS;
	if (m->version < 2 || m->version > MILTER_VERSION)
		m->fault = "unknown version of the protocol";
	else if ((m->actions & ~MILTER_ACTIONS) != 0)
		m->fault = "it wants to do what was not offered";
	else
		take_symbols(m, m->in + sizeof offer, m->in + m->len);
	/* What its version does not know it cannot be told. */
	if (m->version < 4)
		m->steps |= STEP_NO_DATA;
	if (m->version < 3)
		m->steps |= STEP_NO_UNKNOWN;
}

void
milter_connect(struct milter *m)
{
	m->fault = NULL;
	m->outlen = 0;
	if (stream_connect(&m->link, m->where, NULL,
	    deadline(m, m->set->connect), m->why, sizeof m->why) == -1)
		m->fault = m->why;
	else
		negotiate(m);
}

void
milter_disconnect(struct milter *m)
{
	if (m->link.fd != -1 && m->fault == NULL) {
		milter_begin(m, 'Q');
		milter_end(m, GOODBYE);
		milter_flush(m, GOODBYE);
	}
	stream_close(&m->link);
	m->outlen = 0;
}
