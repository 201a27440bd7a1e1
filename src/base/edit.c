/*
 * edit.c - changes header and body of a spooled message, into a new spool.
 *
 * A client chooses how many fields a filter finds to delete, to change or to
 * keep under another name, so none of it may cost as much as there are fields:
 * deleted rows stay where they are until places count, there is room in front
 * of the rows too, and each name remembers where it was found last.
 */
#define _GNU_SOURCE	/* reallocarray, tdestroy */
#include "base/edit.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* A name of fields, in any case. */
struct edit_name {
	char *name;		/* in the same memory, after this */
	size_t count;		/* fields that can be seen and have it */
	unsigned shifts;	/* what follows holds for these of the edit */
	/* Of the rows before row, which is counted from the room in front, that
	   many have it. */
	size_t row, before;
};

#define NEWLINE(e) ((e)->crlf ? "\r\n" : "\n")
#define NEWLINE_LEN(e) ((size_t)(e)->crlf + 1)

/* ---- reading the header ---- */

/* What was allocated: the rows, with the room in front of them. */
static struct edit_row *
allocated(const struct edit *e)
{
	return e->front == 0 ? e->rows : e->rows - e->front;
}

static int
add_row(struct edit *e, const struct field *f)
{
	struct edit_row *rows;

	if (e->nrows >= EDIT_FIELDS_MAX) {
		errno = E2BIG;
		return -1;
	}
	rows = table_grow(allocated(e), e->front + e->nrows, sizeof *rows);
	if (rows == NULL)
		return -1;
	e->rows = rows + e->front;
	e->rows[e->nrows++] = (struct edit_row){ .field = *f };
	return 0;
}

/* The same in front of all rows, for which there is room as large as they. */
static int
add_front(struct edit *e)
{
	size_t front = e->nrows, room = 1;
	struct edit_row *rows;

	if (e->nrows >= EDIT_FIELDS_MAX) {
		errno = E2BIG;
		return -1;
	}
	if (e->front == 0) {
		while (room < front + e->nrows)	/* as table_grow() wants it */
			room *= 2;
		rows = reallocarray(e->rows, room, sizeof *rows);
		if (rows == NULL)
			return -1;
		memmove(rows + front, rows, e->nrows * sizeof *rows);
		e->rows = rows + front;
		e->front = front;
		e->shifts++;
		e->shaken = 0;
	}
	e->front--;
	e->rows--;
	e->nrows++;
	return 0;
}

static int
take_field(struct edit *e, const struct field *f)
{
	e->lines += f->lines;
	return add_row(e, f);
}

static int
read_header(struct edit *e)
{
	struct field_reader r;
	enum field_found found = FIELD_MORE;
	char buffer[16384];
	size_t used;
	ssize_t n;

	field_open(&r, e->crlf);
	while (found != FIELD_BODY) {
		n = file_read_at(e->fd, buffer, sizeof buffer, (off_t)r.at);
		if (n == -1)
			return -1;
		for (size_t i = 0; i < (size_t)n && found != FIELD_BODY;
		    i += used) {
			found = field_feed(&r, buffer + i, (size_t)n - i,
			    &used);
			if (found == FIELD_ONE &&
			    take_field(e, &r.field) == -1)
				return -1;
		}
		while (n == 0 && (found = field_finish(&r)) == FIELD_ONE) {
			if (take_field(e, &r.field) == -1)
				return -1;
			e->unended = true;	/* perhaps */
		}
	}
	e->body = r.body;
	e->empty_line = r.empty_line;
	e->lines += r.empty_line;
	return 0;
}

/* Has the file no line end at its end? */
static bool
ends_inside_line(const struct edit *e)
{
	char end[2] = "";

	if (e->stored < NEWLINE_LEN(e) || file_read_at(e->fd, end,
	    NEWLINE_LEN(e), (off_t)(e->stored - NEWLINE_LEN(e))) == -1)
		return true;
	return memcmp(end, NEWLINE(e), NEWLINE_LEN(e)) != 0;
}

