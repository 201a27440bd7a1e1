/*
 * grammar.c - the form of the strings that a channel process says a client
 * said.
 *
 * It is looser than the channel's own grammar (src/channel/address.c), and no
 * second copy of it: it asks only whether a next hop, a program or a reader of
 * the log could take a part of one string for something else.
 */
#include "monitor/grammar.h"

#include <string.h>
#include <strings.h>

#include "base/text.h"

#define PARAMETERS_MAX 64	/* of one command; the extensions name 12 */

/* Letters and digits, or nothing. */
static bool
is_alnum_word(const char *s)
{
	while (text_is_alnum(*s))
		s++;
	return *s == '\0';
}

/* A mailbox (RFC 5321 4.1.2) whose domain is optional: quotes stand around all
   of its local part, or nowhere. */
static bool
is_mailbox(const char *s)
{
	const char *p = s;

	if (*s == '\0' || *s == '-' || !text_all_printable(s))
		return false;
	if (*p == '"') {
		for (p++; *p != '\0' && *p != '"'; p++)
			if (*p == '\\' && *++p == '\0')
				return false;
		if (*p++ == '\0' || (*p != '@' && *p != '\0'))
			return false;
	}
	if (*p == '@' && p[1] == '\0')
		return false;
	return p[strcspn(p, " <>\"\\(),;")] == '\0' &&
	    strchr(p, '@') == strrchr(p, '@');
}

/* Length of the keyword of the parameter at p (RFC 5321 4.1.2), 0 if it is no
   parameter. */
static size_t
keyword_length(const char *p, size_t len)
{
	size_t n = 0;

	while (n < len && (text_is_alnum(p[n]) || (p[n] == '-' && n > 0)))
		n++;
	if (n == len)
		return n;
	return p[n] == '=' && n + 1 < len &&
	    memchr(p + n + 1, '=', len - n - 1) == NULL ? n : 0;
}

/* Parameters with blanks between them, each at most once. */
static bool
are_parameters(const char *s)
{
	struct span seen[PARAMETERS_MAX];
	size_t n = 0, len, key, i;

	if (!text_all_printable(s))
		return false;
	for (s += strspn(s, " "); *s != '\0'; s += strspn(s, " ")) {
		len = strcspn(s, " ");
		key = keyword_length(s, len);
		if (key == 0 || n == PARAMETERS_MAX)
			return false;
		for (i = 0; i < n; i++)
			if (seen[i].len == key &&
			    strncasecmp(seen[i].p, s, key) == 0)
				return false;
		seen[n++] = (struct span){ s, key };
		s += len;
	}
	return true;
}

bool
grammar_allows(const struct envelope *env)
{
	const char *const *fact = env->fact;
	size_t i;

	if ((fact[FACT_SENDER][0] != '\0' && !is_mailbox(fact[FACT_SENDER])) ||
	    !are_parameters(fact[FACT_MAIL_OPTIONS]) ||
	    !text_all_printable(fact[FACT_CLIENT_HELO]) ||
	    !is_alnum_word(fact[FACT_QUEUE_ID]) ||
	    !is_alnum_word(fact[FACT_CLIENT_PROTOCOL]))
		return false;
	for (i = FACT_FORWARD_ADDRESS; i <= FACT_FORWARD_SOURCE; i++)
		if (!text_all_printable(fact[i]))
			return false;
	for (i = 0; i < env->nrecipients; i++)
		if (!is_mailbox(env->recipients[i].address) ||
		    !are_parameters(env->recipients[i].options))
			return false;
	return true;
}
