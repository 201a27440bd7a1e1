#!/bin/bash
# Runs `make check' with rooms that count, and prints how many of each one's
# lines were reached.  Processes that end by a signal, by _exit() or in their
# jail tell nothing, so smtpd.c and monitor.c look worse than they are.
#
# It cleans before and after: nothing else may be built from these objects.
#
#	t/coverage.sh FILE.c ...

set -eu -o pipefail

trap 'make -s clean' EXIT
make -s clean
make -s SAN='-O0 -g --coverage' SMTPD=t/san/smtpd check
gcov -n -o t/san "$@" 2>/dev/null | awk -F"[':]" '
	/^File/	{ file = $2 }
	/^Lines/ && file ~ /^[a-z]+\.c$/	{ print file ":", $2 }
	/^Lines/	{ file = "" }'
