#!/bin/sh
# policy.c against the services that it is made for: postgrey, policyd-spf and
# Dovecot's auth, each started here, for this test alone, by whoever runs it.
# ASK may name a t/out/ask that is built already.
set -u
cd "$(dirname "$0")/../.." || exit 1
dir=$(mktemp -d /tmp/policy-peers.XXXXXX) || exit 1
pids=
n=0

finish()
{
	for pid in $pids; do
		kill "$pid" 2>/dev/null
	done
	[ -s "$dir/run/master.pid" ] && kill "$(cat "$dir/run/master.pid")"
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# is NAME EXPECTED-PATTERN ACTUAL
is()
{
	n=$((n + 1))
	case $3 in
	$2)	echo "ok $n - $1" ;;
	*)	echo "not ok $n - $1"
		printf '%s\n' "expected: $2" "got: $3" | sed 's/^/# /' ;;
	esac
}

# lacks TESTS PROGRAM...: true, and says so, if a program is missing
lacks()
{
	tests=$1 missing=
	shift
	for program; do
		command -v "$program" >/dev/null || missing="$missing $program"
	done
	[ -z "$missing" ] && return 1
	while [ "$tests" -gt 0 ]; do
		n=$((n + 1)) tests=$((tests - 1))
		echo "ok $n # SKIP not installed:$missing"
	done
}

# A service listens, or never will.
await()
{
	socat -u /dev/null "UNIX-CONNECT:$1,retry=200,interval=0.1"
}

PATH=$PATH:/usr/sbin:/sbin
if [ -z "${ASK:-}" ]; then
	make -s t/out/ask >&2 || exit 1
	ASK=t/out/ask
fi

postgrey_tests()
{
	postgrey --unix="$dir/postgrey" --dbdir="$dir" --delay=1 \
	    --user="$(id -un)" --group="$(id -gn)" --hostname=mx.example.org \
	    >"$dir/postgrey.log" 2>&1 &
	pids="$pids $!"
	await "$dir/postgrey" || sed 's/^/# /' "$dir/postgrey.log"
	set -- "RCPT=unix:$dir/postgrey" sender=s@example.com \
	    address=192.0.2.1 name=mail.example.com helo=mail.example.com
	is 'postgrey greylists a stranger' 'RCPT 450 4.2.0 Greylisted, *' \
	    "$("$ASK" policy "$@" RCPT)"
	# A second must have passed, by postgrey's clock.
	tries=0
	while said=$("$ASK" policy "$@" RCPT); do
		case $said in
		'RCPT 450'*)	[ $((tries += 1)) -lt 10000 ] || break ;;
		*)		break ;;
		esac
	done
	is 'postgrey lets him in later, with a header' \
	    'RCPT 250 2.0.0 Ok
+ X-Greylist: delayed * seconds by postgrey-*' "$said"
	is 'postgrey keeps the connection through a session' \
	    'CONNECT 250 *
EHLO 250 *
MAIL 250 *
RCPT 450 *
RCPT 250 *' \
	    "$("$ASK" policy "$@" CONNECT EHLO MAIL recipient=new@example.org \
	    RCPT recipient=recipient@example.org RCPT 2>&1)"
}

# policyd-spf, and the DNS as it would answer for the example domains.
spf_tests()
{
	cat >"$dir/named.py" <<-'EOF'
	import sys
	import spf
	TEXTS = {"example.com": b"v=spf1 ip4:192.0.2.0/24 -all",
	         "example.net": b"v=spf1 ~all"}
	def answer(name, qtype, *rest, **more):
	    name = name.rstrip(".").lower()
	    if qtype == "TXT" and name in TEXTS:
	        return [((name, "TXT"), [TEXTS[name]])]
	    return []
	spf.DNSLookup = answer
	from spf_engine.policyd_spf import main
	sys.argv[1:] = [sys.argv[1]]
	main()
	EOF
	printf '%s\n' 'debugLevel = 0' 'TestOnly = 1' 'HELO_reject = Fail' \
	    'Mail_From_reject = Fail' 'PermError_reject = False' \
	    'TempError_Defer = False' 'Header_Type = SPF' \
	    'skip_addresses = 127.0.0.0/8,::ffff:127.0.0.0/104,::1' \
	    >"$dir/spf.conf"
	socat "UNIX-LISTEN:$dir/spf,fork" \
	    "EXEC:/usr/bin/python3 $dir/named.py $dir/spf.conf" 2>"$dir/log" &
	pids="$pids $!"
	await "$dir/spf" || sed 's/^/# /' "$dir/log"
	set -- "unix:$dir/spf" sender=s@example.com name=mail.example.com \
	    helo=mail.example.com
	is 'policyd-spf passes who may send, with a header' \
	    'RCPT 250 2.0.0 Ok
+ Received-SPF: Pass *client-ip=192.0.2.1*' \
	    "$("$ASK" policy "$@" address=192.0.2.1 RCPT)"
	is 'policyd-spf refuses who may not' 'RCPT 550 5.7.23 *' \
	    "$("$ASK" policy "$@" address=198.51.100.1 RCPT)"
	is 'policyd-spf lets local clients be' \
	    'RCPT 250 2.0.0 Ok
+ X-Comment: SPF *' \
	    "$("$ASK" policy "$@" address=unix RCPT)"
	is 'policyd-spf says it once for a message (instance)' \
	    'RCPT 250 2.0.0 Ok
+ Received-SPF: Pass *
RCPT 250 2.0.0 Ok' \
	    "$("$ASK" policy "$@" address=192.0.2.1 RCPT RCPT)"
}