/* Has the row that name, in any case? */
static bool
row_is(const struct edit *e, const struct edit_row *row, const char *name,
    size_t len, uint32_t hash)
{
	char is[FIELD_NAME_MAX];

	return row->field.hash == hash && row->field.name == len &&
	    edit_name(e, row, is, sizeof is) == (long)len &&
	    strncasecmp(is, name, len) == 0;
}

bool
edit_is_named(const struct edit *e, const struct edit_row *row,
    const char *name)
{
	size_t len = strlen(name);

	return row_is(e, row, name, len, field_hash(name, len));
}

int
edit_open(struct edit *e, int fd, bool crlf, uint64_t size,
    const char *const hidden[])
{
	struct stat st;
	size_t len;

	memset(e, 0, sizeof *e);
	e->fd = fd;
	e->crlf = crlf;
	e->size = size;
	if (fstat(fd, &st) == -1)
		return -1;
	e->stored = (uint64_t)st.st_size;
	if (read_header(e) == -1)
		return -1;
	e->unended = e->unended && ends_inside_line(e);
	for (; *hidden != NULL && e->nhidden < e->nrows; hidden++) {
		len = strlen(*hidden);
		if (row_is(e, &e->rows[e->nhidden], *hidden, len,
		    field_hash(*hidden, len)))
			e->nhidden++;
	}
	return 0;
}

static void
free_row(struct edit *e, size_t i)
{
	if (e->rows[i].text != NULL)
		e->text -= e->rows[i].len;
	free(e->rows[i].text);
	e->rows[i].text = NULL;
}

void
edit_close(struct edit *e)
{
	for (size_t i = 0; i < e->nrows; i++)
		free_row(e, i);
	free(allocated(e));
	tdestroy(e->names, free);
	if (e->new_body != NULL)
		spool_close(e->new_body);
	free(e->new_body);
	memset(e, 0, sizeof *e);
}

/* The place in rows of the i-th field that is not hidden. */
static size_t
row_place(const struct edit *e, size_t i)
{
	return i < e->hidden ? i : i + e->nhidden;
}

const struct edit_row *
edit_row(const struct edit *e, size_t i)
{
	size_t n = e->nrows - e->nhidden;

	if (e->deleted == 0)
		return i < n ? &e->rows[row_place(e, i)] : NULL;
	for (size_t j = 0; j < n; j++)
		if (!e->rows[row_place(e, j)].deleted && i-- == 0)
			return &e->rows[row_place(e, j)];
	return NULL;
}

/* Copies the octets of a row from offset at to offset end. */
static long
copy_octets(const struct edit *e, const struct edit_row *row, uint64_t at,
    uint64_t end, char *to, size_t size)
{
	size_t len = end - at < size ? (size_t)(end - at) : size, n = 0;
	ssize_t got;

	if (row->text != NULL) {
		memcpy(to, row->text + at, len);
		return (long)len;
	}
	while (n < len) {
		got = file_read_at(e->fd, to + n, len - n, (off_t)(at + n));
		if (got == 0)
			errno = EIO;
		if (got <= 0)
			return -1;
		n += (size_t)got;
	}
	return (long)len;
}

long
edit_name(const struct edit *e, const struct edit_row *row, char *to,
    size_t size)
{
	const struct field *f = &row->field;

	return copy_octets(e, row, f->at, f->at + f->name, to, size);
}

long
edit_value(const struct edit *e, const struct edit_row *row, char *to,
    size_t size)
{
	const struct field *f = &row->field;
	bool last = e->unended && row->text == NULL && f->end == e->stored;

	return copy_octets(e, row, f->value,
	    f->end - (last ? 0 : NEWLINE_LEN(e)), to, size);
}

/* ---- edits ---- */

/* RFC 5322 2.2.  Returns the name's length, or 0 with errno. */
static size_t
check_name(const char *name)
{
	size_t len = 0;

	while (len <= FIELD_NAME_MAX && name[len] > ' ' &&
	    name[len] < '\177' && name[len] != ':')
		len++;
	if (len <= FIELD_NAME_MAX && name[len] == '\0' && len > 0)
		return len;
	errno = EINVAL;
	return 0;
}

