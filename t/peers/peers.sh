# peers.sh - what t/peers/peers-smtp.t and t/peers/peers-lmtp.t share: TAP, a client that
# speaks to smtpd through a pipe, and messages to send.  To be sourced, from
# the project's root; makes $dir, which goes when the test ends.

set -u
smtpd=${SMTPD:-./smtpd}
count=0
failed=0

skip_all() {
	printf '1..0 # SKIP %s\n' "$1"
	exit 0
}

# ok DESCRIPTION COMMAND...
ok() {
	description=$1
	shift
	count=$((count + 1))
	if "$@"; then
		printf 'ok %d - %s\n' "$count" "$description"
	else
		failed=$((failed + 1))
		printf 'not ok %d - %s\n' "$count" "$description"
	fi
}

# is DESCRIPTION GOT WANTED
is() {
	ok "$1" test "$2" = "$3"
	[ "$2" = "$3" ] ||
	    printf 'got:    %s\nwanted: %s\n' "$2" "$3" | sed 's/^/# /'
}

[ "$(id -u)" -eq 0 ] || skip_all 'the peer switches between users: needs root'
[ -x "$smtpd" ] || { echo "Bail out! no $smtpd"; exit 1; }
dir=$(mktemp -d) || exit 1
chmod 755 "$dir"
stop() { :; }
trap 'stop; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# send RELAY MESSAGE "MAIL ARGUMENT" RECIPIENT... [-- SMTPD OPTION...]
# One session, all at once.  Its replies to RCPT and what follows: $dir/said.
send() {
	relay=$1 message=$2 from=$3
	shift 3
	{
		printf '%s client.example.org\r\n' "${hello:-EHLO}"
		printf 'MAIL FROM:%s\r\n' "$from"
		while [ $# -gt 0 ] && [ "$1" != -- ]; do
			printf 'RCPT TO:<%s>\r\n' "$1"
			shift
		done
		printf 'DATA\r\n'
		sed 's/^\./../' "$message"
		printf '.\r\nQUIT\r\n'
	} >"$dir/dialogue"
	while [ $# -gt 0 ]; do
		[ "$1" = -- ] && { shift; break; }
		shift
	done
	# Through a pipe: from a file smtpd takes a bare LF for a line's end.
	cat "$dir/dialogue" | "$smtpd" -u -n -s 41943040 -H relay.example.org \
	    "$@" "$relay" 2>>"$dir/log" | tr -d '\r' >"$dir/all"
	sed '1,/^354/d' "$dir/all" | grep -v '^221' >"$dir/said"
}

# free_ports N: that nobody listens at, now.
free_ports() {
	perl -MIO::Socket::INET -e '
		my @s = map { IO::Socket::INET->new(Listen => 1,
		    LocalAddr => "127.0.0.1") or die } 1 .. shift;
		print join " ", map { $_->sockport } @s' "$1"
}

# The messages, with CRLF as they are sent; NAME.lf as they are delivered.  They
# have the fields that Postfix would add to mail from this host.
message() {
	{ cat <<-!; cat; } | sed 's/$/\r/' >"$dir/$1"
		From: s@example.org
		Date: Sat, 28 Nov 2026 12:00:00 +0000
		Message-Id: <$1@client.example.org>
	!
	tr -d '\r' <"$dir/$1" >"$dir/$1.lf"
}

message plain <<-!
	Subject: plain

	One line, and no more.
!
printf 'Subject: 8-bit\n\nk\303\244se \377\200\n' | message eight
printf 'Subject: gr\303\274n\n\nk\303\244se\n' | message utf8
printf '.\n..\n.a\n\n.\nb.\n...\n' |
    { printf 'Subject: dots\n\n'; cat; } | message dots
perl -e 'print "Subject: big\n\n"; my $n = 0;
    while ($n < 20 << 20) { my $l = ("." x ($n % 3)) . ("x" x ($n % 71));
	print "$l\n"; $n += 2 + length $l }' | message big

# Is FILE, as delivered, the message NAME with trace in front of it?
delivered_as() {
	size=$(wc -c <"$dir/$2.lf")
	tail -c "$size" "$1" | cmp -s - "$dir/$2.lf" || return 1
	head -c "-$size" "$1" | awk '
		/^[ \t]/ { next }
		!/^(Return-Path|Delivered-To|Received|X-Original-To): / {
			bad = 1
		}
		/relay.example.org/ || /^Received: / { seen = 1 }
		END { exit bad || !seen }'
}

done_testing() {
	printf '1..%d\n' "$count"
	[ "$failed" -eq 0 ] || [ ! -s "$dir/log" ] ||
	    tail -n 30 "$dir/log" | sed 's/^/# /'
	[ "$failed" -eq 0 ]
}
