/*
 * floor.c - what an SMTP session costs if nobody looks at it: reads, and
 * writes canned replies.  Whatever answers on standard input and output in a
 * process of its own costs at least this.
 *
 *	floor [PROGRAM [ARGUMENT]...]
 *
 * It understands a command by its first octet, and takes what one read()
 * returned for one command: enough for clients that wait for each reply.
 * The message is read and dropped, 64 KiB at a time.  With PROGRAM, that is
 * run after each message, and waited for: what a relay that is a program
 * costs at least.
 */
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[65536];
static const char dot[] = "\r\n.\r\n";

#define DOT (sizeof dot - 1)

static void
say(const char *reply)
{
	size_t len = strlen(reply);

	if (write(STDOUT_FILENO, reply, len) != (ssize_t)len)
		_exit(1);
}

/*
 * Reads up to the end of the message.  tail holds the last octets of all
 * that came so far, since the end may arrive in pieces; it begins as the
 * end of DATA's own line, so that an empty message ends too.
 */
static void
skip(void)
{
	char tail[DOT] = "...\r\n";
	ssize_t n;

	while (memcmp(tail, dot, DOT) != 0) {
		n = read(STDIN_FILENO, buffer, sizeof buffer);
		if (n <= 0)
			_exit(1);
		if ((size_t)n >= DOT) {
			memcpy(tail, buffer + n - DOT, DOT);
			continue;
		}
		memmove(tail, tail + n, DOT - (size_t)n);
		memcpy(tail + DOT - n, buffer, (size_t)n);
	}
}

static void
run(char *argv[])
{
	int status;
	pid_t pid;

	if (argv[0] == NULL)
		return;
	if (posix_spawn(&pid, argv[0], NULL, NULL, argv, NULL) != 0 ||
	    waitpid(pid, &status, 0) == -1)
		_exit(1);
}

int
main(int argc, char *argv[])
{
	(void)argc;
	say("220 floor.example.com ESMTP\r\n");
	while (read(STDIN_FILENO, buffer, sizeof buffer) > 0) {
		switch (buffer[0]) {
		case 'E':
		case 'L':
			say("250-floor.example.com\r\n250-PIPELINING\r\n"
			    "250-SIZE 33554432\r\n250 8BITMIME\r\n");
			break;
		case 'D':
			say("354 End data with <CR><LF>.<CR><LF>\r\n");
			skip();
			run(argv + 1);
			say("250 2.0.0 Ok\r\n");
			break;
		case 'Q':
			say("221 2.0.0 Bye\r\n");
			return 0;
		default:
			say("250 2.0.0 Ok\r\n");
		}
	}
	return 1;
}
