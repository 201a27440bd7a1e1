/*
 * sasl_test.c - who a client says that it is, by the first message of each
 * mechanism.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "relay/sasl.h"

#define SAID(text) text, sizeof text - 1

static const struct {
	const char *mechanism, *said;
	size_t len;
	const char *name;
} rows[] = {
	{ "PLAIN", SAID("\0jo\0secret"), "jo" },
	/* The name that it proves, not the one that it wants to act for. */
	{ "PLAIN", SAID("root\0jo\0secret"), "jo" },
	{ "PLAIN", SAID("\0jo"), "" },
	{ "PLAIN", SAID("jo"), "" },
	{ "PLAIN", SAID(""), "" },
	{ "PLAIN", SAID("\0\0x"), "" },
	{ "LOGIN", SAID("jo@example.com"), "jo@example.com" },
	{ "LOGIN", SAID("j\0o"), "" },
	{ "CRAM-MD5", SAID("jo b913a602c7eda7a495b4e6e7334d3890"), "jo" },
	{ "CRAM-MD5", SAID("jo smith b913"), "jo smith" },
	{ "CRAM-MD5", SAID("jo"), "" },
	{ "CRAM-MD5", SAID("jo "), "" },
	{ "CRAM-MD5", SAID(" b913"), "" },
	{ "SCRAM-SHA-1", SAID("n,,n=user,r=fyko"), "user" },
	{ "SCRAM-SHA-256", SAID("y,,n=user,r=fyko"), "user" },
	{ "SCRAM-SHA-512", SAID("p=tls-unique,,n=user,r=fyko"), "user" },
	{ "SCRAM-SHA-256", SAID("n,a=root,n=user,r=fyko"), "user" },
	{ "SCRAM-SHA-256", SAID("n,,n=a=2Cb=3Dc,r=fyko"), "a,b=c" },
	{ "SCRAM-SHA-256", SAID("n,a=x=2Cn=3Dy,n=user,r=fyko"), "user" },
	{ "SCRAM-SHA-256", SAID("n,,n=a=2cb,r=fyko"), "" },
	{ "SCRAM-SHA-256", SAID("n,,n=a=,r=fyko"), "" },
	{ "SCRAM-SHA-256", SAID("n,,n=a=3,r=fyko"), "" },
	{ "SCRAM-SHA-256", SAID("n,,m=ext,n=user,r=fyko"), "" },
	{ "SCRAM-SHA-256", SAID("n,,r=fyko,n=user"), "" },
	{ "SCRAM-SHA-256", SAID("n,,n=user"), "" },
	{ "SCRAM-SHA-256", SAID("n,n=user,r=fyko"), "" },
	{ "SCRAM-SHA-256", SAID("x,,n=user,r=fyko"), "" },
	{ "SCRAM-SHA-256", SAID("n,b=x,n=user,r=fyko"), "" },
	{ "SCRAM-SHA-256", SAID(",,n=user,r=fyko"), "" },
	{ "SCRAM-SHA-256", SAID("p"), "" },
	{ "OAUTHBEARER", SAID("n,a=jo@example.com,\1auth=Bearer x\1\1"),
	    "jo@example.com" },
	{ "OAUTHBEARER", SAID("n,a=a=2Cb,\1auth=Bearer x\1\1"), "a,b" },
	{ "OAUTHBEARER", SAID("n,,\1auth=Bearer x\1\1"), "" },
	{ "XOAUTH2", SAID("user=jo@example.com\1auth=Bearer x\1\1"),
	    "jo@example.com" },
	{ "XOAUTH2", SAID("auth=Bearer x\1user=jo\1\1"), "" },
	{ "XOAUTH2", SAID("user=jo"), "" },
	{ "GSSAPI", SAID("\0jo\0secret"), "" },
	{ "PLAINER", SAID("\0jo\0secret"), "" },
	{ "SCRAM", SAID("n,,n=user,r=fyko"), "" },
};

Test(sasl, name_is_found_in_the_first_message_of_a_mechanism)
{
	char name[64];
	char *said;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		/* A copy, so that the sanitizer sees what is read beyond. */
		said = malloc(rows[i].len);
		cr_assert_not_null(said);
		memcpy(said, rows[i].said, rows[i].len);
		memset(name, 'x', sizeof name);
		sasl_name(name, sizeof name, rows[i].mechanism, said,
		    rows[i].len);
		free(said);
		cr_assert_str_eq(name, rows[i].name, "row %zu: %s: \"%s\"", i,
		    rows[i].mechanism, name);
	}
}

Test(sasl, name_that_does_not_fit_is_none)
{
	char name[4];

	sasl_name(name, sizeof name, "LOGIN", SAID("abc"));
	cr_assert_str_eq(name, "abc");
	sasl_name(name, sizeof name, "LOGIN", SAID("abcd"));
	cr_assert_str_eq(name, "");
}
