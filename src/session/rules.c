/*
 * rules.c - reads the file of --rules, and says which rule holds.
 *
 *	STAGE GLOB [once|first N] ACTION
 */
#define _GNU_SOURCE	/* FNM_CASEFOLD */
#include "session/rules.h"

#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/text.h"
#include "channel.h"

#define FILE_MAX (1 << 20)	/* octets of a file */

static const char stages[][12] = {
	[RULE_CONNECT] = "CONNECT", [RULE_HELO] = "HELO", [RULE_EHLO] = "EHLO",
	[RULE_MAIL] = "MAIL", [RULE_RCPT] = "RCPT", [RULE_DATA] = "DATA",
	[RULE_TEXT] = "TEXT", [RULE_END] = "END", [RULE_VRFY] = "VRFY",
	[RULE_EXPN] = "EXPN", [RULE_AUTH] = "AUTH",
	[RULE_STARTTLS] = "STARTTLS", [RULE_NOOP] = "NOOP",
	[RULE_RSET] = "RSET", [RULE_QUIT] = "QUIT", [RULE_ANY] = "*",
};

static const char actions[][8] = {
	[RULE_REPLY] = "reply", [RULE_DELAY] = "delay",
	[RULE_CLOSE] = "close", [RULE_RESET] = "reset",
	[RULE_STALL] = "stall", [RULE_SLOW] = "slow",
	[RULE_GARBAGE] = "garbage", [RULE_HIDE] = "hide",
	[RULE_OFFER] = "offer",
};

const char *
rules_stage(enum rule_stage stage)
{
	return stages[stage];
}

const char *
rules_action(enum rule_action action)
{
	return actions[action];
}

/* Takes the next word off *rest, or "". */
static char *
take_word(char **rest)
{
	char *word = *rest + strspn(*rest, " \t");
	size_t n = strcspn(word, " \t");

	*rest = word + n;
	if (**rest != '\0')
		*(*rest)++ = '\0';
	*rest += strspn(*rest, " \t");
	return word;
}

/* Reads a number that one of the units follows: "", or a row of names. */
static bool
take_amount(const char *s, const char *const units[],
    const unsigned factors[], uint64_t most, uint64_t *to)
{
	size_t digits = text_digits(s);

	if (!text_parse_number((struct span){ s, digits }, to))
		return false;
	for (size_t i = 0; units[i] != NULL; i++)
		if (strcasecmp(s + digits, units[i]) == 0) {
			if (*to > most / factors[i])
				return false;
			*to *= factors[i];
			return true;
		}
	return false;
}

static bool
parse_stage(struct rule *r, const char *word)
{
	for (size_t i = 0; i < COUNT(stages); i++)
		if (strcasecmp(stages[i], word) == 0) {
			r->stage = (enum rule_stage)i;
			return true;
		}
	r->stage = RULE_EHLO;
	return strcasecmp(word, "LHLO") == 0;
}

/* The second word.  Returns what is wrong with it, or NULL. */
static const char *
parse_glob(struct rule *r, const char *word)
{
	static const char *const units[] = { "", "K", "M", "G", NULL };
	static const unsigned factors[] = { 1, 1 << 10, 1 << 20, 1 << 30 };

	r->glob = strcmp(word, "<>") == 0 ? "" : word;
	if (*word == '\0')
		return "after the stage comes what it is about, or *";
	if (r->stage != RULE_TEXT && r->stage != RULE_END)
		return NULL;
	if (*word == '>' || (*word == '<' && r->glob == word)) {
		r->compare = *word;
		if (!take_amount(word + 1, units, factors, INT64_MAX, &r->size))
			return "the size is not a number of octets";
		return NULL;
	}
	return r->stage == RULE_TEXT && strcmp(word, "*") != 0
	    ? "TEXT is followed by >SIZE, <SIZE or *" : NULL;
}

/* "\n" and "\\" in a reply's text, where it stands.  False if there is another
   escape. */
static bool
undo_backslashes(char *text)
{
	char *to = text;

	for (; *text != '\0'; text++) {
		if (*text == '\\') {
			text++;
			if (*text != 'n' && *text != '\\')
				return false;
		}
		*to++ = text[0] == 'n' && text[-1] == '\\' ? '\n' : *text;
	}
	*to = '\0';
	return true;
}

static const char *
parse_reply_action(struct rule *r, const char *code, char *rest)
{
	size_t len = text_enhanced(rest);

	r->action = RULE_REPLY;
	r->code = text_code(code);
	if (r->code == 0 || code[3] != '\0')
		return "a reply code has three digits, 200 to 599";
	if (len > 0 && len < sizeof r->enh) {
		if (rest[0] != code[0])
			return "reply code and enhanced code are of different "
			    "classes";
		memcpy(r->enh, rest, len);
		rest += len;
		rest += strspn(rest, " \t");
	}
	if (r->stage == RULE_TEXT && r->code < 400)
		return "TEXT can only be refused, with 400 or more";
	if (!undo_backslashes(rest))
		return "in a reply, a backslash is followed by n or another "
		    "backslash";
	if (strlen(rest) >= REPLY_TEXT)
		return "the reply is too long";
	r->text = *rest != '\0' ? rest : r->code < 400 ? "OK"
	    : r->code < 500 ? "Try again later" : "Refused";
	return NULL;
}

/* "STARTTLS,SIZE" */
static const char *
parse_keywords(struct rule *r, char *list)
{
	char *word;
	size_t len;
	int e;

	if (*list == '\0')
		return "hide is followed by keywords of EHLO, with commas";
	while ((word = strsep(&list, ",")) != NULL) {
		word += strspn(word, " \t");
		len = strcspn(word, " \t");
		e = channel_extension((struct span){ word, len });
		if (e == -1)
			return "hide: EHLO has no such keyword";
		if (word[len + strspn(word + len, " \t")] != '\0')
			return "hide: commas stand between keywords";
		r->amount |= 1U << e;
	}
	return NULL;
}

