#!/bin/sh
# Relays to a real Postfix: an instance of our own, on loopback, in a folder
# of its own, that hands each message to a script which tells us by a FIFO.

cd "$(dirname "$0")/../.." || exit 1
. t/peers/peers.sh

PATH=$PATH:/usr/sbin
command -v postconf >/dev/null || skip_all 'no Postfix here (package postfix)'

set -- $(free_ports 4)
full=$1 bare=$2 old=$3 wrapped=$4

mkdir "$dir/etc" "$dir/spool" "$dir/data" "$dir/in"
chmod 777 "$dir/in"
chown postfix "$dir/data"
mkfifo -m 666 "$dir/arrived"
: >"$dir/maillog"

cat >"$dir/deliver" <<-!
	#!/bin/sh
	# deliver QUEUE-ID RECIPIENT...
	cat >"$dir/in/\$1" || exit 75
	chmod 644 "$dir/in/\$1"
	echo "\$*" >"$dir/arrived"
!
chmod 755 "$dir/deliver"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
    -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -keyout "$dir/etc/key" -out "$dir/etc/cert" 2>"$dir/log" ||
    skip_all 'no openssl(1) that makes certificates'
cat "$dir/etc/key" "$dir/etc/cert" >"$dir/etc/chain"

cat >"$dir/etc/main.cf" <<-!
	compatibility_level = 3.6
	myhostname = mx.example.net
	mydestination =
	inet_interfaces = 127.0.0.1
	inet_protocols = ipv4
	mynetworks = 127.0.0.0/8
	queue_directory = $dir/spool
	data_directory = $dir/data
	maillog_file = $dir/maillog
	maillog_file_prefixes = $dir
	alias_maps =
	local_recipient_maps =
	local_header_rewrite_clients =
	message_size_limit = 22000000
	virtual_mailbox_domains = example.net
	virtual_mailbox_maps = regexp:$dir/etc/mailboxes
	virtual_transport = deliver
	deliver_destination_recipient_limit = 1000
	smtpd_recipient_restrictions = check_recipient_access
	    texthash:$dir/etc/access, permit_mynetworks, reject
	smtpd_authorized_xforward_hosts = 127.0.0.0/8
	smtpd_error_sleep_time = 0
	smtpd_peername_lookup = no
	smtpd_tls_chain_files = $dir/etc/chain
	smtpd_tls_received_header = yes
	smtputf8_enable = yes
	strict_smtputf8 = no
!
cat >"$dir/etc/mailboxes" <<-!
	/^(a|k..?se|user[0-9]+|slow|banned)@example.net\$/ yes
!
cat >"$dir/etc/access" <<-!
	slow@example.net 450 4.7.1 Come back when the moon is full
	banned@example.net 554 5.7.1 Never, not even with "quotes" & <brackets>
!
cat >"$dir/etc/master.cf" <<-!
	127.0.0.1:$full inet n - n - - smtpd
	  -o smtpd_tls_security_level=may
	127.0.0.1:$wrapped inet n - n - - smtpd
	  -o smtpd_tls_wrappermode=yes
	tlsmgr unix - - n 1000? 1 tlsmgr
	127.0.0.1:$bare inet n - n - - smtpd
	  -o smtpd_discard_ehlo_keywords=chunking,pipelining
	127.0.0.1:$old inet n - n - - smtpd
	  -o smtpd_discard_ehlo_keywords=chunking,8bitmime,smtputf8
	cleanup unix n - n - 0 cleanup
	qmgr unix n - n 300 1 qmgr
	rewrite unix - - n - - trivial-rewrite
	bounce unix - - n - 0 bounce
	defer unix - - n - 0 bounce
	trace unix - - n - 0 bounce
	error unix - - n - - error
	retry unix - - n - - error
	discard unix - - n - - discard
	proxymap unix - - n - - proxymap
	anvil unix - - n - 1 anvil
	postlog unix-dgram n - n - 1 postlogd
	deliver unix - n n - - pipe
	  user=nobody argv=$dir/deliver \${queue_id} \${recipient}
!

