/*
 * service.h - outside services that are asked during the dialogue.
 */
#ifndef SERVICE_SERVICE_H
#define SERVICE_SERVICE_H

/* When a policy service is asked: protocol_state of Postfix's protocol. */
enum stage {
	STAGE_CONNECT,
	STAGE_HELO,
	STAGE_EHLO,	/* LHLO too */
	STAGE_MAIL,
	STAGE_RCPT,
	STAGE_DATA,
	STAGE_END_OF_MESSAGE,
	STAGE_VRFY,
	STAGES
};

#endif
