/*
 * milter_reply.c - reads the reply that a filter wants a client to get.
 */
#include <string.h>

#include "base/reply.h"
#include "base/text.h"
#include "service/milter_private.h"

/* RFC 5321 4.2: 4yz or 5yz, of which y is 0 to 5.  Returns 0 if it is none. */
static int
refusal_code(const char *p)
{
	int code = text_code(p);

	return code >= 400 && p[1] <= '5' ? code : 0;
}

/* Appends one line's text.  A lone "%" is nothing. */
static void
add_reply_text(char *to, size_t size, size_t *n, const char *p, size_t len)
{
	for (size_t i = 0; i < len && *n + 1 < size; i++) {
		if (p[i] == '%' && (i + 1 == len || p[i + 1] != '%'))
			continue;
		i += p[i] == '%';
		to[(*n)++] = p[i];
	}
	to[*n] = '\0';
}

bool
milter_parse_reply(const char *text, struct reply *r)
{
	const int code = refusal_code(text);
	char enh[12] = "5.0.0", all[REPLY_TEXT] = "";
	size_t n = 0, len, status;

	if (code == 0)
		return false;
	for (bool more = true; more; text += len, text += *text != '\0') {
		if (refusal_code(text) != code || strchr(" -", text[3]) == NULL)
			return false;
		more = text[3] == '-';
		text += text[3] == '\0' ? 3 : 4;
		status = text_enhanced(text);
		if (status > 0 && status < sizeof enh) {
			text_cut(enh, sizeof enh, text, status);
			text += status;
			text += *text == ' ';
		}
		len = strcspn(text, "\n");
		if (n > 0 || all[0] != '\0')
			add_reply_text(all, sizeof all, &n, "\n", 1);
		add_reply_text(all, sizeof all, &n, text,
		    len > 0 && text[len - 1] == '\r' ? len - 1 : len);
		if (text[len] == '\0' && more)
			return false;
	}
	if (*text != '\0')
		return false;
	reply_set(r, code, enh, all[0] == '\0' ? "Command rejected" : all);
	return true;
}
