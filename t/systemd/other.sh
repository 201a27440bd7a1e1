#!/bin/sh
# The same as package.sh under the other of Debian 12 and 13, which is made
# from Debian's mirror into t/out once.
set -eu

cd "$(dirname "$0")/../.."
here=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
other=trixie
[ "$here" != trixie ] || other=bookworm
root=t/out/root/$other

[ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null || {
	echo "1..0 # SKIP $other needs root and debootstrap"
	exit 0
}
if [ ! -e "$root/made" ]; then
	rm -rf "$root"
	mkdir -p "$root"
	packages=$(t/tools/deps.sh --list check-systemd | tr ' ' ,)
	debootstrap --variant=minbase --include="systemd-sysv,dbus,$packages" \
	    "$other" "$root" >"t/out/root/$other.log" 2>&1 || {
		tail -n 5 "t/out/root/$other.log" | sed 's/^/# /'
		echo "1..0 # SKIP debootstrap cannot make $other"
		exit 0
	}
	touch "$root/made"
fi
RIG_ROOT=$PWD/$root exec t/systemd/package.sh
