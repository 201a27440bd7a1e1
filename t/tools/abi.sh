#!/bin/bash
# Prints what a program that is linked with libsmtpd-channel.so depends on: its
# soname, its symbols, each value of channel.h's enums and macros, and where
# each member of its structs is, as clang lays them out where pointers have 64
# bits.  lint compares that with src/channel/abi.
#
#	t/tools/abi.sh LIBRARY.so >src/channel/abi
#
# Lines may be added to that file with a higher CHANNEL_VERSION_MINOR.  Where
# one changes or goes away, programs must be built again: raise the Makefile's
# ABI.

set -eu -o pipefail

readelf -d "$1" | sed -n 's/.*soname: \[\(.*\)\]/soname \1/p'
nm -D --defined-only "$1" | sed -n 's/.* T \(.*\)@@\(.*\)/symbol \1 \2/p'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
names=$(sed -nE -e 's/^\t([A-Z][A-Z0-9_]+)[, \t].*/\1/p' \
    -e 's/^\t([A-Z][A-Z0-9_]+)$/\1/p' \
    -e 's/^#define ((CHANNEL|VERB|REPLY)_[A-Z_]+)[ \t].*/\1/p' \
    channel.h src/base/mail.h)
{
	printf '#include <stdio.h>\n#include "channel.h"\nint main(void) {\n'
	for name in $names; do
		case $name in
		*_VERSION | *_VERSION_M*) ;;
		*) printf 'printf("value %s %%lu\\n", (unsigned long)%s);\n' \
			"$name" "$name" ;;
		esac
	done
	printf 'return 0; }\n'
} >"$work/values.c"
clang -I. -Isrc -o "$work/values" "$work/values.c"
"$work/values"

clang --target=x86_64-linux-gnu -I. -Isrc -fsyntax-only \
    -Xclang -fdump-record-layouts-complete channel.h |
    awk '/^ *0 \| struct [a-z_]+$/	{ name = $4; next }
	/^ *[0-9]+ \|   [^ ]/ && name	{ member = $0
					  sub(/.* /, "", member)
					  print "member " name, member, $1 }
	/\[sizeof=/ && name		{ sub(/.*sizeof=/, ""); sub(/,.*/, "")
					  print "size " name, $0; name = "" }' |
    grep -E "^[a-z]+ ($(sed -n 's/^struct \([a-z_]*\) {$/\1/p' channel.h \
	src/base/mail.h | paste -sd'|')) "
