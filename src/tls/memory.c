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
#define HEAD sizeof(size_t)	/* in front of a piece: what it has room for */
#define CHUNK 1048576		/* octets; untouched pages cost nothing */
#define PIECE_MAX (CHUNK / 4)	/* with its head; a larger one is mapped */
#define PAGE 4096
#define KINDS 192

static struct {
	char *next, *end;	/* what is left of the chunk */
	void *freed[KINDS];	/* each begins with a pointer to one more */
} memory;

static size_t *
room_of(void *piece)
{
	return (size_t *)piece - 1;
}

/* Rounds the units of a piece up to four significant bits, so that there are
   few kinds.  Returns the kind. */
static unsigned
kind_of(size_t *units)
{
	unsigned shift = 0;

	while ((*units - 1) >> shift >= 16)
		shift++;
	*units = (((*units - 1) >> shift) + 1) << shift;
	return shift * 16 + (unsigned)(*units >> shift) - 1;
}

static void *
map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p != MAP_FAILED ? p : NULL;
}

/* Cuts so many units off the chunk. */
static void *
cut(size_t units)
{
	char *p = memory.next;

	if (p == NULL || (size_t)(memory.end - p) <= units * UNIT) {
		p = map(CHUNK);
		if (p == NULL)
			return NULL;
		memory.end = p + CHUNK;
	}
	memory.next = p + units * UNIT;
	p += UNIT;
	*room_of(p) = units * UNIT - HEAD;
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
		*room_of(p) = size;
		return p;
	}
	kind = kind_of(&units);
	p = memory.freed[kind];
	if (p == NULL)
		return cut(units);
	memory.freed[kind] = *p;
	*p = NULL;
	return p;
}

void
memory_give(void *piece, const char *file, int line)
{
	void **p = piece;
	size_t room, units;
	unsigned kind;

	(void)file, (void)line;
	if (p == NULL)
		return;
	room = *room_of(p);
	explicit_bzero(p, room);
	if (room > PIECE_MAX - HEAD) {
		munmap((char *)piece - UNIT, room + UNIT);
		return;
	}
	units = (room + HEAD) / UNIT;
	kind = kind_of(&units);
	*p = memory.freed[kind];
	memory.freed[kind] = p;
}

void *
memory_resize(void *piece, size_t size, const char *file, int line)
{
	void *fresh;

	if (piece == NULL)
		return memory_take(size, file, line);
	if (size == 0) {
		memory_give(piece, file, line);
		return NULL;
	}
	if (size <= *room_of(piece))
		return piece;
	fresh = memory_take(size, file, line);
	if (fresh != NULL) {
		memcpy(fresh, piece, *room_of(piece));
		memory_give(piece, file, line);
	}
	return fresh;
}

void
memory_renew(void)
{
	memset(memory.freed, 0, sizeof memory.freed);
	memory.next += (uintptr_t)-(uintptr_t)memory.next % PAGE;
}