stop() {
	postfix -c "$dir/etc" stop >/dev/null 2>&1
}
if ! postfix -c "$dir/etc" start >"$dir/log" 2>&1; then
	sed 's/^/# /' "$dir/log" "$dir/maillog"
	echo 'Bail out! Postfix does not start'
	exit 1
fi
# A writer of our own, so that the FIFO never ends; a reader before it.
exec 3<>"$dir/arrived"

# The next message to be delivered: $file, and $who it is for.
arrival() {
	read -r id who <&3
	file=$dir/in/$id
}

# relays NAME "MAIL ARGUMENT" TO PORT [OPTION...]
relays() {
	name=$1 from=$2 to=$3 port=$4
	shift 4
	send "smtp:[127.0.0.1]:$port" "$dir/$name" "$from" "$to" "$@"
	ok "$name: taken" grep -q "^250 2.0.0 Ok: ${octets}queued as" \
	    "$dir/said"
	grep -q '^250' "$dir/said" || { sed 's/^/# /' "$dir/all"; return; }
	arrival
	is "$name: to whom" "$who" "$to"
	ok "$name: delivered as it was sent" delivered_as "$file" "$name"
}

# Postfix counts octets in its reply to BDAT, and not after DATA.
for port in $full $bare; do
	octets=$([ "$port" = "$bare" ] || echo '[0-9]* bytes ')
	relays plain '<s@example.org>' a@example.net "$port"
	relays dots '<s@example.org>' a@example.net "$port"
	relays eight '<s@example.org> BODY=8BITMIME' a@example.net "$port"
	relays utf8 "<j$(printf '\303\274')rgen@example.org> SMTPUTF8" \
	    "k$(printf '\303\244')se@example.net" "$port"
	relays big '<s@example.org>' a@example.net "$port"
done

# A hundred recipients, one of whom is unknown.
hundred=$(i=1; while [ $i -lt 100 ]; do echo "user$i@example.net"
    i=$((i + 1)); done)
set -- $hundred nobody@example.net
for port in $full $bare; do
	send "smtp:[127.0.0.1]:$port" "$dir/plain" '<s@example.org>' "$@"
	ok "one of a hundred unknown: the message is refused" \
	    grep -q '^550.*nobody@example.net' "$dir/said"
	hello=LHLO
	send "smtp:[127.0.0.1]:$port" "$dir/plain" '<s@example.org>' "$@" -- -l
	hello=
	is "as an LMTP server: one reply each" "$(wc -l <"$dir/said")" 100
	is "as an LMTP server: the others are taken" \
	    "$(grep -c '^250 2.0.0 Ok: .*queued as' "$dir/said")" 99
	is "as an LMTP server: the unknown is not" \
	    "$(sed -n 100p "$dir/said")" "550 5.1.1 <nobody@example.net>:\
 Recipient address rejected: User unknown in virtual mailbox table"
	arrival
	is "as an LMTP server: delivered to all of them" \
	    "$(echo $who | tr ' ' '\n' | sort)" "$(echo "$hundred" | sort)"
	ok "as an LMTP server: once, as it was sent" delivered_as "$file" plain
done

# Its own words.
relay=smtp:[127.0.0.1]:$full
send "$relay" "$dir/plain" '<s@example.org>' slow@example.net
is 'its 4yz comes through' "$(cat "$dir/said")" "450 4.7.1 <slow@example.net>:\
 Recipient address rejected: Come back when the moon is full"
send "$relay" "$dir/plain" '<s@example.org>' banned@example.net
is 'its 5yz comes through' "$(cat "$dir/said")" "554 5.7.1\
 <banned@example.net>: Recipient address rejected: Never, not even with\
 \"quotes\" & <brackets>"
{ cat "$dir/big.lf"; head -n 50000 "$dir/big.lf"; } | message bigger
send "$relay" "$dir/bigger" '<s@example.org>' a@example.net
is 'too big for it' "$(cat "$dir/said")" \
    '552 5.3.4 Message too big for next hop'

