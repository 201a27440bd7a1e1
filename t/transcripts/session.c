/*
 * session.c - reads transcripts: see session.h.  smtpd-replay parses them, and
 * prints lines of a word, the number of a line in the file, and octets in
 * hexadecimal digits.
 */
#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

struct reader {
	const char *file;
	unsigned line;
	struct session *all;
	size_t n;
};

static _Noreturn void wrong(const struct reader *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void
wrong(const struct reader *r, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%u: ", r->file, r->line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static size_t
number(const struct reader *r, const char *s)
{
	char *end;
	unsigned long n;

	n = strtoul(s, &end, 10);
	if (*s == '\0' || *end != '\0')
		wrong(r, "%s is not a number", s);
	return n;
}

/* What of struct channel_settings an option or a setting changes. */
enum { ON, OFF, SIZE, RECIPIENTS, ERRORS, MESSAGES, LIMIT, BARE, AUTHS,
    FAILURES };

static const struct word {
	const char *name;
	int what;
	size_t offset;		/* of a bool, for ON and OFF */
} words[] = {
#define FLAG(name, what, member) \
	{ name, what, offsetof(struct channel_settings, member) }
	FLAG("--lmtp", ON, lmtp),
	FLAG("--smtputf8", ON, enable_SMTPUTF8),
	FLAG("--decode-data", ON, decode_data),
	FLAG("--proxy-protocol", ON, proxy_protocol),
	{ "--size", SIZE, 0 },
	{ "--max-recipients", RECIPIENTS, 0 },
	{ "--max-errors", ERRORS, 0 },
	{ "--max-messages", MESSAGES, 0 },
	{ "--command-limit", LIMIT, 0 },
	{ "--bare-newline", BARE, 0 },
	{ NULL, 0, 0 }
}, settings[] = {
	FLAG("tls", ON, tls),
	FLAG("tls-on-connect", ON, tls_on_connect),
	FLAG("require-starttls", ON, require_starttls),
	FLAG("auth-required", ON, auth_required),
	FLAG("auth-in-clear", OFF, auth_require_tls),
	FLAG("xclient", ON, xclient),
	FLAG("xforward", ON, xforward),
	FLAG("no-dsn", OFF, dsn),
	{ "auth", AUTHS, 0 },	/* mechanisms, separated by commas */
	{ "auth-failures", FAILURES, 0 },
	{ NULL, 0, 0 }
};

static void
change(const struct reader *r, struct session *s, const struct word *w,
    char *arg)
{
	struct channel_settings *set = &s->set;
	char *p;

	switch (w->what) {
	case ON:
	case OFF:
		*(bool *)((char *)set + w->offset) = w->what == ON;
		break;
	case SIZE:
		set->data_size_limit = number(r, arg);
		break;
	case RECIPIENTS:
		set->max_recipients = number(r, arg);
		break;
	case ERRORS:
		set->max_errors = (unsigned)number(r, arg);
		break;
	case MESSAGES:
		set->max_messages = (unsigned)number(r, arg);
		break;
	case LIMIT:
		s->limits[0].verb = "*";
		s->limits[0].max = (unsigned)number(r, arg);
		break;
	case BARE:
		set->bare_newline = strcmp(arg, "unix") == 0 ? BARE_UNIX :
		    strcmp(arg, "normalize") == 0 ? BARE_NORMALIZE :
		    BARE_REJECT;
		break;
	case AUTHS:
		for (p = arg; (p = strchr(p, ',')) != NULL; )
			*p = ' ';
		set->auth = arg;
		break;
	case FAILURES:
		set->max_auth_failures = (unsigned)number(r, arg);
		break;
	}
}

/* Every word is kept in s->option.  Those of settings too, which smtpd does
   not know: a case that has them is not given to it. */
static void
parse_words(const struct reader *r, struct session *s, const char *line,
    const struct word *table)
{
	const struct word *w;
	char *word[2];
	size_t len;
	int n;

	while (*(line += strspn(line, " ")) != '\0') {
		for (w = table; w->name != NULL; w++) {
			len = strlen(w->name);
			if (strncmp(line, w->name, len) == 0 &&
			    strchr(" =", line[len]) != NULL)
				break;
		}
		if (w->name == NULL)
			wrong(r, "unknown word: %s", line);
		for (n = 0; n < (w->what > OFF ? 2 : 1); n++) {
			line += strspn(line, " =");
			len = strcspn(line, " =");
			if (len == 0 || s->options == SESSION_WORDS)
				wrong(r, "no value, or too many words");
			word[n] = strndup(line, len);
			s->option[s->options++] = word[n];
			line += len;
		}
		change(r, s, w, word[n - 1]);
	}
}

/* hook: STAGE [@WORD] CODE [ENH] TEXT */
static void
parse_hook(const struct reader *r, struct session *s, const char *line)
{
	struct rule *rule = &s->rule[s->rules];
	char stage[16];
	int n = 0, m = 0, i;

	if (s->rules++ == SESSION_RULES)
		wrong(r, "too many hooks");
	if (sscanf(line, "%15s %n", stage, &n) != 1)
		wrong(r, "a hook without a stage");
	for (i = 0; i < STAGES && strcmp(stage, stage_names[i]) != 0; i++)
		;
	if (i == STAGES)
		wrong(r, "no hook is called %s", stage);
	rule->stage = (enum stage)i;
	line += n;
	if (sscanf(line, "@%63s %n", rule->word, &m) == 1)
		line += m;
	if (sscanf(line, "%3d %n", &rule->code, &n) != 1)
		wrong(r, "a hook without a code");
	line += n;
	if (sscanf(line, "%11[0-9.] %n", rule->enh, &m) == 1 &&
	    strchr(rule->enh, '.') != NULL)
		line += m;
	else
		rule->enh[0] = '\0';
	snprintf(rule->text, sizeof rule->text, "%s", line);
}

static struct turn *
add_turn(struct session *s, unsigned line)
{
	struct turn *t;

	s->turn = realloc(s->turn, (s->turns + 1) * sizeof *s->turn);
	assert(s->turn != NULL);
	t = &s->turn[s->turns++];
	*t = (struct turn){ .line = line };
	return t;
}

static struct session *
add_session(struct reader *r, const char *title)
{
	struct session *s;

	r->all = realloc(r->all, (r->n + 1) * sizeof *r->all);
	assert(r->all != NULL);
	s = &r->all[r->n++];
	*s = (struct session){ .line = r->line };
	s->set = (struct channel_settings){
		.fqdn = "mx.example.org",
		.data_size_limit = 33554432,
		.dsn = true,
		.max_recipients = 1000,
		.max_errors = 20,
		.auth_require_tls = true,
		.max_auth_failures = 3
	};
	if (strlen(title) >= sizeof s->title)
		wrong(r, "the title is too long");
	memcpy(s->title, title, strlen(title));
	add_turn(s, r->line);
	return s;
}

/* Adds one line of what smtpd-replay prints: word, and octets as a string. */
static void
take_record(struct reader *r, const char *word, struct text octets)
{
	struct session *s = r->n > 0 ? &r->all[r->n - 1] : NULL;
	struct turn *t = s != NULL ? &s->turn[s->turns - 1] : NULL;

	if (strcmp(word, "title") == 0) {
		add_session(r, octets.p);
	} else if (s == NULL) {
		wrong(r, "no title yet");
	} else if (strcmp(word, "options") == 0) {
		parse_words(r, s, octets.p, words);
	} else if (strcmp(word, "settings") == 0) {
		s->inside = true;
		parse_words(r, s, octets.p, settings);
	} else if (strcmp(word, "hook") == 0) {
		s->inside = true;
		parse_hook(r, s, octets.p);
	} else if (strcmp(word, "turn") == 0) {
		add_turn(s, r->line);
	} else if (strcmp(word, "tls") == 0) {
		add_turn(s, r->line)->tls = true;
	} else if (strcmp(word, "C") == 0) {
		text_add(&t->client, octets.p, octets.len);
	} else if (strcmp(word, "S") == 0) {
		text_add(&t->server, octets.p, octets.len);
	} else if (strcmp(word, "M") == 0) {
		text_add(&s->mail, octets.p, octets.len);
	} else if (strcmp(word, "F") == 0 || strcmp(word, "T") == 0) {
		text_printf(&s->mail, "%s\n", octets.p);
	} else if (strcmp(word, "closed") == 0) {
		s->closed = true;
	} else {
		wrong(r, "what is this? %s", word);
	}
}

static int
nibble(char c)
{
	return c <= '9' ? c - '0' : c - 'a' + 10;
}

struct session *
session_load(const char *file, size_t *n)
{
	struct reader r = { file, 0, NULL, 0 };
	char command[512], *line = NULL, word[16];
	size_t size = 0, i;
	FILE *f;
	int at;

	snprintf(command, sizeof command, "t/tools/smtpd-replay --parse '%s'",
	    file);
	f = popen(command, "re");
	if (f == NULL)
		wrong(&r, "smtpd-replay cannot be run");
	while (getline(&line, &size, f) != -1) {
		struct text octets = { NULL, 0, 0 };

		if (sscanf(line, "%15s %u %n", word, &r.line, &at) != 2)
			wrong(&r, "what is this? %s", line);
		for (; isxdigit((unsigned char)line[at]); at += 2)
			text_add(&octets, &(char){ (char)(nibble(line[at])
			    << 4 | nibble(line[at + 1])) }, 1);
		text_add(&octets, "", 0);
		take_record(&r, word, octets);
		free(octets.p);
	}
	free(line);
	if (pclose(f) != 0)
		wrong(&r, "smtpd-replay cannot read it");
	for (i = 0; i < r.n; i++)
		if (r.all[i].limits[0].verb != NULL)
			r.all[i].set.command_limits = r.all[i].limits;
	*n = r.n;
	return r.all;
}

void
session_free(struct session *s, size_t n)
{
	size_t i, j;

	for (i = 0; i < n; i++) {
		for (j = 0; j < s[i].options; j++)
			free(s[i].option[j]);
		for (j = 0; j < s[i].turns; j++) {
			free(s[i].turn[j].client.p);
			free(s[i].turn[j].server.p);
		}
		free(s[i].turn);
		free(s[i].mail.p);
	}
	free(s);
}
