/*
 * mailbox.c - any value of From:.
 *  - What is told of it lies in it, and it is read the same with a comment
 *    before, after and a fold in front.
 *  - With another address in the place of the one it has it is read as that
 *    one, with the same name.
 *  - The first name with an address after it is one mailbox.
 */
#include "base/mailbox.h"
#include "base/text.h"
#include "t/fuzz/fuzz.h"

#define VALUE_MAX 4096
#define ADDRESS "printer@example.com"

static bool
same(struct span s, const char *p, size_t len)
{
	return s.len == len && (len == 0 || memcmp(s.p, p, len) == 0);
}

/* Reads the strings one after the other, each of which may have NULs. */
static bool
reread(const struct span part[], size_t n, struct mailbox_list *l)
{
	static char all[VALUE_MAX + 256];
	size_t len = 0;

	for (size_t i = 0; i < n; i++) {
		if (part[i].len > 0)
			memcpy(all + len, part[i].p, part[i].len);
		len += part[i].len;
	}
	return mailbox_read((struct span){ all, len }, l);
}

#define LITERAL(s) (struct span){ s, sizeof s - 1 }

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct span value = { (const char *)data, size }, part[3];
	struct mailbox_list l, m;
	bool good;

	if (size > VALUE_MAX)
		return 0;
	good = mailbox_read(value, &l);
	part[0] = LITERAL("\r\n (a \\) \"(b) c)\t");
	part[1] = value;
	part[2] = LITERAL("(x)\n\t ");
	demand(reread(part, 2, &m) == good, "a comment in front matters");
	if (!good)	/* it may be a comment without an end */
		return 0;
	demand(reread(part, 3, &m), "comments matter");
	demand(m.count == l.count && m.one == l.one && m.whole == l.whole &&
	    m.name.len == l.name.len, "comments change what is read");
	demand(!l.one || l.count == 1, "one that is not one");
	demand(l.name.len == 0 || (l.name.p >= value.p &&
	    l.name.p + l.name.len <= value.p + size), "a name out of nothing");
	if (l.count > 0)
		demand(l.address.p >= value.p && l.address.len > 0 &&
		    l.address.p + l.address.len <= value.p + size,
		    "an address out of nothing");
	if (l.one) {
		part[0] = (struct span){ value.p,
			(size_t)(l.address.p - value.p) };
		part[1] = LITERAL(ADDRESS);
		part[2] = (struct span){ l.address.p + l.address.len,
			(size_t)(value.p + size - l.address.p -
			(long)l.address.len) };
		demand(reread(part, 3, &m) && m.one && m.whole &&
		    same(m.address, ADDRESS, sizeof ADDRESS - 1) &&
		    same(m.name, l.name.p, l.name.len),
		    "no address in its place");
	}
	if (l.name.len > 0) {
		part[0] = l.name;
		part[1] = LITERAL(" <" ADDRESS ">");
		demand(reread(part, 2, &m) && m.one && m.whole &&
		    same(m.name, l.name.p, l.name.len), "a name that is none");
	}
	return 0;
}
