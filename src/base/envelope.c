/*
 * envelope.c - the names of the facts.
 */
#include "base/envelope.h"

#define FACT_ROW(fact, variable, argument, set_by, report) \
	[FACT_##fact] = { variable, argument, report, set_by },

const struct fact_names fact_names[FACTS] = { FACT_TABLE(FACT_ROW) };
