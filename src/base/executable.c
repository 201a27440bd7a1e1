/*
 * executable.c - whether a program can be started, and why not.
 *
 * execve(2) says the same of a script that is missing as of one whose
 * interpreter is, so its first line is read.
 */
#define _GNU_SOURCE	/* AT_EACCESS */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/executable.h"
#include "base/file.h"
#include "base/text.h"

#define HEAD 256		/* octets that the kernel looks at */

/* 0 if it is a file that may be executed, else an errno. */
static int
try_file(const char *path)
{
	struct stat st;

	if (stat(path, &st) == -1)
		return errno;
	if (!S_ISREG(st.st_mode))
		return EACCES;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

/* The file that is executed for program, if *error becomes 0.  *hidden: one may
   be in a folder of PATH that this user may not enter. */
static const char *
find_file(const char *program, char file[PATH_MAX], int *error, bool *hidden)
{
	const char *path = file_search_path();
	int one;

	*error = ENOENT;
	*hidden = false;
	if (strchr(program, '/') != NULL) {
		*error = try_file(program);
		return program;
	}
	while (path != NULL && *error != 0) {
		one = file_in_path(&path, program, file, PATH_MAX)
		    ? try_file(file) : ENAMETOOLONG;
		if (one == ENOENT)
			continue;
		*hidden = one == EACCES && access(file, F_OK) == -1 &&
		    (*error == ENOENT || *hidden);
		*error = one;
	}
	return file;
}

/* The first octets of a file, with NUL; "" if they cannot be read, as where it
   may only be executed.  Returns false then. */
static bool
read_head(const char *file, char head[HEAD + 1])
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd == -1 ? -1 : read(fd, head, HEAD);

	file_close(&fd);
	head[n > 0 ? n : 0] = '\0';
	return n != -1;
}

/* May the kernel know how to start files of other kinds, by binfmt_misc? */
static bool
knows_others(void)
{
	int fd = open("/proc/sys/fs/binfmt_misc", O_RDONLY | O_DIRECTORY |
	    O_CLOEXEC);
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	bool others = false;

	while (d != NULL && (entry = readdir(d)) != NULL)
		if (entry->d_name[0] != '.' &&
		    strcmp(entry->d_name, "register") != 0 &&
		    strcmp(entry->d_name, "status") != 0)
			others = true;
	if (d != NULL)
		closedir(d);
	else
		file_close(&fd);
	return others;
}

/* Is what follows the interpreter a program that env(1) looks for? */
static bool
is_for_env(const char *interpreter, const char *argument)
{
	const char *slash = strrchr(interpreter, '/');

	return slash != NULL && strcmp(slash, "/env") == 0 &&
	    *argument != '\0' && *argument != '-' &&
	    strchr(argument, '=') == NULL;
}

/* line is what follows "#!". */
static int
judge_script(char *line, char *why, size_t size)
{
	char *name, *argument, file[PATH_MAX];
	bool hidden;
	int error;

	line[strcspn(line, "\n")] = '\0';
	name = line + strspn(line, " \t");
	argument = name + strcspn(name, " \t");
	if (*argument != '\0')
		*argument++ = '\0';
	argument += strspn(argument, " \t");
	for (size_t n = strlen(argument); n > 0 &&
	    strchr(" \t", argument[n - 1]) != NULL; n--)
		argument[n - 1] = '\0';
	error = try_file(name);
	if (error == 0 && is_for_env(name, argument)) {
		name = argument;
		find_file(name, file, &error, &hidden);
	}
	if (error != 0 && strchr(name, '\r') != NULL)
		text_copy(why, size, "its first line ends in CR LF");
	else if (error != 0)
		snprintf(why, size, "its interpreter %s: %s", name,
		    strerror(error));
	return error;
}

int
executable_fault(const char *program, char *why, size_t size)
{
	char file[PATH_MAX], head[HEAD + 1];
	const char *found;
	bool hidden;
	int error;

	found = find_file(program, file, &error, &hidden);
	if (error == 0 && read_head(found, head)) {
		if (text_starts(head, "#!"))
			return judge_script(head + 2, why, size);
		if (!text_starts(head, "\177ELF") && !knows_others()) {
			snprintf(why, size, "%s: it begins neither with #! nor "
			    "as an ELF file", strerror(ENOEXEC));
			return ENOEXEC;
		}
	}
	if (error != 0)
		text_join(why, size, strerror(error), hidden ? ": not in a "
		    "folder of PATH that may be entered" : "", NULL);
	return error;
}

const char *
executable_reason(const char *program, int error, char *why, size_t size)
{
	if (executable_fault(program, why, size) != error)
		text_copy(why, size, strerror(error));
	return why;
}
