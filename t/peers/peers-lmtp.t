#!/bin/sh
# Relays to a real Dovecot: an instance of our own that speaks LMTP at a unix
# socket, with one mailbox that is full and two that are not.

cd "$(dirname "$0")/../.." || exit 1
. t/peers/peers.sh

PATH=$PATH:/usr/sbin
command -v dovecot >/dev/null && [ -x /usr/lib/dovecot/lmtp ] ||
    skip_all 'no Dovecot with LMTP here (package dovecot-lmtpd)'

mkdir "$dir/mail" "$dir/run" "$dir/state"
chown nobody "$dir/mail"

cat >"$dir/users" <<-!
	fine@example.net:::::::
	other@example.net:::::::
	full@example.net:::::::userdb_quota_rule=*:bytes=10
!
cat >"$dir/dovecot.conf" <<-!
	protocols = lmtp
	listen = 127.0.0.1
	hostname = store.example.net
	base_dir = $dir/run
	state_dir = $dir/state
	log_path = $dir/dovelog
	ssl = no
	default_vsz_limit = 512M
	first_valid_uid = 1
	mail_uid = nobody
	mail_gid = nogroup
	mail_location = maildir:$dir/mail/%n
	mail_plugins = quota
	passdb {
	  driver = passwd-file
	  args = username_format=%u $dir/users
	}
	userdb {
	  driver = passwd-file
	  args = username_format=%u $dir/users
	}
	plugin {
	  quota = maildir:mailbox
	  quota_exceeded_message = The mailbox is full
	}
	service lmtp {
	  unix_listener lmtp {
	    mode = 0600
	  }
	}
!

stop() {
	doveadm -c "$dir/dovecot.conf" stop >/dev/null 2>&1
}
if ! dovecot -c "$dir/dovecot.conf" >"$dir/log" 2>&1; then
	sed 's/^/# /' "$dir/log" "$dir/dovelog"
	echo 'Bail out! Dovecot does not start'
	exit 1
fi
relay=lmtp:unix:$dir/run/lmtp

# The one message in USER's mailbox, which it leaves.
take() {
	rm -f "$dir/taken"	# perhaps the same file: Dovecot makes links
	mv "$dir/mail/$1/new/"* "$dir/taken"
}
mails() {
	ls "$dir/mail/$1/new" 2>/dev/null | wc -l
}

for name in plain dots eight big; do
	send "$relay" "$dir/$name" '<s@example.org> BODY=8BITMIME' \
	    fine@example.net
	ok "$name: taken" grep -q '^250 2.0.0 ' "$dir/said"
	ok "$name: one is delivered" take fine
	ok "$name: as it was sent" delivered_as "$dir/taken" "$name"
done
send "$relay" "$dir/utf8" '<s@example.org> SMTPUTF8' fine@example.net
is 'utf8: refused, without SMTPUTF8' "$(cut -c 1-9 "$dir/said")" '554 5.6.7'

# One reply cannot say 250 and 552: as an SMTP server it has to name them.
send "$relay" "$dir/plain" '<s@example.org>' fine@example.net full@example.net
ok 'SMTP, one of two is full: not a plain 250' \
    sh -c '! grep -q "^250" "$1" || grep -q full@ "$1"' - "$dir/said"
ok 'SMTP, one of two is full: named, with its own words' \
    grep -q 'full@example.net.*The mailbox is full' "$dir/said"
ok 'SMTP, one of two is full: the other has it' take fine
ok 'SMTP, one of two is full: as it was sent' \
    delivered_as "$dir/taken" plain

hello=LHLO
send "$relay" "$dir/plain" '<s@example.org>' fine@example.net \
    full@example.net nobody@example.net other@example.net -- -l
hello=
is 'LMTP: a reply for each that was accepted, in order' \
    "$(cut -c 1-9 "$dir/said" | tr '\n' ' ')" \
    "250 2.0.0 552 5.2.2 550 5.1.1 250 2.0.0 "
ok "LMTP: its own words" grep -q '^552.*full@.*The mailbox is full' "$dir/said"
ok 'LMTP: delivered to the first' take fine
ok 'LMTP: as it was sent' delivered_as "$dir/taken" plain
ok 'LMTP: delivered to the last' take other
ok 'LMTP: as it was sent' delivered_as "$dir/taken" plain
is 'LMTP: not to the full one' "$(mails full)" 0

# It is not there.
stop
send "$relay" "$dir/plain" '<s@example.org>' fine@example.net
is 'nobody listens any more' "$(cut -c 1-9 "$dir/said")" '451 4.4.1'

done_testing
