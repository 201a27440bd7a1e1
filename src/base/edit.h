/*
 * edit.h - changes header and body of a spooled message, into a new spool.
 *
 * Edits are made to a list of the header's fields; nothing is copied until
 * edit_finish(), which writes new fields and copies all other octets in runs.
 * Memory grows with the number of fields, not with the message.
 */
#ifndef BASE_EDIT_H
#define BASE_EDIT_H

#include "base/field.h"
#include "base/spool.h"

#define EDIT_FIELDS_MAX 100000	/* fields of a message, new ones too */
#define EDIT_TEXT_MAX (16 << 20)	/* octets of new fields */

struct edit_name;

struct edit_row {
	char *text;		/* a new field, with its line end; owned.  NULL:
				   it is in the spool */
	size_t len;		/* octets of text */
	struct field field;	/* in text: offsets in it */
	struct edit_name *named;	/* NULL: nobody has asked by name yet */
	bool deleted;
};

struct edit {
	int fd;			/* the message; borrowed */
	bool crlf;		/* its line ends, and the new spool's */
	bool changed;		/* there is anything to finish */
	uint64_t size;		/* octets of it with CRLF line ends */
	uint64_t stored;	/* octets of the file */
	struct edit_row *rows;	/* the header's fields; owned */
	size_t nrows;
	size_t front;		/* rows for which there is room before these */
	size_t deleted;		/* how many of them are */
	void *names;		/* a tree of struct edit_name; owned */
	bool named;		/* all rows are */
	unsigned shifts;	/* how often rows have moved */
	size_t shaken;		/* beyond it, from the room in front, no row has
				   moved since */
	/* Rows from hidden, nhidden of them, are our own fields, which nobody
	   sees; see edit_open(). */
	size_t hidden, nhidden;
	uint64_t body;		/* where the body begins */
	uint64_t lines;		/* line ends before it */
	bool empty_line;	/* it follows an empty line */
	bool unended;		/* the header's last line has no line end */
	size_t text;		/* octets of new fields */
	struct spool *new_body;	/* NULL: the body stays; owned */
};

/*
 * Reads the header of the message fd, which has size octets with CRLF line
 * ends.  hidden has the names of the fields that we wrote in front of it, up to
 * NULL: as far as the first fields have these names they are not counted below.
 * Returns 0, or -1 with errno: E2BIG for more than EDIT_FIELDS_MAX fields.
 * The caller calls edit_close() in any case.
 */
int	edit_open(struct edit *e, int fd, bool crlf, uint64_t size,
	    const char *const hidden[]);

/* The i-th field that is not hidden, from 0, or NULL. */
const struct edit_row *edit_row(const struct edit *e, size_t i);

/* Whether the field has that name, in any case. */
bool	edit_is_named(const struct edit *e, const struct edit_row *row,
	    const char *name);

/* Copies the field's name or value to to[0..size), as far as it has room, as it
   is, without the line end after it.  Returns the octets copied, or -1 with
   errno. */
long	edit_name(const struct edit *e, const struct edit_row *row, char *to,
	    size_t size);
long	edit_value(const struct edit *e, const struct edit_row *row, char *to,
	    size_t size);

/*
 * The edits.  All return 0, or -1 with errno: EINVAL if name cannot be one,
 * E2BIG beyond the limits.  value is what follows the colon: LF or CRLF
 * separates its lines, a blank is put in front of a line that has none, and
 * what would be a lone CR becomes a blank: one field stays one field.
 */

/* As filters count: 0 is in front of all fields, our own too; i is in front of
   the i-th of the others, from 1.  What is too much is the end. */
int	edit_insert(struct edit *e, size_t i, const char *name,
	    const char *value);
/* At the end of the header. */
int	edit_add(struct edit *e, const char *name, const char *value);
/* The n-th field of that name, from 1.  value NULL deletes it.  Where there is
   none, nothing is deleted, or the field is added at the end. */
int	edit_change(struct edit *e, size_t n, const char *name,
	    const char *value);
/* Deletes the n-th field of that name, from 1, and all that follow it. */
int	edit_remove(struct edit *e, size_t n, const char *name);
/* Appends octets to what replaces the body, with CRLF line ends; the first call
   begins it.  A failure is told by edit_finish(). */
int	edit_body(struct edit *e, const char *p, size_t len);

/* Makes the new message: its spool, rewound, which the caller closes, and its
   size with CRLF line ends.  Returns -1 with errno. */
int	edit_finish(struct edit *e, uint64_t *size);

/* Frees everything but the new message.  Legal on a zeroed struct, and
   twice. */
void	edit_close(struct edit *e);

#endif