/* Writes value, as edit.h says, with our line ends, the last one too.  Returns
   its length.  to may be NULL: then it only counts. */
static size_t
write_value(const struct edit *e, const char *value, char *to, uint64_t *lines)
{
	const char *newline = NEWLINE(e);
	size_t len = strlen(value), n = 0;

	while (len > 0 && (value[len - 1] == '\n' || value[len - 1] == '\r'))
		len--;
	*lines = 1;
	for (const char *p = value; p <= value + len; p++) {
		bool end = p == value + len;

		if (!end && p[0] == '\r' && p[1] == '\n')
			continue;
		if (!end && *p != '\n') {
			if (to != NULL)
				to[n] = *p == '\r' ? ' ' : *p;
			n++;
			continue;
		}
		if (to != NULL)
			memcpy(to + n, newline, NEWLINE_LEN(e));
		n += NEWLINE_LEN(e);
		if (end)
			break;
		++*lines;
		if (p[1] != ' ' && p[1] != '\t') {
			if (to != NULL)
				to[n] = '\t';
			n++;
		}
	}
	return n;
}

static int
compare_names(const void *a, const void *b)
{
	const struct edit_name *one = a, *other = b;

	return strcasecmp(one->name, other->name);
}

/* The entry of a name, which is made if there is none.  NULL with errno. */
static struct edit_name *
enter_name(struct edit *e, const char *name, size_t len)
{
	char copy[FIELD_NAME_MAX + 1];
	struct edit_name key = { .name = copy }, *new;
	void *found;

	memcpy(copy, name, len);
	copy[len] = '\0';
	found = tfind(&key, &e->names, compare_names);
	if (found != NULL)
		return *(struct edit_name **)found;
	new = malloc(sizeof *new + len + 1);
	if (new == NULL)
		return NULL;
	*new = (struct edit_name){ .name = (char *)(new + 1),
		.shifts = e->shifts, .row = e->front };
	memcpy(new->name, copy, len + 1);
	if (tsearch(new, &e->names, compare_names) != NULL)
		return new;
	free(new);
	errno = ENOMEM;
	return NULL;
}

/* Is the row at place i a field of that name, which can be seen? */
static bool
is_seen(const struct edit *e, size_t i, const struct edit_name *name)
{
	return e->rows[i].named == name && !e->rows[i].deleted &&
	    (i < e->hidden || i >= e->hidden + e->nhidden);
}

/* Enters the names of all rows, once.  Returns 0, or -1 with errno. */
static int
enter_names(struct edit *e)
{
	char name[FIELD_NAME_MAX];
	struct edit_name *entry;
	long len;

	for (size_t i = 0; !e->named && i < e->nrows; i++) {
		len = edit_name(e, &e->rows[i], name, sizeof name);
		if (len == -1 || (entry = enter_name(e, name,
		    (size_t)len)) == NULL)
			return -1;
		e->rows[i].named = entry;
		if (!is_seen(e, i, entry))
			continue;
		if (entry->count++ == 0)
			entry->row = e->front + i;
	}
	e->named = true;
	return 0;
}

/* The place of the n-th field of that name, from 1, or nrows; from where it was
   found last. */
static size_t
find_nth(const struct edit *e, struct edit_name *name, size_t n)
{
	size_t i;

	if (n > name->count)
		return e->nrows;
	if (name->shifts != e->shifts || name->row < e->shaken ||
	    n <= name->before / 2) {
		name->row = e->front;
		name->before = 0;
	}
	name->shifts = e->shifts;
	i = name->row - e->front;
	while (n <= name->before)
		name->before -= is_seen(e, --i, name);
	for (; i < e->nrows; i++) {
		if (!is_seen(e, i, name))
			continue;
		if (name->before + 1 == n)
			break;
		name->before++;
	}
	name->row = e->front + i;
	return i;
}

