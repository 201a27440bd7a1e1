/*
 * service.c - what all services call the stages of the dialogue.
 */
#include "service/service.h"

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
