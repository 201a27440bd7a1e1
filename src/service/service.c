/*
 * service.c - what all services call the stages of the dialogue and its client.
 */
#include "service/service.h"

#include <string.h>

const char *const service_stage_names[STAGES] = {
	[STAGE_CONNECT] = "CONNECT",
	[STAGE_HELO] = "HELO",
	[STAGE_EHLO] = "EHLO",
	[STAGE_MAIL] = "MAIL",
	[STAGE_RCPT] = "RCPT",
	[STAGE_DATA] = "DATA",
	[STAGE_END_OF_MESSAGE] = "END-OF-MESSAGE",
	[STAGE_VRFY] = "VRFY",
};

static bool
is_local(const struct envelope *env)
{
	return strcmp(env->fact[FACT_CLIENT_ADDRESS], "unix") == 0;
}

const char *
service_client_address(const struct envelope *env)
{
	return is_local(env) ? "127.0.0.1" : env->fact[FACT_CLIENT_ADDRESS];
}

const char *
service_client_name(const struct envelope *env)
{
	const char *name = env->fact[FACT_CLIENT_NAME];

	return is_local(env) ? "localhost" : *name == '\0' ? "unknown" : name;
}