/* Drops the rows that are deleted. */
static void
close_gaps(struct edit *e)
{
	size_t kept = 0, hidden = 0;

	for (size_t i = 0; e->deleted > 0 && i < e->nrows; i++) {
		hidden += i < e->hidden && e->rows[i].deleted;
		if (!e->rows[i].deleted)
			e->rows[kept++] = e->rows[i];
	}
	if (e->deleted == 0)
		return;
	e->nrows = kept;
	e->hidden -= hidden;
	e->deleted = 0;
	e->shifts++;
}

/* Makes row a new field.  Returns 0, or -1 with errno. */
static int
make_row(struct edit *e, struct edit_row *row, const char *name,
    const char *value)
{
	size_t len = check_name(name), n;
	struct field *f = &row->field;
	uint64_t lines;

	if (len == 0)
		return -1;
	n = len + 1 + write_value(e, value, NULL, &lines);
	if (n > EDIT_TEXT_MAX - e->text) {
		errno = E2BIG;
		return -1;
	}
	row->text = malloc(n);
	if (row->text == NULL)
		return -1;
	row->len = n;
	memcpy(row->text, name, len);
	row->text[len] = ':';
	write_value(e, value, row->text + len + 1, &lines);
	*f = (struct field){ 0, len + 1, n, (uint32_t)len,
		field_hash(name, len), lines };
	row->named = NULL;
	if (e->named && (row->named = enter_name(e, name, len)) == NULL) {
		free(row->text);
		return -1;
	}
	e->text += n;
	e->changed = true;
	return 0;
}

/* Puts a new field at place at in rows: those move that are fewer, the ones
   before it or the ones after it. */
static int
put_row(struct edit *e, size_t at, const char *name, const char *value)
{
	struct edit_row row = { .text = NULL };
	const bool front = at < e->nrows / 2;

	if (make_row(e, &row, name, value) == -1)
		return -1;
	e->shifts += !front && at < e->nrows;
	if ((front ? add_front(e) : add_row(e, &row.field)) == -1) {
		e->text -= row.len;
		free(row.text);
		return -1;
	}
	if (front)
		memmove(e->rows, e->rows + 1, at * sizeof row);
	else
		memmove(e->rows + at + 1, e->rows + at,
		    (e->nrows - 1 - at) * sizeof row);
	if (front && at > 0 && e->shaken < e->front + at + 1)
		e->shaken = e->front + at + 1;
	e->rows[at] = row;
	if (row.named != NULL) {
		row.named->count++;
		row.named->before += front;
	}
	return 0;
}

/* Is none of the first n rows deleted? */
static bool
are_whole(const struct edit *e, size_t n)
{
	for (size_t i = 0; e->deleted > 0 && i < n; i++)
		if (e->rows[i].deleted)
			return false;
	return true;
}

/* Where a filter's i-th place is in rows.  Our own fields count as one, even if
   there are none. */
static size_t
filters_place(const struct edit *e, size_t i)
{
	const size_t seen = e->nrows - e->nhidden;

	if (i <= e->hidden)
		return i;
	return e->nhidden + (i - 1 < seen ? i - 1 : seen);
}

int
edit_insert(struct edit *e, size_t i, const char *name, const char *value)
{
	bool before;

	if (!are_whole(e, filters_place(e, i)))
		close_gaps(e);
	before = i <= e->hidden;
	if (put_row(e, filters_place(e, i), name, value) == -1)
		return -1;
	e->hidden += before;
	return 0;
}

int
edit_add(struct edit *e, const char *name, const char *value)
{
	if (e->nrows >= EDIT_FIELDS_MAX)
		close_gaps(e);
	return put_row(e, e->nrows, name, value);
}

int
edit_change(struct edit *e, size_t n, const char *name, const char *value)
{
	size_t len = check_name(name), at;
	struct edit_row row = { .text = NULL };
	struct edit_name *entry;

	if (len == 0)
		return -1;
	if (enter_names(e) == -1 || (entry = enter_name(e, name, len)) == NULL)
		return -1;
	at = find_nth(e, entry, n);
	if (at == e->nrows)
		return value == NULL ? 0 : edit_add(e, name, value);
	if (value != NULL && make_row(e, &row, name, value) == -1)
		return -1;
	free_row(e, at);
	if (value != NULL)
		e->rows[at] = row;
	e->rows[at].deleted = value == NULL;
	e->deleted += value == NULL;
	entry->count -= value == NULL;
	e->changed = true;
	return 0;
}

