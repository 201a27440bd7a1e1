/*
 * outcome.c - what a program prints, and its exit status, as a reply.
 */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <syslog.h>

#include "base/reply.h"
#include "base/text.h"
#include "relay/outcome.h"

/* The line is complete. */
static void
end_line(const struct job *j, struct talk *t)
{
	if (t->len > 0 && t->line[t->len - 1] == '\r')
		t->len--;
	t->line[t->len] = '\0';
	if (t->reply && !t->heard)
		memcpy(t->first, t->line, t->len + 1);
	else if (++t->lines <= OUTPUT_LINES)
		logger_printf(&j->r->set->log, t->priority, "program", j->env,
		    "%s: %s", j->r->set->program[0], t->line);
	t->heard = true;
	t->len = 0;
}

void
talk_take(const struct job *j, struct talk *t, const char *p, size_t len)
{
	const char *end;
	size_t n, room;

	while (len > 0) {
		end = memchr(p, '\n', len);
		n = end != NULL ? (size_t)(end - p) : len;
		room = sizeof t->line - 1 - t->len;
		memcpy(t->line + t->len, p, n < room ? n : room);
		t->len += n < room ? n : room;
		if (end != NULL) {
			end_line(j, t);
			n++;
		}
		p += n;
		len -= n;
	}
}

void
talk_end(const struct job *j, struct talk *t)
{
	if (t->len > 0)
		end_line(j, t);
	if (t->lines > OUTPUT_LINES)
		logger_printf(&j->r->set->log, t->priority, "program", j->env,
		    "%s: %lu more lines", j->r->set->program[0],
		    t->lines - OUTPUT_LINES);
}

#define ANY_STATUS -1

/* What a program's exit status means: sysexits(3). */
static const struct outcome {
	short status, code;
	char enh[6], text[32];
} outcomes[] = {
	{ EX_OK, 250, "2.0.0", "" },
	{ EX_NOUSER, 550, "5.1.1", "No such user" },
	{ EX_NOHOST, 550, "5.1.2", "No such host" },
	{ EX_DATAERR, 554, "5.6.0", "The message is not acceptable" },
	{ EX_NOPERM, 550, "5.7.1", "Not permitted" },
	{ EX_UNAVAILABLE, 554, "5.3.0", "Mail is not accepted here" },
	{ EX_TEMPFAIL, 451, "4.3.0", "Try again later" },
	{ EX_OSERR, 451, "4.3.0", "Local error in processing" },
	{ EX_CONFIG, 451, "4.3.5", "Local configuration error" },
	{ ANY_STATUS, 451, "4.3.0", "Local error in processing" },
};

/*
 * How many octets come before the text of a line that is a reply, or the first
 * line of a refusal: "450 ", "550 5.1.1 " or "550-5.1.1 ", with the numbers in
 * *code and enh[12].  0: it is no reply, for that has a code of RFC 5321 4.2
 * and a text.
 */
static size_t
parse_reply(const char *line, int *code, char *enh)
{
	size_t len, n;

	*code = text_code(line);
	if (*code == 0 || *line == '3' || line[1] > '5' ||
	    (line[3] != ' ' && (line[3] != '-' || *line == '2')))
		return 0;
	len = 4 + strspn(line + 4, " ");
	n = text_enhanced(line + len);
	if (n == 0)
		snprintf(enh, 12, "%c.0.0", *line);
	else
		text_cut(enh, 12, line + len, n);
	len += n;
	len += strspn(line + len, " ");
	return line[len] == '\0' ? 0 : len;
}

/* The line is no reply: it is the text of the status's, perhaps after an
   enhanced code of the same class. */
static void
take_explanation(const struct outcome *o, const char *line, struct reply *v)
{
	size_t n = text_enhanced(line);
	char enh[12];

	if (line[strspn(line, " \t")] == '\0')
		return;
	text_copy(enh, sizeof enh, o->enh);
	if (n > 0 && line[0] == '0' + o->code / 100 && line[n] == ' ') {
		text_cut(enh, sizeof enh, line, n);
		line += n + strspn(line + n, " ");
	}
	reply_set(v, o->code, enh, line);
}

/* If one of the two is temporary, so is the reply; but a status that has no
   meaning of its own leaves that to the line. */
void
outcome_judge(const struct job *j, int status, const char *line,
    struct reply *v)
{
	const struct outcome *o = outcomes;
	char enh[12];
	int code;
	size_t len;

	while (o->status != ANY_STATUS && o->status != status)
		o++;
	if (o->text[0] != '\0')
		reply_set(v, o->code, o->enh, o->text);
	if (o->status == ANY_STATUS || o->status == EX_CONFIG)
		logger_printf(&j->r->set->log, LOG_ERR, "program", j->env,
		    "%s: exit status %d", j->r->set->program[0], status);
	len = parse_reply(line, &code, enh);
	if (len == 0) {
		take_explanation(o, line, v);
		return;
	}
	if (code < 300 && o->code >= 400) {
		logger_printf(&j->r->set->log, LOG_WARNING, "program", j->env,
		    "%s: said \"%s\" and exited with %d",
		    j->r->set->program[0], line, status);
		return;
	}
	if (code < 300)
		code = 250;	/* no other 2yz can answer a message */
	if (code >= 500 && o->code < 500 && o->code >= 400 &&
	    o->status != ANY_STATUS) {
		code = o->code;
		text_copy(enh, sizeof enh, o->enh);
	}
	reply_set(v, code, enh, line + len);
}
