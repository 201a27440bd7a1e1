/*
 * field.c - a message's header is read the same however it is cut, its fields
 * touch each other, and editing it back and forth changes no other octet.
 *
 * The first octet says which line ends the message has, and what is edited.
 */
#define _GNU_SOURCE	/* memfd_create, memmem */
#include <sys/mman.h>
#include <unistd.h>

#include "base/edit.h"
#include "t/fuzz/fuzz.h"

/* Reads all of it in steps of step octets.  Returns a sum of all that was
   told. */
static uint64_t
read_all(bool crlf, const char *p, size_t len, size_t step,
    struct field_reader *r)
{
	uint64_t sum = 0, end = 0;
	enum field_found found = FIELD_MORE;
	size_t used, n;

	field_open(r, crlf);
	while (found != FIELD_BODY) {
		n = len < step ? len : step;
		found = n == 0 ? field_finish(r) : field_feed(r, p, n, &used);
		if (n != 0) {
			demand(used <= n, "more used than given");
			demand(used > 0 || found != FIELD_MORE, "stands still");
			p += used;
			len -= used;
		}
		if (found != FIELD_ONE)
			continue;
		demand(r->field.at == end && r->field.name > 0 &&
		    r->field.value > r->field.at + r->field.name &&
		    r->field.end >= r->field.value, "field out of place");
		end = r->field.end;
		sum = (sum * 31 + end) * 31 + r->field.value + r->field.hash +
		    r->field.lines;
	}
	demand(r->body == end + (r->empty_line ? 1U + crlf : 0U),
	    "body does not follow the header");
	return sum * 31 + r->body;
}

static void
edit_and_undo(bool crlf, unsigned how, const char *p, size_t len)
{
	static const char *const hidden[] = { "received", NULL };
	static char was[8192], is[8192];
	int fd = memory_file(p, len), one, two;
	uint64_t size, again;
	struct edit e;

	demand(edit_open(&e, fd, crlf, len, hidden) == 0, "not opened");
	demand(edit_insert(&e, how, "X-Fuzz", " a\nb: c\r\r\n\n") == 0,
	    "not inserted");
	one = edit_finish(&e, &size);
	demand(one != -1, "not written");
	edit_close(&e);
	demand(edit_open(&e, one, crlf, size, hidden) == 0, "not opened");
	demand(edit_change(&e, 1, "x-fUZZ", NULL) == 0, "not deleted");
	demand(e.changed, "the new field is none");
	two = edit_finish(&e, &again);
	edit_close(&e);
	demand(two != -1, "not written");
	/* The message's own X-Fuzz may have been first. */
	if (len < sizeof was && memmem(p, len, "X-", 2) == NULL &&
	    memmem(p, len, "x-", 2) == NULL) {
		size_t from = (size_t)pread(two, is, sizeof is, 0);
		size_t all = (size_t)pread(fd, was, sizeof was, 0);
		size_t i = 0, k = 0;

		/* An empty line may have been needed. */
		for (; i < from; i++)
			if (k < all && is[i] == was[k])
				k++;
			else
				demand(is[i] == '\r' || is[i] == '\n',
				    "an octet out of nothing");
		demand(k == all, "an octet is lost");
	}
	close(fd);
	close(one);
	close(two);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct field_reader a, b;
	const char *p = (const char *)data + 1;
	bool crlf;

	if (size < 1)
		return 0;
	crlf = (*data & 1) != 0;
	demand(read_all(crlf, p, size - 1, size, &a) ==
	    read_all(crlf, p, size - 1, 1, &b), "chunks matter");
	edit_and_undo(crlf, *data / 2, p, size - 1);
	return 0;
}
