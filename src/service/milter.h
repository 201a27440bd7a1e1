/*
 * milter.h - asks a mail filter that speaks Sendmail's milter protocol.
 */
#ifndef SERVICE_MILTER_H
#define SERVICE_MILTER_H

#include "service/service.h"

#define MILTERS_MAX 8		/* filters of a session */

extern const struct service service_milter;

#endif
