/*
 * table.c - what smtpd-neighbours.so shows of nexthop.c and policy.c: the
 * table that neighbours.c looks for.
 */
#include "neighbours.h"

extern const struct neighbours neighbours;

const struct neighbours neighbours __attribute__((visibility("default"))) = {
	VERSION, nexthop_valid, nexthop_open, nexthop_offer, nexthop_send,
	nexthop_abandon, nexthop_close, tls_start, policy_open, policy_ask,
	policy_discards, policy_redirects, policy_forget, policy_close,
	auth_open, auth_mechanisms, auth_step, auth_abandon, auth_close,
	routes_read, routes_find, routes_close
};
