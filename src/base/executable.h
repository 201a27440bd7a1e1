/*
 * executable.h - whether a program can be started, and why not.
 */
#ifndef BASE_EXECUTABLE_H
#define BASE_EXECUTABLE_H

#include <stddef.h>

/*
 * What keeps this process from executing program, which is looked for in PATH
 * if it has no slash, as execvp(3) does.  Returns an errno, with a sentence in
 * why[0..size) that names a script's interpreter where that is at fault; 0 if
 * nothing is in its way, as far as that shows without starting it.
 */
int	executable_fault(const char *program, char *why, size_t size);

/* Why program could not be executed, which failed with that errno: returns why,
   with a sentence of at most size octets. */
const char *executable_reason(const char *program, int error, char *why,
	    size_t size);

#endif
