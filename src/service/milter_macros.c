/*
 * milter_macros.c - what filters are told beside the dialogue: Sendmail's
 * macros, as Postfix documents them in its MILTER_README.
 */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "service/milter_private.h"

#define VALUE_MAX 1024		/* octets of a value, with NUL */

/* Where Postfix sends them, unless a filter asks for others. */
static const char *const usual[SYMBOLS] = {
	[SYMBOLS_CONNECT] = "j {daemon_name} {daemon_addr} v _",
	[SYMBOLS_HELO] = "{tls_version} {cipher} {cipher_bits} {cert_subject} "
	    "{cert_issuer}",
	[SYMBOLS_MAIL] = "i {auth_type} {auth_authen} {auth_author} "
	    "{mail_addr} {mail_host} {mail_mailer}",
	[SYMBOLS_RCPT] = "i {rcpt_addr} {rcpt_host} {rcpt_mailer}",
	[SYMBOLS_DATA] = "i",
	[SYMBOLS_END] = "i",
	[SYMBOLS_EOH] = "i",
};

struct asked {
	const struct milter *m;
	const struct envelope *env;
	const struct reply *refusal;
	enum symbols stage;
	char value[VALUE_MAX];
};

/* The host part of an address, or "". */
static const char *
domain_of(const char *address)
{
	const char *at = strrchr(address, '@');

	return at == NULL ? "" : at + 1;
}

static const char *
client_address(struct asked *a)
{
	return service_client_address(a->env);
}

static const char *
client_name(struct asked *a)
{
	return service_client_name(a->env);
}

static const char *
client_port(struct asked *a)
{
	return *a->env->fact[FACT_CLIENT_PORT] == '\0' ? "0"
	    : a->env->fact[FACT_CLIENT_PORT];
}

static const char *
client_both(struct asked *a)
{
	return text_join(a->value, sizeof a->value, client_name(a), " [",
	    client_address(a), "]", NULL);
}

static const char *
our_name(struct asked *a)
{
	return a->m->set->fqdn;
}

static const char *
version(struct asked *a)
{
	(void)a;
	return "smtpd " VERSION;
}

static const char *
connections(struct asked *a)
{
	(void)a;
	return "0";	/* not counted here: Postfix's value for that */
}

static const char *
cipher_bits(struct asked *a)
{
	const char *cipher = a->env->fact[FACT_TLS_CIPHER];

	if (*cipher == '\0')
		return "";
	snprintf(a->value, sizeof a->value, "%u", fact_cipher_bits(cipher));
	return a->value;
}

/* AUTH= of MAIL (RFC 4954 5). */
static const char *
author(struct asked *a)
{
	const char *p = text_find_word(a->env->fact[FACT_MAIL_OPTIONS], "AUTH");
	long n = p == NULL || p[4] != '=' ? -1 : text_decode_xtext(a->value,
	    sizeof a->value, (struct span){ p + 5, strcspn(p + 5, " ") });

	if (n < 0 || n >= VALUE_MAX)
		return "";
	a->value[n] = '\0';
	return strcmp(a->value, "<>") == 0 ? "" : a->value;
}

static const char *
mailer(struct asked *a)
{
	const struct service_settings *set = a->m->set;

	text_cut(a->value, sizeof a->value, set->mailer, set->mailer_len);
	return a->value;
}

static const char *
mail_host(struct asked *a)
{
	return domain_of(a->env->fact[FACT_SENDER]);
}

static const char *
recipient(struct asked *a)
{
	return a->env->nrecipients == 0 ? "" : a->env->recipients[0].address;
}

/* For a recipient that we refused, these three tell why. */
static const char *
rcpt_address(struct asked *a)
{
	return a->refusal != NULL ? a->refusal->text : recipient(a);
}

static const char *
rcpt_host(struct asked *a)
{
	return a->refusal != NULL ? a->refusal->enh
	    : domain_of(recipient(a));
}

static const char *
rcpt_mailer(struct asked *a)
{
	return a->refusal != NULL ? "error" : mailer(a);
}

#define NO_FACT FACTS

static const struct macro {
	const char *name;
	enum fact fact;		/* NO_FACT: */
	const char *(*value)(struct asked *a);
} macros[] = {
	{ "_", NO_FACT, client_both },
	{ "i", FACT_QUEUE_ID, NULL },
	{ "j", NO_FACT, our_name },
	{ "v", NO_FACT, version },
	{ "{auth_authen}", FACT_SASL_USERNAME, NULL },
	{ "{auth_author}", NO_FACT, author },
	{ "{auth_type}", FACT_SASL_METHOD, NULL },
	{ "{cert_issuer}", FACT_TLS_ISSUER, NULL },
	{ "{cert_subject}", FACT_TLS_SUBJECT, NULL },
	{ "{cipher}", FACT_TLS_CIPHER, NULL },
	{ "{cipher_bits}", NO_FACT, cipher_bits },
	{ "{client_addr}", NO_FACT, client_address },
	{ "{client_connections}", NO_FACT, connections },
	{ "{client_name}", NO_FACT, client_name },
	{ "{client_port}", NO_FACT, client_port },
	{ "{client_ptr}", NO_FACT, client_name },
	{ "{daemon_addr}", FACT_SERVER_ADDRESS, NULL },
	{ "{daemon_name}", NO_FACT, our_name },
	{ "{daemon_port}", FACT_SERVER_PORT, NULL },
	{ "{mail_addr}", FACT_SENDER, NULL },
	{ "{mail_host}", NO_FACT, mail_host },
	{ "{mail_mailer}", NO_FACT, mailer },
	{ "{rcpt_addr}", NO_FACT, rcpt_address },
	{ "{rcpt_host}", NO_FACT, rcpt_host },
	{ "{rcpt_mailer}", NO_FACT, rcpt_mailer },
	{ "{tls_version}", FACT_TLS_PROTOCOL, NULL },
};

/* The value of the macro name[0..len); "" if it has none now. */
static const char *
macro_value(struct asked *a, const char *name, size_t len)
{
	const struct macro *m;

	for (m = macros; m < macros + COUNT(macros); m++)
		if (text_is(name, len, m->name))
			return m->fact == NO_FACT ? m->value(a)
			    : a->env->fact[m->fact];
	return "";
}

void
milter_macros(struct milter *m, enum symbols stage, char event,
    const struct envelope *env, const struct reply *refusal)
{
	const char *list = m->symbols[stage], *value;
	struct asked a = { m, env, refusal, stage, "" };
	size_t len;
	bool any = false;

	if (list == NULL)
		list = usual[stage];
	for (; *list != '\0'; list += len) {
		list += strspn(list, " ,\t");
		len = strcspn(list, " ,\t");
		value = macro_value(&a, list, len);
		if (*value == '\0')
			continue;
		if (!any) {
			milter_begin(m, 'D');
			milter_add(m, &event, 1);
		}
		any = true;
		milter_add(m, list, len);
		milter_add(m, "", 1);
		milter_string(m, value);
	}
	if (any)
		milter_end(m, m->set->command);
}
