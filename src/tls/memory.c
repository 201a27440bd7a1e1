/*
 * memory.c - OpenSSL's memory.
 *
 * Before a handshake is over OpenSSL asks for some 10,000 small pieces.  Here
 * a piece is cut off the end of a chunk, or is one that was freed: the program
 * executes 8 % less than with malloc().  A freed piece is wiped: OpenSSL is
 * careful with keys once they are keys, but not with the text and DER that
 * they come in.  There is one thread.
 */
#define _GNU_SOURCE	/* explicit_bzero, MAP_ANONYMOUS */
#include <sys/mman.h>

#include <stdint.h>
#include <string.h>

#include "tls/tls.h"

#define UNIT 16			/* octets: what malloc() aligns to */
#define HEAD sizeof(size_t)	/* in front of a piece: its kind, or its size */
#define CHUNK 1048576		/* octets; untouched pages cost nothing */
#define HUGE 2097152		/* of a huge page, on most machines */
#define PIECE_MAX (CHUNK / 4)	/* with its head; a larger one is mapped */
#define KINDS 192

static struct {
	char *next, *end;	/* what is left of the chunk */
	bool stays;		/* the next chunk is of a process that stays */
	void *freed[KINDS];	/* each begins with a pointer to one more */
} memory;

static size_t *
head_of(void *piece)
{
	return (size_t *)piece - 1;
}

/* Rounds the units of a piece up to four significant bits, so that there are
   few kinds.  Returns the kind. */
static inline unsigned
kind_of(size_t *units)
{
	unsigned shift = 0;

	if (*units <= 16)
		return (unsigned)*units - 1;
	while ((*units - 1) >> shift >= 16)
		shift++;
	*units = (((*units - 1) >> shift) + 1) << shift;
	return shift * 16 + (unsigned)(*units >> shift) - 1;
}

/* The octets for which a piece with that head has room.  What is mapped is
   larger than a kind's number. */
static inline size_t
room_of(size_t head)
{
	return head >= KINDS ? head
	    : (head % 16 + 1) * UNIT * ((size_t)1 << head / 16) - HEAD;
}

static void *
map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p != MAP_FAILED ? p : NULL;
}

/*
 * A process that stays has all that is made before a handshake, some 220 pages,
 * in one huge page if the kernel has one: a fork then copies one entry, and the
 * end of the process that was forked finds one page.  That is 5 % of what TLS
 * costs a session.
 */
static char *
huge_chunk(void)
{
	char *p = map(2 * HUGE);

	if (p == NULL)
		return NULL;
	p += -(uintptr_t)p % HUGE;
	madvise(p, HUGE, MADV_HUGEPAGE);
	memory.end = p + HUGE;
	memory.stays = false;
	return p;
}

static char *
chunk(void)
{
	char *p = map(CHUNK);

	memory.end = p == NULL ? NULL : p + CHUNK;
	return p;
}

/* Cuts a piece of so many units and that kind off the chunk. */
static void *
cut(size_t units, unsigned kind)
{
	char *p = memory.next;

	if (p == NULL || (size_t)(memory.end - p) <= units * UNIT) {
		p = memory.stays ? huge_chunk() : chunk();
		if (p == NULL)
			return memory.next = NULL;
	}
	memory.next = p + units * UNIT;
	p += UNIT;
	*head_of(p) = kind;
	return p;
}

void *
memory_take(size_t size, const char *file, int line)
{
	size_t units = (size + HEAD + UNIT - 1) / UNIT;
	unsigned kind;
	void **p;

	(void)file, (void)line;
	if (size > PIECE_MAX - HEAD) {
		p = size < SIZE_MAX - UNIT ? map(size + UNIT) : NULL;
		if (p == NULL)
			return NULL;
		p += UNIT / sizeof *p;
		*head_of(p) = size;
		return p;
	}
	kind = kind_of(&units);
	p = memory.freed[kind];
	if (p == NULL)
		return cut(units, kind);
	memory.freed[kind] = *p;
	*p = NULL;
	return p;
}

void
memory_give(void *piece, const char *file, int line)
{
	void **p = piece;
	size_t head, room;

	(void)file, (void)line;
	if (p == NULL)
		return;
	head = *head_of(p);
	room = room_of(head);
	explicit_bzero(p, room);
	if (head >= KINDS) {
		munmap((char *)piece - UNIT, room + UNIT);
		return;
	}
	*p = memory.freed[head];
	memory.freed[head] = p;
}

void *
memory_resize(void *piece, size_t size, const char *file, int line)
{
	size_t room;
	void *fresh;

	if (piece == NULL)
		return memory_take(size, file, line);
	if (size == 0) {
		memory_give(piece, file, line);
		return NULL;
	}
	room = room_of(*head_of(piece));
	if (size <= room)
		return piece;
	fresh = memory_take(size, file, line);
	if (fresh != NULL) {
		memcpy(fresh, piece, room);
		memory_give(piece, file, line);
	}
	return fresh;
}

void
memory_stay(void)
{
	memory.stays = true;
}

void
memory_renew(void)
{
	memset(memory.freed, 0, sizeof memory.freed);
	memory.next = NULL;
}
