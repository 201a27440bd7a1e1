#!/bin/bash
# Asks compilers, analysers and the manual's checker; prints nothing but
# names unless one of them objects.
#
#	t/lint.sh FLAG ... -- FILE.c ...

set -eu

flags=()
while [ "$1" != -- ]; do
	flags+=("$1")
	shift
done
shift

say() {
	printf 'lint: %s\n' "$*"
}

say smtpd.8
mandoc -Tlint -Wwarning smtpd.8

# The channel is a function of bytes: it may use memory, and nothing else
# (bcmp is what clang makes of memcmp).
say channel.o
if nm -u channel.o | sed 's/.* //; s/@.*//' | grep -vxE \
    -e 'bcmp|(mem|str)[a-z]+|is[a-z]+|to(low|upp)er|v?snprintf' \
    -e 'malloc|calloc|realloc|free|abort|_GLOBAL_OFFSET_TABLE_' \
    -e '__(assert|stack_chk)_fail|__ctype_[a-z]+_loc|__[a-z]+_chk'; then
	say 'channel.o uses these, and must not'
	exit 1
fi

# An embedder's first line, in either language.
say channel.h
gcc -std=c11 -Wall -Wextra -Wpedantic -Werror -xc -fsyntax-only channel.h
g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -xc++ -fsyntax-only channel.h

for f; do
	say "$f"
	clang "${flags[@]}" -Werror -c -o /dev/null "$f"
	clang "${flags[@]}" --analyze -Xclang -analyzer-werror \
	    -Xclang -analyzer-output=text -o /dev/null "$f"
	# GCC 14 takes what dup2() returns for one more descriptor.
	gcc "${flags[@]}" -Werror -fanalyzer -Wno-analyzer-fd-leak -c \
	    -o /dev/null "$f"
	# varFuncNullUB: POSIX says that NULL is a pointer, ISO C does not.
	cppcheck -q --std=c11 --enable=warning,performance,portability \
	    --suppress=normalCheckLevelMaxBranches --inline-suppr \
	    --suppress=varFuncNullUB \
	    --error-exitcode=1 -D_POSIX_C_SOURCE=200809L "$f"
done
