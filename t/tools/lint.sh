#!/bin/bash
# Asks compilers, analysers and the manual's checker; prints nothing but
# names unless one of them objects.
#
#	t/tools/lint.sh FLAG ... -- FILE.c ...

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

for f in smtpd.8 units/*.[1-8] src/*/*.[1-8] t/tools/*.[1-8]; do
	say "$f"
	mandoc -Tlint -Wwarning "$f"
	# English words that are macros, too, and vanish unless \& is before them.
	if grep -nE '^\..+ (Ad|An|At|Do|Em|In|No|Ot|So) [a-z]' "$f"; then
		say "$f: a word that is a macro"
		exit 1
	fi
done

# Which folder may include which: DIRECTORY CALLS... (the doors beside src are
# smtpd.c, which may call everything, channel and relay).  A folder that is not
# in the list may not exist.
layers() {
	local folder calls file include name
	while read -r folder calls; do
		grep -HE '^#[ \t]*include[ \t]*"' "src/$folder"/*.[ch] \
		    $([ ! -e "$folder.c" ] || echo "$folder".[ch]) |
		    while IFS=: read -r file include; do
			name=${include#*\"}
			name=${name%%[/\"]*}
			name=${name%.h}
			case "|$folder|${calls// /|}|" in
			*"|$name|"*) ;;
			*) [ -e "${file%/*}/$name.h" ] ||
				say "$file: $include: not below src/$folder" ;;
			esac
		    done
	done <<<"$1"
	for folder in src/*/; do
		folder=${folder#src/}
		grep -q "^${folder%/}\b" <<<"$1" ||
			say "src/$folder is not among the layers"
	done
}