/* The action that has an argument, and its argument. */
static const char *
parse_argument(struct rule *r, char *rest)
{
	static const char *const times[] = { "", "ms", "s", "m", "h", NULL };
	static const unsigned factors[] = { 1000, 1, 1000, 60000, 3600000 };
	static const char *const rates[] = { "/s", NULL };
	uint64_t n = 0;

	switch (r->action) {
	case RULE_DELAY:
		if (!take_amount(rest, times, factors, INT_MAX, &n))
			return "delay is followed by a time, such as 5s";
		break;
	case RULE_SLOW:
		if (!take_amount(rest, rates, (const unsigned[]){ 1 }, INT_MAX,
		    &n) || n == 0)
			return "slow is followed by a rate, such as 10/s";
		break;
	case RULE_HIDE:
		return parse_keywords(r, rest);
	case RULE_OFFER:
		r->text = rest;
		return *rest == '\0' ? "offer is followed by a line of EHLO"
		    : strlen(rest) > 500 ? "the line of EHLO is too long"
		    : NULL;
	default:
		return *rest != '\0' ? "nothing may follow that action" : NULL;
	}
	r->amount = (unsigned)n;
	return NULL;
}

static const char *
parse_action(struct rule *r, const char *word, char *rest)
{
	size_t i;

	if (text_is_digit(*word))
		return parse_reply_action(r, word, rest);
	for (i = RULE_DELAY; i < COUNT(actions); i++)
		if (strcasecmp(actions[i], word) == 0)
			break;
	if (i == COUNT(actions))
		return *word == '\0' ? "there is no action" : "no such action";
	r->action = (enum rule_action)i;
	if ((r->action == RULE_HIDE || r->action == RULE_OFFER) &&
	    r->stage != RULE_EHLO)
		return "hide and offer belong to EHLO";
	return parse_argument(r, rest);
}

/* Reads one line, which is cut into strings.  Returns what is wrong, or
   NULL. */
static const char *
parse_rule(struct rule *r, char *line)
{
	const char *wrong;
	uint64_t n;
	char *word;

	if (!parse_stage(r, take_word(&line)))
		return "no such stage";
	wrong = parse_glob(r, take_word(&line));
	if (wrong != NULL)
		return wrong;
	word = take_word(&line);
	if (strcasecmp(word, "once") == 0) {
		r->most = 1;
		word = take_word(&line);
	} else if (strcasecmp(word, "first") == 0) {
		word = take_word(&line);
		if (!text_parse_number(span_of(word), &n) || n == 0 ||
		    n > INT_MAX)
			return "first is followed by a number";
		r->most = (unsigned)n;
		word = take_word(&line);
	}
	return parse_action(r, word, line);
}

/* Reads the whole of a file into a string to be freed, or NULL with errno. */
static char *
read_rules_file(const char *name)
{
	char *text;
	long n = file_read_named(-1, name, FILE_MAX, &text);

	if (n != -1 && strlen(text) != (size_t)n) {	/* it has a NUL */
		free(text);
		text = NULL;
		errno = EILSEQ;
	}
	return text;
}

bool
rules_read(struct rules *r, const char *name, char *error, size_t size)
{
	const char *wrong = NULL;
	struct rule *more;
	unsigned number = 0;
	char *rest, *line;
	size_t len;

	r->file = read_rules_file(name);
	if (r->file == NULL) {
		snprintf(error, size, "--rules %s: %s", name, errno == EILSEQ ?
		    "not a text file: it has a NUL" : strerror(errno));
		return false;
	}
	for (rest = r->file; (line = strsep(&rest, "\n")) != NULL;) {
		number++;
		line += strspn(line, " \t");
		for (len = strlen(line); len > 0 &&
		    strchr(" \t\r", line[len - 1]) != NULL; len--)
			line[len - 1] = '\0';
		if (*line == '\0' || *line == '#')
			continue;
		more = table_grow(r->rule, r->n, sizeof *more);
		if (more == NULL) {
			wrong = "out of memory";
			break;
		}
		r->rule = more;
		more[r->n] = (struct rule){ .line = number };
		wrong = parse_rule(&more[r->n++], line);
		if (wrong != NULL)
			break;
	}
	if (wrong != NULL)
		snprintf(error, size, "--rules %s: line %u: %s", name, number,
		    wrong);
	return wrong == NULL;
}

static bool
holds(const struct rule *r, enum rule_stage stage, const char *what,
    uint64_t size, bool whole)
{
	if (r->stage != stage && (r->stage != RULE_ANY || stage == RULE_TEXT))
		return false;
	if ((r->most != 0 && r->used == r->most) ||
	    (stage == RULE_TEXT && r->spent))
		return false;
	if (r->compare == '>')
		return size > r->size;
	if (r->compare == '<')
		return whole && size < r->size;
	return fnmatch(r->glob, what, FNM_CASEFOLD) == 0;
}

const struct rule *
rules_next(struct rules *r, size_t *at, enum rule_stage stage,
    const char *what, uint64_t size, bool whole)
{
	struct rule *rule;

	while (*at < r->n) {
		rule = &r->rule[(*at)++];
		if (!holds(rule, stage, what, size, whole))
			continue;
		rule->used++;
		rule->spent = true;
		return rule;
	}
	return NULL;
}

void
rules_begin_text(struct rules *r)
{
	for (size_t i = 0; i < r->n; i++)
		r->rule[i].spent = false;
}

bool
rules_have(const struct rules *r, enum rule_action action)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->rule[i].action == action)
			return true;
	return false;
}
