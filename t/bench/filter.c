/*
 * filter.c - a mail filter that hears everything and continues, for the bench.
 *
 *	filter PORT	listens on 127.0.0.1, until it is ended
 */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include <libmilter/mfapi.h>

static sfsistat
at_connect(SMFICTX *ctx, char *name, _SOCK_ADDR *address)
{
	(void)ctx;
	(void)name;
	(void)address;
	return SMFIS_CONTINUE;
}

/* HELO, and a command that is none. */
static sfsistat
at_word(SMFICTX *ctx, char *word)
{
	(void)ctx;
	(void)word;
	return SMFIS_CONTINUE;
}

static sfsistat
at_unknown(SMFICTX *ctx, const char *command)
{
	(void)ctx;
	(void)command;
	return SMFIS_CONTINUE;
}

/* MAIL and RCPT. */
static sfsistat
at_path(SMFICTX *ctx, char **words)
{
	(void)ctx;
	(void)words;
	return SMFIS_CONTINUE;
}

static sfsistat
at_field(SMFICTX *ctx, char *name, char *value)
{
	(void)ctx;
	(void)name;
	(void)value;
	return SMFIS_CONTINUE;
}

static sfsistat
at_body(SMFICTX *ctx, unsigned char *text, size_t len)
{
	(void)ctx;
	(void)text;
	(void)len;
	return SMFIS_CONTINUE;
}

/* DATA, the ends of header, message, transaction and session. */
static sfsistat
at_step(SMFICTX *ctx)
{
	(void)ctx;
	return SMFIS_CONTINUE;
}

int
main(int argc, char *argv[])
{
	struct smfiDesc filter = {
		.xxfi_name = "continue",
		.xxfi_version = SMFI_VERSION,
		.xxfi_connect = at_connect,
		.xxfi_helo = at_word,
		.xxfi_envfrom = at_path,
		.xxfi_envrcpt = at_path,
		.xxfi_header = at_field,
		.xxfi_eoh = at_step,
		.xxfi_body = at_body,
		.xxfi_eom = at_step,
		.xxfi_abort = at_step,
		.xxfi_close = at_step,
		.xxfi_unknown = at_unknown,
		.xxfi_data = at_step,
	};
	char place[64];

	if (argc != 2 || strlen(argv[1]) > 5) {
		fputs("usage: filter PORT\n", stderr);
		return EX_USAGE;
	}
	snprintf(place, sizeof place, "inet:%s@127.0.0.1", argv[1]);
	if (smfi_register(filter) == MI_FAILURE ||
	    smfi_setconn(place) == MI_FAILURE || smfi_main() == MI_FAILURE)
		return EX_UNAVAILABLE;
	return 0;
}
