#!/bin/bash
# Runs `make check' with programs that count, and prints what nothing reached
# (lines, and conditions that never had one of their two values), then how
# many of each room's lines and branches were reached.
#
# The counters are a file that every process maps when it starts, so those
# count too that end by _exit() or a signal, or in their jail.  One thing they
# get wrong: where both processes go on after a fork, what one of them does is
# inferred from what the other did not.
#
# It cleans before and after: nothing else may be built from these objects.
#
#	t/tools/coverage.sh FILE.c ...

set -eu -o pipefail

counts=$PWD/t/out/san/counts
count="-gdwarf-4 -fprofile-instr-generate=$counts/%c%m -fcoverage-mapping
    -mllvm -runtime-counter-relocation -Wno-unused-command-line-argument"
count=${count//$'\n'/}
status=0

trap 'make -s clean' EXIT
make -s clean
# What is loaded into what counts, and what must have no symbols but its own.
make -s t/out/san/fault.so t/out/ping t/out/loop t/out/server
mkdir -m 777 "$counts"
# Lazy binding would leave registers, and so what was wiped, on the stack.
counting=(CC=clang CFLAGS="-O1 $count" SAN="-O1 -Wl,-z,now $count"
    LDFLAGS="$count")
make -s "${counting[@]}" all suites
# smtpd starts smtpd-tls as another user, too.
./smtpd --version >/dev/null
./smtpd-tls --version >/dev/null
chmod 666 "$counts"/*_*
make -s "${counting[@]}" check || status=$?
llvm-profdata merge -o "$counts/all" "$counts"/*_*
rooms=(-instr-profile="$counts/all" smtpd -object smtpd-tls "$@")
llvm-cov show -show-branches=count "${rooms[@]}" | awk -F'|' '
	/^[^ ].*\.c:$/	{ sub(/.*\//, ""); file = $0 }
	/^ *[0-9]+\|/	{ text = $0; sub(/^[^|]*\|[^|]*\|[ \t]*/, "", text)
			  line = file $1 + 0 ": " }
	/^ *[0-9]+\| +0\|/	{ print line "never: " text }
	/True: 0, False: [^0]/	{ print line "never true: " text }
	/True: [^0].*False: 0]/	{ print line "never false: " text }'
llvm-cov report "${rooms[@]}" | awk '
	$1 ~ /^(TOTAL|.*\.c)$/ { print $1 ":", $8 - $9, "of", $8, "lines,",
				     $11 - $12, "of", $11, "branches" }'
exit $status
