/*
 * session.c - reads transcripts: see session.h for their form.
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

static const char *unescape(const struct reader *r, struct text *t,
    const char *p, char end);

/* {12 text}: p stands behind the brace; returns what follows the other. */
static const char *
repeat(const struct reader *r, struct text *t, const char *p)
{
	struct text once = { NULL, 0, 0 };
	size_t n;
	char *text;

	n = strtoul(p, &text, 10);
	if (*text != ' ')
		wrong(r, "{ without a number and a space");
	p = unescape(r, &once, text + 1, '}');
	while (n-- > 0)
		text_add(t, once.p, once.len);
	free(once.p);
	return p;
}

static const char *
unescape(const struct reader *r, struct text *t, const char *p, char end)
{
	static const char names[] = "rnt0\\{}", values[] = "\r\n\t\0\\{}";
	const char *name;
	char c;
	unsigned hex;

	while (*p != end) {
		if (*p == '\0')
			wrong(r, "no %c", end);
		if (*p == '{') {
			p = repeat(r, t, p + 1);
			continue;
		}
		c = *p++;
		if (c == '\\' && *p == 'x' && sscanf(p, "x%2x", &hex) == 1) {
			c = (char)hex;
			p += 3;
		} else if (c == '\\') {
			name = *p == '\0' ? NULL : strchr(names, *p);
			if (name == NULL)
				wrong(r, "unknown escape \\%c", *p);
			c = values[name - names];
			p++;
		}
		text_add(t, &c, 1);
	}
	return end == '\0' ? p : p + 1;
}

/* hook: STAGE [@WORD] CODE [ENH] TEXT */
static void
parse_hook(const struct reader *r, struct session *s, const char *line)
{
	struct rule *rule = &s->rule[s->rules];
	struct text text = { NULL, 0, 0 };
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
	unescape(r, &text, line, '\0');
	snprintf(rule->text, sizeof rule->text, "%s", text.p);
	free(text.p);
}

/* "X: text" or "X| text": what X says, into t. */
static void
say(const struct reader *r, struct text *t, const char *line)
{
	bool raw = line[1] == '|';
	const char *p = line + 2;

	if (*p == ' ')
		p++;
	else if (*p != '\0')
		wrong(r, "no space after %.2s", line);
	if (raw) {
		unescape(r, t, p, '\0');
	} else {
		text_add(t, p, strlen(p));
		text_add(t, "\r\n", 2);
	}
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

/* after: TITLE - the case begins as the other one did. */
static void
follow(struct reader *r, struct session *s, const char *title)
{
	const struct session *o;
	struct turn *t;
	size_t i;

	for (o = r->all; o < s && strcmp(o->title, title) != 0; o++)
		;
	if (o == s || o->inside || s->turns != 1 || s->turn[0].server.len != 0)
		wrong(r, "can not come after that");
	for (i = 0; i < o->options; i++)
		s->option[s->options++] = strdup(o->option[i]);
	s->set = o->set;
	s->limits[0] = o->limits[0];
	for (i = 0; i < o->turns; i++) {
		t = i == 0 ? &s->turn[0] : add_turn(s, r->line);
		t->tls = o->turn[i].tls;
		text_add(&t->client, o->turn[i].client.p,
		    o->turn[i].client.len);
		text_add(&t->server, o->turn[i].server.p,
		    o->turn[i].server.len);
	}
	text_add(&s->mail, o->mail.p, o->mail.len);
}

static void
parse_line(struct reader *r, struct session *s, char *line)
{
	struct turn *t = &s->turn[s->turns - 1];

	if (strcmp(line, "TLS") == 0) {
		add_turn(s, r->line)->tls = true;
	} else if (strcmp(line, "CLOSED") == 0) {
		s->closed = true;
	} else if (strncmp(line, "after: ", 7) == 0) {
		follow(r, s, line + 7);
	} else if (strncmp(line, "options: ", 9) == 0) {
		parse_words(r, s, line + 9, words);
	} else if (strncmp(line, "settings: ", 10) == 0) {
		s->inside = true;
		parse_words(r, s, line + 10, settings);
	} else if (strncmp(line, "hook: ", 6) == 0) {
		s->inside = true;
		parse_hook(r, s, line + 6);
	} else if (line[1] != ':' && line[1] != '|') {
		wrong(r, "what is this? %s", line);
	} else if (line[0] == 'C') {
		if (t->server.len != 0 || s->turns == 1)
			t = add_turn(s, r->line);
		say(r, &t->client, line);
	} else if (line[0] == 'S') {
		say(r, &t->server, line);
	} else if (line[0] == 'M') {
		say(r, &s->mail, line);
	} else if (line[0] == 'F' || line[0] == 'T') {
		text_printf(&s->mail, "%s\n", line);
	} else {
		wrong(r, "what is this? %s", line);
	}
}

struct session *
session_load(const char *file, size_t *n)
{
	struct reader r = { file, 0, NULL, 0 };
	char line[4096];
	FILE *f;
	size_t i, len;

	f = fopen(file, "re");
	if (f == NULL)
		wrong(&r, "can not be opened");
	while (fgets(line, sizeof line, f) != NULL) {
		r.line++;
		len = strlen(line);
		if (len == 0 || line[len - 1] != '\n')
			wrong(&r, "a NUL, or too long");
		line[len - 1] = '\0';
		if (len == 1 || line[0] == '#')
			continue;
		if (strncmp(line, "== ", 3) == 0)
			add_session(&r, line + 3);
		else if (r.n == 0)
			wrong(&r, "no \"== title\" yet");
		else
			parse_line(&r, &r.all[r.n - 1], line);
	}
	fclose(f);
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
