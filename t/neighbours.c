/*
 * neighbours.c - what the calls to nexthop.c, policy.c and routes.c come to
 * where those were not loaded, or can not be.
 */
#include <criterion/criterion.h>

#include "../neighbours.c"	/* in place of the rooms themselves */

Test(neighbours, who_was_not_loaded_has_no_mechanism)
{
	struct envelope env = { .fact = { "" } };
	struct verdict v = { .code = 0 };
	char user[8] = "somebody";

	cr_assert_str_eq(auth_mechanisms(NULL, &env), "");
	auth_step(NULL, &env, "EXTERNAL", NULL, &v, user, sizeof user);
	cr_assert_eq(v.code, 504);
	cr_assert_str_eq(v.enh, "5.5.4");
	cr_assert_str_eq(user, "");
}

Test(neighbours, what_was_not_opened_is_closed_without_a_word)
{
	nexthop_close(NULL);
	policy_close(NULL);
	auth_abandon(NULL);
	auth_close(NULL);
	routes_close(NULL);
}

Test(neighbours, what_can_not_be_loaded_is_a_sentence)
{
	static const struct {
		const char *path, *why;
	} cases[] = {
		{ "/no/such/file", "/no/such/file: " },
		{ "Makefile", "can not be loaded: " },	/* but it is there */
		{ "libc.so.6", "undefined symbol: neighbours" },
	};
	char error[512];

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		cr_assert(!neighbours_load(cases[i].path, error,
		    sizeof error));
		cr_assert_eq(strncmp(error, "next hops, ", 11), 0, "%s", error);
		cr_assert_not_null(strstr(error, cases[i].why), "%s", error);
		cr_assert_null(them);
	}
}
