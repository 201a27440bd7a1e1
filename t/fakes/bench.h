/*
 * bench.h - what a test of a service has around it, and the service's peer.
 */
#ifndef BENCH_H
#define BENCH_H

#include <sys/types.h>

#include "base/envelope.h"
#include "base/logger.h"
#include "base/reply.h"
#include "service/auth_source.h"
#include "service/service.h"

#define ROOM 65536

/* One test's surroundings: a directory, a log, perhaps a peer. */
struct bench {
	char dir[32];
	char place[64];		/* "unix:DIR/socket" */
	char log[ROOM];		/* what was logged, line by line */
	struct logger logger;
	pid_t peer;
	struct envelope env;
	struct recipient recipients[2];
	struct reply v;
	struct service_message message;	/* as the service left it */
	char prepend[SERVICE_PREPEND];
	char user[256];
	char text[ROOM];	/* of a file that was read back */
};

struct bench	*bench_open(void);
void	bench_close(struct bench *b);

/* A path in its directory; good until the fourth call after. */
const char	*bench_path(const struct bench *b, const char *name);

void	bench_save(const struct bench *b, const char *name, const char *text,
	    mode_t mode);

/* Reads a file into b->text, and returns that; empty if there is none. */
const char	*bench_load(struct bench *b, const char *name);

/*
 * Starts a child that listens at b->place and does what script says, up to its
 * NULL: "<" reads until end, and appends that to the file "heard"; ">text" says
 * text; "x" hangs up and waits for the next client; "w" waits until the client
 * hangs up, "g" until the test opens the FIFO "go", and "d" until it opens the
 * FIFO "done".
 */
void	bench_peer(struct bench *b, const char *end,
	    const char *const *script);

/* The same at a socket that listens already. */
void	bench_peer_at(struct bench *b, int listener, const char *end,
	    const char *const *script);

/* Waits until the peer has come to its script's end.  Returns what it heard. */
const char	*bench_heard(struct bench *b);

/* Opens the source KIND:FILE, FILE in its directory, without a limit. */
struct auth	*open_auth(struct bench *b, const char *kind, const char *name);

/* One step of an exchange, as auth_step() has it; returns its code, and leaves
   the reply in b->v and the user in b->user. */
int	step(struct bench *b, struct auth *a, const char *name,
	    const char *response);

/* len octets of s in base64; good until the fourth call after. */
const char	*base64(const char *s, size_t len);

#define B64(s) base64(s, sizeof(s) - 1)

/* What Dovecot says first. */
#define HANDSHAKE ">VERSION\t1\t2\nMECH\tPLAIN\tplaintext\n" \
	"MECH\tLOGIN\tplaintext\nMECH\tSCRAM-SHA-256\tmutual-auth\n" \
	"MECH\tANONYMOUS\tanonymous\nMECH\tAPOP\tprivate\tactive\n" \
	"MECH\tEXTERNAL\nMECH\tSCRAM-SHA-256-PLUS\nMECH\tlower\n" \
	"MECH\tWAY-TOO-LONG-A-NAME-FOR-IT\nMECH\t\nMECH\n" \
	"MECH\tBLANK IN\nSPID\t1\nCUID\t1\nCOOKIE\tabc\nDONE\n"

#endif
