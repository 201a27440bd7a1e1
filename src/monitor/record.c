/*
 * record.c - the monitor's own record of a transaction.
 *
 * Recipients are kept as keyed hashes: eight octets each, and the channel
 * process, which does not know the key, cannot make another address of the
 * same hash.  It hands on the recipients in the order in which they were
 * asked about, so one walk over both lists compares them.
 */
#include "monitor/record.h"

#include <string.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/file.h"

static uint64_t
turn(uint64_t x, int bits)
{
	return x << bits | x >> (64 - bits);
}

/* One round of SipHash. */
static void
mix(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = turn(v[1], 13) ^ v[0];
	v[0] = turn(v[0], 32);
	v[2] += v[3];
	v[3] = turn(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = turn(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = turn(v[1], 17) ^ v[2];
	v[2] = turn(v[2], 32);
}

/* SipHash-1-3 of two strings with their NULs, the second after the first. */
static uint64_t
hash(const struct record *k, const char *a, const char *b)
{
	uint64_t v[4] = { k->key[0] ^ 0x736f6d6570736575,
		k->key[1] ^ 0x646f72616e646f6d,
		k->key[0] ^ 0x6c7967656e657261,
		k->key[1] ^ 0x7465646279746573 };
	const size_t na = strlen(a) + 1, n = na + strlen(b) + 1;
	uint64_t word = 0;

	for (size_t i = 0; i < n; i++) {
		word |= (uint64_t)(unsigned char)(i < na ? a[i] : b[i - na])
		    << i % 8 * 8;
		if (i % 8 == 7) {
			v[3] ^= word;
			mix(v);
			v[0] ^= word;
			word = 0;
		}
	}
	word |= (uint64_t)n << 56;
	v[3] ^= word;
	mix(v);
	v[0] ^= word;
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		mix(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void
record_forget(struct record *k)
{
	free(k->recipients);
	k->recipients = NULL;
	k->nrecipients = 0;
	k->mail = k->data = false;
}

void
record_restart(struct record *k)
{
	k->greeted = false;
	record_forget(k);
}

static bool
keep_recipient(struct record *k, const struct recipient *one)
{
	uint64_t *more = table_grow(k->recipients, k->nrecipients,
	    sizeof *more);

	if (more == NULL)
		return false;
	k->recipients = more;
	more[k->nrecipients++] = hash(k, one->address, one->options);
	return true;
}

/* Makes the key when it is first needed.  Returns false if there is none. */
static bool
make_key(struct record *k)
{
	return k->key[0] != 0 ||
	    getrandom(k->key, sizeof k->key, 0) == sizeof k->key;
}

bool
record_stage(struct record *k, enum stage stage, const struct envelope *env,
    const struct reply *r)
{
	const bool good = r->code < 400;

	if (r->code == 421)
		k->closed = true;
	switch (stage) {
	case STAGE_CONNECT:	/* once more after XCLIENT */
		k->connected = good;
		record_restart(k);
		break;
	case STAGE_HELO:
	case STAGE_EHLO:
		k->greeted = good;
		k->refused = !good;
		record_forget(k);
		break;
	case STAGE_MAIL:
		record_forget(k);
		if (!make_key(k))
			return false;
		k->mail = good;
		k->sender = hash(k, env->fact[FACT_SENDER],
		    env->fact[FACT_MAIL_OPTIONS]);
		break;
	case STAGE_RCPT:
		return !good || (make_key(k) &&
		    keep_recipient(k, &env->recipients[0]));
	case STAGE_DATA:
		k->data = good;
		break;
	default:
		break;
	}
	return true;
}

/* Were all recipients accepted? */
static bool
has_recipients(const struct record *k, const struct envelope *env)
{
	size_t at = 0;
	uint64_t h;

	for (size_t i = 0; i < env->nrecipients; i++) {
		h = hash(k, env->recipients[i].address,
		    env->recipients[i].options);
		while (at < k->nrecipients && k->recipients[at] != h)
			at++;
		if (at++ >= k->nrecipients)
			return false;
	}
	return true;
}

bool
record_has(const struct record *k, const struct envelope *env)
{
	const bool *wanted = k->wanted;

	return !k->closed && !k->refused &&
	    (!wanted[STAGE_CONNECT] || k->connected) &&
	    (!wanted[STAGE_HELO] || !wanted[STAGE_EHLO] || k->greeted) &&
	    (!wanted[STAGE_MAIL] || (k->mail && k->sender ==
	    hash(k, env->fact[FACT_SENDER], env->fact[FACT_MAIL_OPTIONS]))) &&
	    (!wanted[STAGE_RCPT] || has_recipients(k, env)) &&
	    (!wanted[STAGE_DATA] || k->data);
}