# RFC 5802, RFC 7677: a client in front of ask.
scram()
{
	/usr/bin/python3 - "$ASK" "$1" "$2" "$3" <<'EOF'
import base64, hashlib, hmac, os, subprocess, sys
ask, source, user, password = sys.argv[1:]
p = subprocess.Popen([ask, "auth", source], stdin=subprocess.PIPE,
                     stdout=subprocess.PIPE)
offer = p.stdout.readline().decode().split()
assert "SCRAM-SHA-256" in offer, offer

def step(mechanism, text):
    p.stdin.write(("%s %s\n" % (mechanism, base64.b64encode(
        text.encode()).decode())).encode())
    p.stdin.flush()
    code, enh, *rest = p.stdout.readline().decode().rstrip("\n").split(" ", 2)
    return code, rest[0] if rest else ""

def mac(key, text):
    return hmac.new(key, text, hashlib.sha256).digest()

nonce = base64.b64encode(os.urandom(18)).decode()
first = "n=%s,r=%s" % (user, nonce)
code, text = step("SCRAM-SHA-256", "n,," + first)
assert code == "334", (code, text)
server = base64.b64decode(text).decode()
part = dict(x.split("=", 1) for x in server.split(","))
assert part["r"].startswith(nonce)
salted = hashlib.pbkdf2_hmac("sha256", password.encode(),
                             base64.b64decode(part["s"]), int(part["i"]))
key = mac(salted, b"Client Key")
final = "c=biws,r=" + part["r"]
said = ",".join((first, server, final)).encode()
sign = mac(hashlib.sha256(key).digest(), said)
proof = bytes(a ^ b for a, b in zip(key, sign))
code, text = step("-", final + ",p=" + base64.b64encode(proof).decode())
if code == "334":
    verifier = dict([base64.b64decode(text).decode().split("=", 1)])["v"]
    assert base64.b64decode(verifier) == mac(mac(salted, b"Server Key"), said)
    code, text = step("-", "")
    print(code, "server proved itself,",
          p.stdout.readline().decode().strip())
else:
    print(code, text)
p.stdin.close()
p.wait()
EOF
}

dovecot_tests()
{
	me=$(id -un)
	cat >"$dir/dovecot.conf" <<-EOF
	base_dir = $dir/run
	state_dir = $dir
	log_path = $dir/dovecot.log
	protocols =
	ssl = no
	default_internal_user = $me
	default_internal_group = $(id -gn)
	default_login_user = $me
	auth_mechanisms = plain login cram-md5 scram-sha-256 anonymous
	auth_failure_delay = 0
	disable_plaintext_auth = yes
	passdb {
	  driver = passwd-file
	  args = scheme=PLAIN username_format=%u $dir/passwd
	}
	service anvil {
	  chroot =
	}
	service stats {
	  chroot =
	}
	service auth {
	  user = $me
	  unix_listener $dir/auth {
	    mode = 0600
	  }
	}
	EOF
	printf '%s\n' 'joe@example.org:{PLAIN}secret' >"$dir/passwd"
	dovecot -c "$dir/dovecot.conf" || sed 's/^/# /' "$dir/dovecot.log"
	await "$dir/auth"
	is 'Dovecot offers what it has, but for anonymous' \
	    'PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256' \
	    "$("$ASK" auth "dovecot:$dir/auth" </dev/null)"
	is 'Dovecot: SCRAM-SHA-256, both sides proven' \
	    '235 server proved itself, = joe@example.org' \
	    "$(scram "dovecot:$dir/auth" joe@example.org secret)"
	right=$(printf '\0joe@example.org\0secret' | base64)
	is 'Dovecot: PLAIN, with an initial response' \
	    '*
235 2.7.0 Authentication successful
= joe@example.org' \
	    "$(echo "PLAIN $right" | "$ASK" auth "dovecot:$dir/auth")"
	is 'Dovecot: LOGIN' \
	    '*
334  VXNlcm5hbWU6
334  UGFzc3dvcmQ6
235 2.7.0 Authentication successful
= joe@example.org' \
	    "$(printf '%s\n' 'LOGIN -' "- $(printf joe@example.org | base64)" \
	    "- $(printf secret | base64)" | "$ASK" auth "dovecot:$dir/auth")"
	# Last: Dovecot makes whoever failed once wait.
	is 'Dovecot: PLAIN, without, abandoned, again, and wrong' \
	    '*
334  
334  
235 2.7.0 Authentication successful
= joe@example.org
535 5.7.8 Authentication credentials invalid' \
	    "$(printf '%s\n' 'PLAIN -' '*' 'PLAIN -' "- $right" \
	    "PLAIN AGpvZQB4" | "$ASK" auth "dovecot:$dir/auth")"
	is 'Dovecot: SCRAM-SHA-256, wrong password' '535 *' \
	    "$(scram "dovecot:$dir/auth" joe@example.org Secret)"
	kill "$(cat "$dir/run/master.pid")"
	rm -f "$dir/run/master.pid" "$dir/auth"
	is 'Dovecot has gone' '454 4.7.0 Temporary authentication failure' \
	    "$(echo "PLAIN $right" | "$ASK" auth "dovecot:$dir/auth" \
	    2>/dev/null | sed 1d)"
}

lacks 3 postgrey socat || postgrey_tests
if /usr/bin/python3 -c 'import spf_engine.policyd_spf' 2>/dev/null; then
	lacks 4 socat || spf_tests
else
	lacks 4 "policyd-spf's spf_engine" || :
fi
lacks 7 dovecot socat || dovecot_tests
echo "1..$n"