# What it lacks.
relay=smtp:[127.0.0.1]:$old
send "$relay" "$dir/eight" '<s@example.org> BODY=8BITMIME' a@example.net
is 'no 8BITMIME' "$(cut -c 1-9 "$dir/said")" '554 5.6.3'
send "$relay" "$dir/utf8" '<s@example.org> SMTPUTF8' a@example.net
is 'no SMTPUTF8' "$(cut -c 1-9 "$dir/said")" '554 5.6.7'
octets=
relays plain '<s@example.org> BODY=8BITMIME' a@example.net "$old"

# TLS.  Postfix says in its trace whether there was any.
under_tls() {
	grep -q 'using TLSv1' "$file"
}
for level in may must; do
	octets='[0-9]* bytes '
	send "smtp:localhost:$full" "$dir/big" '<s@example.org>' \
	    a@example.net -- --relay-tls $level \
	    --relay-tls-ca "$dir/etc/cert"
	ok "TLS, $level: taken" grep -q '^250 2.0.0 Ok' "$dir/said"
	grep -q '^250' "$dir/said" || continue
	arrival
	ok "TLS, $level: and was used" under_tls
	ok "TLS, $level: as it was sent" delivered_as "$file" big
done
relays plain '<s@example.org>' a@example.net "$full"
ok 'TLS, none: was not used' eval '! under_tls'
send "smtps:localhost:$wrapped" "$dir/plain" '<s@example.org>' \
    a@example.net -- --relay-tls-ca "$dir/etc/cert"
ok 'smtps: taken' grep -q '^250 2.0.0 Ok' "$dir/said"
if grep -q '^250' "$dir/said"; then
	arrival
	ok 'smtps: was used' under_tls
	ok 'smtps: as it was sent' delivered_as "$file" plain
fi
send "smtp:localhost:$full" "$dir/plain" '<s@example.org>' a@example.net \
    -- --relay-tls must
is 'TLS, must: not with a stranger' "$(cat "$dir/said")" \
    '451 4.7.5 No secure connection to next hop'
send "smtp:[127.0.0.1]:$full" "$dir/plain" '<s@example.org>' a@example.net \
    -- --relay-tls must --relay-tls-ca "$dir/etc/cert"
is 'TLS, must: not under another name' "$(cat "$dir/said")" \
    '451 4.7.5 No secure connection to next hop'
send "smtp:localhost:$bare" "$dir/plain" '<s@example.org>' a@example.net \
    -- --relay-tls must
is 'TLS, must: not where it is not offered' "$(cat "$dir/said")" \
    '451 4.7.4 Next hop offers no TLS'

# Two messages in one session are one connection; it hears of the client.
relay=smtp:[127.0.0.1]:$full
{
	printf 'EHLO client.example.org\r\n'
	for n in 1 2; do
		printf 'MAIL FROM:<s@example.org>\r\n'
		printf 'RCPT TO:<a@example.net>\r\nDATA\r\n'
		cat "$dir/plain"
		printf '.\r\n'
	done
	printf 'QUIT\r\n'
} >"$dir/dialogue"
# That client is remote, so it may relay only if an option says so.
cat "$dir/dialogue" | REMOTE_ADDR=192.0.2.7 REMOTE_PORT=4321 "$smtpd" -n \
    "$relay" 2>>"$dir/log" >"$dir/all"
is 'a remote client may not relay' \
    "$(grep -c '^554 5.7.1 Relay access denied' "$dir/all")" 2
: >"$dir/maillog"
cat "$dir/dialogue" | REMOTE_ADDR=192.0.2.7 REMOTE_PORT=4321 "$smtpd" -n \
    --relay-clients 192.0.2.0/24 "$relay" 2>>"$dir/log" >"$dir/all"
is 'two messages in one session: taken' \
    "$(grep -c '^250 2.0.0 Ok: .*queued as' "$dir/all")" 2
if [ "$(grep -c 'queued as' "$dir/all")" = 2 ]; then
	arrival
	arrival
fi
stop	# and so all of its log is written
is 'two messages, one connection' \
    "$(grep -c ': connect from' "$dir/maillog")" 1
is 'two messages, a farewell' \
    "$(grep -c ': disconnect from .* mail=2 .* quit=1' "$dir/maillog")" 1
is 'XFORWARD tells of the client' \
    "$(grep -c 'client=.*192\.0\.2\.7' "$dir/maillog")" 2

done_testing