say layers
wrong=$(layers 'base
net base
channel base
relay base net
service base net
monitor base net relay service
session base channel monitor service relay net
tls base net monitor')
if [ -n "$wrong" ]; then
	printf '%s\n' "$wrong"
	exit 1
fi

# One idea in a file, and a function that is seen at once.
say length
awk -v most=60 '
	FNR > 750 && FILENAME != long { print FILENAME ": over 750 lines"
					long = FILENAME; bad = 1 }
	/^[a-z_][a-z_0-9]*\(/	{ name = $0; sub(/\(.*/, "", name) }
	/^\{/	{ start = FNR }
	/^\}/	{ if (start && FNR - start - 1 > most) {
			print FILENAME ": " name " is over " most " lines"
			bad = 1
		  }
		  start = 0 }
	END	{ exit bad }' "$@" t/*.c t/[a-z]*/*.c

# A line that every terminal shows.
say columns
wide=$(for f in "$@" *.h src/*/*.h t/*.c t/[a-z]*/*.[ch]; do
	expand "$f" | awk -v file="$f" \
	    'length > 80 { print file ":" NR ": over 80 columns" }'
done)
if [ -n "$wide" ]; then
	printf '%s\n' "$wide"
	exit 1
fi

# The channel is a function of bytes: it may use memory, and nothing else
# (bcmp is what clang makes of memcmp).
say libsmtpd-channel.a
if nm -u libsmtpd-channel.a | sed -n 's/^ *U //p' | sort -u |
    grep -vxF -f <(nm --defined-only libsmtpd-channel.a | sed -n \
        's/^[0-9a-f]* [TRDBC] //p') | grep -vxE \
    -e 'bcmp|(mem|str)[a-z]+|is[a-z]+|to(low|upp)er|v?snprintf' \
    -e 'inet_(pton|ntop)' \
    -e 'malloc|calloc|realloc|free|abort|_GLOBAL_OFFSET_TABLE_' \
    -e '__(assert|stack_chk)_fail|__ctype_[a-z]+_loc|__[a-z]+_chk'; then
	say 'libsmtpd-channel.a uses these, and must not'
	exit 1
fi

# An embedder's first line, in either language.
say channel.h
gcc -std=c11 -Wall -Wextra -Wpedantic -Werror -Isrc -xc -fsyntax-only channel.h
g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -Isrc -xc++ -fsyntax-only \
    channel.h

# What programs that are linked with the shared library depend on.
say ABI
if ! diff -u src/channel/abi <(t/tools/abi.sh libsmtpd-channel.so.*); then
	say 'the ABI is another one: t/tools/abi.sh says what to do'
	exit 1
fi
version=$(sed -n 's/^VERSION = //p' Makefile)
if [ "$version" != "$(sed -n 's/^#define CHANNEL_VERSION_M.*OR //p' channel.h |
    paste -sd.)" ]; then
	say "CHANNEL_VERSION is not the Makefile's VERSION, $version"
	exit 1
fi

# The manual page has every function, hook, setting and number.
missing=$(sed -nE '
    s/^(symbol|member channel_(hooks|settings)) ([a-z_A-Z0-9]+).*/\3/p
    s/^value (WANT_|VERB_)([A-Z_]+).*/\1\2/p' src/channel/abi |
    while read -r name; do
	grep -qE "^\.(Fn|It Fn|It Fa|It Dv|Dv|Fo)( .*)?\b$name\b" \
	    src/channel/smtpd-channel.3 || echo "$name"
    done)
if [ -n "$missing" ]; then
	say "smtpd-channel.3 lacks" $missing
	exit 1
fi

# Other architectures have other system calls for the list of each jail, or no
# list; and one has 32 bits.
machines='aarch64 riscv64 arm'
cross_cc() {
	case $1 in
	arm) shift; arm-linux-gnueabihf-gcc -D_FILE_OFFSET_BITS=64 \
	    -D_TIME_BITS=64 "$@" ;;
	*) "$1-linux-gnu-gcc" "${@:2}" ;;
	esac
}
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
chmod 755 "$objects"	# started as root, smtpd becomes nobody
cross=()
for flag in "${flags[@]}"; do
	[ "$flag" = -DWITH_SYSTEMD ] || cross+=("$flag")
done

for f; do
	say "$f"
	case $f in
	src/tls/*) ;;
	*) for machine in $machines; do
		mkdir -p "$objects/$machine"
		cross_cc $machine "${cross[@]}" -Werror -c \
		    -o "$objects/$machine/${f//\//-}.o" "$f"
	   done ;;
	esac
	clang "${flags[@]}" -Werror -c -o /dev/null "$f"
	clang "${flags[@]}" --analyze -Xclang -analyzer-werror \
	    -Xclang -analyzer-output=text -o /dev/null "$f"
	# GCC 14 takes what dup2() returns for one more descriptor.
	gcc "${flags[@]}" -Werror -fanalyzer -Wno-analyzer-fd-leak -c \
	    -o /dev/null "$f"
	# A string that fills its array has no NUL.
	if gcc "${flags[@]}" -Wc++-compat -fsyntax-only "$f" 2>&1 |
	    grep 'initializer-string'; then
		exit 1
	fi
	# varFuncNullUB: POSIX says that NULL is a pointer, ISO C does not.
	cppcheck -q -I. -Isrc --std=c11 --enable=warning,performance,portability \
	    --suppress=normalCheckLevelMaxBranches --inline-suppr \
	    --suppress=varFuncNullUB \
	    --error-exitcode=1 -D_POSIX_C_SOURCE=200809L "$f"
done

# And what was made for them serves a client.  It is linked with glibc, whose
# cross compilers have what musl's lack, and runs under qemu, which has neither
# seccomp nor Landlock: the smtpd that says so is not confined.
foreign() {
	local smtpd=$1 codes
	shift
	# Through a pipe, and all at once.
	codes=$(printf '%s\r\n' 'EHLO client.example.org' \
	    'MAIL FROM:<a@example.org>' 'RCPT TO:<b@example.org>' DATA \
	    'Subject: x' '' y . QUIT |
	    qemu-$machine-static "$smtpd" "$@" 2>"$smtpd.log" |
	    sed -n 's/^\([0-9]*\) .*/\1/p' | paste -sd' ')
	if [ "$codes" = '220 250 250 250 354 250 221' ] &&
	    grep -q event=sandbox-missing "$smtpd.log"; then
		return
	fi
	say "$machine: $*: $codes"
	cat "$smtpd.log"
	exit 1
}

for machine in $machines; do
	say "a session of $machine"
	smtpd=$objects/$machine/smtpd
	cross_cc $machine -static -o "$smtpd" \
	    "$objects/$machine"/*.o 2>"$smtpd.log" ||
	    { cat "$smtpd.log"; exit 1; }
	foreign "$smtpd" discard:
	case $machine in
	arm) grep -q 'smtpd filters no system calls on this' "$smtpd.log" ;;
	*) grep -q 'has no Landlock and no seccomp"' "$smtpd.log" ;;
	esac
	foreign "$smtpd" print:
	grep -qx 'Subject: x' "$smtpd.log"
	mkdir -m 777 "$smtpd.box"
	foreign "$smtpd" "maildir:$smtpd.box"
	grep -qr '^Subject: x' "$smtpd.box/new"
	foreign "$smtpd" -- grep -q '^Subject: x'
done
