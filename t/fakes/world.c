/*
 * world.c - what a test of the relay room has around it.
 */
#define _GNU_SOURCE	/* asprintf */
#include <sys/stat.h>
#include <sys/wait.h>

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/reply.h"
#include "relay.h"
#include "t/fakes/world.h"

char dir[64], tmp[80], *journal;
int descriptors;
struct relay_settings set;
struct recipient to[3];
struct envelope env;

static size_t journal_len;
static FILE *journal_file;

int
entries(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	cr_assert(d != NULL, "%s: %s", path, strerror(errno));
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n - 2;
}

static void
take_note(void *ctx, int priority, const char *event,
    const struct envelope *e, const char *text)
{
	(void)ctx;
	(void)priority;
	(void)e;
	fprintf(journal_file, "%s %s\n", event, text);
	fflush(journal_file);
}

void
world_begin(void)
{
	size_t i;

	snprintf(dir, sizeof dir, "/tmp/relay.XXXXXX");
	cr_assert(mkdtemp(dir) != NULL);
	chmod(dir, 0755);
	snprintf(tmp, sizeof tmp, "%s/tmp", dir);
	mkdir(tmp, 0777);
	chmod(tmp, 0777);
	setenv("TMPDIR", tmp, 1);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	memset(&set, 0, sizeof set);
	set.fqdn = "mx.example.org";
	set.print = -1;
	set.timeout = 60;
	set.next_timeout = 30;
	set.log.log = take_note;
	for (i = 0; i < FACTS; i++)
		env.fact[i] = "";
	env.fact[FACT_SENDER] = "a@example.org";
	env.fact[FACT_QUEUE_ID] = "Q1";
	to[0] = (struct recipient){ "c+x@example.com", "" };
	to[1] = (struct recipient){ "d@example.net", "NOTIFY=NEVER" };
	to[2] = (struct recipient){ "e@example.net", "" };
	env.recipients = to;
	env.nrecipients = 1;
	env.size = 12;
	journal_file = open_memstream(&journal, &journal_len);
	fflush(journal_file);
	descriptors = entries("/proc/self/fd");
}

void
world_end(void)
{
	char command[128];

	cr_assert(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD,
	    "a child is left");
	cr_assert_eq(entries("/proc/self/fd"), descriptors,
	    "a descriptor is left");
	cr_assert_eq(entries(tmp), 0, "a file is left in TMPDIR");
	fclose(journal_file);
	free(journal);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
}

char *
in_dir(const char *name)
{
	static char path[4][256];
	static unsigned i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
	return path[i];
}

void
write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	cr_assert(fd != -1);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	fchmod(fd, mode);
	close(fd);
}

char *
script(const char *name, const char *body)
{
	char *path = in_dir(name), *text;

	cr_assert(asprintf(&text, "#!/bin/sh\n%s\n", body) > 0);
	write_file(path, text, 0755);
	free(text);
	return path;
}

char *
slurp(const char *path)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = fopen(path, "r"), *m = open_memstream(&text, &len);
	int c;

	cr_assert(f != NULL, "%s: %s", path, strerror(errno));
	while ((c = getc(f)) != EOF)
		putc(c, m);
	fclose(f);
	fclose(m);
	return text;
}

char *
only_file(const char *folder)
{
	DIR *d = opendir(in_dir(folder));
	struct dirent *e;
	char *text = NULL, path[512];

	cr_assert(d != NULL);
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		cr_assert(text == NULL, "more than one");
		cr_assert(strchr(e->d_name, ':') == NULL);
		snprintf(path, sizeof path, "%s/%s", in_dir(folder),
		    e->d_name);
		text = slurp(path);
	}
	closedir(d);
	cr_assert(text != NULL, "none in %s", folder);
	return text;
}

struct spool *
spooled(enum spool_form form, const char *text, size_t len)
{
	struct spool *s = malloc(sizeof *s);

	spool_open(s, form, NULL, NULL);
	spool_write(s, text, len);
	spool_finish(s);
	cr_assert_eq(s->error, 0, "%s", strerror(s->error));
	return s;
}

struct reply
relay_text(const char *text, size_t len)
{
	struct reply v[3];
	char error[256];
	struct relay *r = relay_open(&set, error, sizeof error);
	struct spool *s;

	cr_assert(r != NULL, "%s", error);
	s = spooled(relay_form(r), text, len);
	memset(v, 0, sizeof v);
	if (s->fd > 0)
		lseek(s->fd, 0, SEEK_END);
	relay_deliver(r, &env, s->fd, v);
	spool_close(s);
	free(s);
	relay_close(r);
	return v[0];
}

struct reply
relay_to(const char *spec)
{
	set.spec = spec;
	return relay_text("Subject: t\r\n\r\nbody\r\n", 20);
}

struct reply
relay_program(char *const argv[])
{
	set.spec = NULL;
	set.program = argv;
	return relay_text("Subject: t\r\n\r\nbody\r\n", 20);
}

struct reply
relay_script(const char *body)
{
	char *argv[] = { script("prog", body), NULL };

	return relay_program(argv);
}

void
expect_at(int line, const struct reply *v, int code, const char *enh,
    const char *text)
{
	cr_assert(v->code == code && strcmp(v->enh, enh) == 0 &&
	    strcmp(v->text, text) == 0,
	    "line %d: got %d %s %s\nlog: %s", line, v->code, v->enh, v->text,
	    journal);
}

bool
logged(const char *text)
{
	return strstr(journal, text) != NULL;
}

void
journal_forget(void)
{
	fseek(journal_file, 0, SEEK_SET);
	memset(journal, 0, journal_len);
}