int
edit_remove(struct edit *e, size_t n, const char *name)
{
	size_t len = check_name(name), kept = 0, hidden = 0;
	uint32_t hash = field_hash(name, len);

	if (len == 0)
		return -1;
	close_gaps(e);
	for (size_t i = 0; i < e->nrows; i++) {
		const bool own = i >= e->hidden && i < e->hidden + e->nhidden;

		if (!own && row_is(e, &e->rows[i], name, len, hash) &&
		    (n == 0 || --n == 0)) {
			free_row(e, i);
			if (e->rows[i].named != NULL)
				e->rows[i].named->count--;
			hidden += i < e->hidden;
			e->changed = true;
		} else {
			e->rows[kept++] = e->rows[i];
		}
	}
	e->nrows = kept;
	e->hidden -= hidden;
	e->shifts++;
	return 0;
}

int
edit_body(struct edit *e, const char *p, size_t len)
{
	if (e->new_body == NULL) {
		e->new_body = malloc(sizeof *e->new_body);
		if (e->new_body == NULL)
			return -1;
		spool_open(e->new_body, e->crlf ? SPOOL_CRLF : SPOOL_LF, NULL,
		    NULL);
		e->changed = true;
	}
	spool_write(e->new_body, p, len);
	return 0;
}

/* ---- the new message ---- */

/* Copies octets of the header, with the line end that its last line lacks.
   Returns the octets that it added. */
static uint64_t
copy_run(const struct edit *e, struct spool *s, uint64_t from, uint64_t end)
{
	spool_copy(s, e->fd, from, end - from);
	if (end == from || end != e->stored || !e->unended)
		return 0;
	spool_write(s, NEWLINE(e), NEWLINE_LEN(e));
	return 2;
}

/* Writes the fields; those that stand together in the message are copied
   together.  Returns their size with CRLF line ends. */
static uint64_t
write_rows(const struct edit *e, struct spool *s)
{
	uint64_t size = 0, from = 0, end = 0;

	for (size_t i = 0; i < e->nrows; i++) {
		const struct edit_row *row = &e->rows[i];
		const struct field *f = &row->field;

		if (row->deleted)
			continue;
		size += f->end - f->at + (e->crlf ? 0 : f->lines);
		if (row->text == NULL && f->at == end) {
			end = f->end;
			continue;
		}
		size += copy_run(e, s, from, end);
		from = row->text == NULL ? f->at : 0;
		end = row->text == NULL ? f->end : 0;
		if (row->text != NULL)
			spool_write(s, row->text, row->len);
	}
	return size + copy_run(e, s, from, end);
}

int
edit_finish(struct edit *e, uint64_t *size)
{
	struct spool *s = malloc(sizeof *s);
	uint64_t body = e->stored - e->body;
	int fd, error;

	if (s == NULL)
		return -1;
	spool_open(s, SPOOL_CRLF, NULL, NULL);	/* octets as they are */
	*size = write_rows(e, s);
	if (e->empty_line || body > 0 || e->new_body != NULL) {
		spool_write(s, NEWLINE(e), NEWLINE_LEN(e));
		*size += 2;
	}
	if (e->new_body == NULL) {
		spool_copy(s, e->fd, e->body, body);
		*size += e->size - e->body - (e->crlf ? 0 : e->lines);
	} else if (spool_finish(e->new_body) == -1) {
		s->error = e->new_body->error;
	} else {
		spool_copy(s, e->new_body->fd, 0, e->new_body->stored);
		*size += e->new_body->size;
	}
	fd = spool_finish(s);
	error = s->error;
	if (fd == -1)
		spool_close(s);
	free(s);
	errno = error;
	return fd;
}
