/*
 * table.c - what smtpd-neighbours.so shows of the rooms in it: the table that
 * neighbours.c looks for.
 */
#include "neighbours.h"

extern const struct neighbours neighbours;

const struct neighbours neighbours __attribute__((visibility("default"))) = {
	VERSION, nexthop_valid, nexthop_close, tls_start, fan_rcpt, fan_out,
	policy_open, policy_ask, policy_discards, policy_redirects,
	policy_forget, policy_close, auth_open, auth_mechanisms, auth_step,
	auth_abandon, auth_close, routes_close
};
