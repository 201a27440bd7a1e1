#!/bin/sh
# Boots a real systemd and runs a script in it: by default the test of the
# shipped units.  Prints what the script prints (TAP); needs root.
#
#	t/systemd/boot.sh [SCRIPT]	(t/systemd/units.py)
#
# The script is run in /rig, where the files that RIG_FILES names are, too.
# The container is the running root file system, or the one at RIG_ROOT, under
# an overlay in memory, with `make install' done on top, or, if RIG_SOURCE is
# not empty, with the sources in /rig/src and nothing installed; it has its own
# network and is gone, with everything that happened in it, when the script
# ends.
#
# Nothing is left behind whichever way this ends: the mounts are in a mount
# namespace of our own, and systemd-nspawn goes when this does.
#
# Several of these may run at once.  Each container has control groups of its
# own: in shared ones a systemd that ends removes those in which another is
# about to start something, which then fails with 219/CGROUP.

set -u

# The folders of control groups that are this container's.
groups() {
	while IFS=: read -r number names path; do
		case $number:$names in
		0:) type='cgroup2' options= ;;
		*:name=systemd) type='cgroup' options='name=systemd' ;;
		*) continue ;;
		esac
		awk -v type="$type" -v options="$options" -v path="$path" \
		    -v name="rig-${RIG##*/}" '$3 == type &&
		    (options == "" || index($4, options)) { print $2 path "/" name; exit }' \
		    /proc/self/mounts
	done </proc/self/cgroup
}

leave() {
	for group in $(groups); do
		[ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +
	done
	rmdir "$RIG"
}

bail() {
	printf '1..0 # SKIP %s\n' "$1"
	exit 0
}

if [ -z "${RIG:-}" ]; then
	[ "$(id -u)" -eq 0 ] || bail 'a container needs root'
	command -v systemd-nspawn >/dev/null ||
	    bail 'systemd-nspawn (package systemd-container) is not installed'
	grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null ||
	    bail 'the kernel has no overlay file system'
	unshare --mount true 2>/dev/null || bail 'no mount namespaces here'
	RIG=$(mktemp -d) || exit 1
	export RIG
	trap leave EXIT
	trap 'exit 1' HUP INT TERM
	unshare --mount --kill-child "$0" "$@"
	exit
fi

top=$(cd "$(dirname "$0")/../.." && pwd)
script=${1:-$top/t/systemd/units.py}
root=$RIG/root

mount -t tmpfs -o mode=755 tmpfs "$RIG" &&
    mkdir "$RIG/upper" "$RIG/work" "$root" || exit 1
mount -t overlay overlay "$root" -o "lowerdir=${RIG_ROOT:-/}" \
    -o "upperdir=$RIG/upper,workdir=$RIG/work" 2>"$RIG/log" ||
    bail "no overlay over this root: $(tail -n 1 "$RIG/log")"

# What happens in the container is decided here and not by what the host has
# enabled: rig.target wants a bare system and our script.
mkdir -p "$root/rig/fakes" &&
    cp "$top"/t/tap.py "$top"/t/servers.py "$top"/t/systemd/booted.py \
	"$top/src/session/log.c" \
        ${RIG_FILES:-} "$root/rig/" &&
    cp "$top"/t/fakes/*.py "$root/rig/fakes/" &&
    cp "$script" "$root/rig/script" && chmod 755 "$root/rig/script" || exit 1
rm -rf "$root/var/log/journal" "$root/etc/default/smtpd" "$root/etc/smtpd" \
    "$root"/etc/systemd/system/smtpd*
: >"$root/rig/tap"
if [ -n "${RIG_SOURCE:-}" ]; then
	mkdir "$root/rig/src" &&
	    tar -c -C "$top" --exclude=./.git --exclude=./t/out \
		--exclude=./musl . | tar -x -C "$root/rig/src" || exit 1
else
	make -s -C "$top" install DESTDIR="$root" >"$RIG/log" 2>&1 || {
		sed 's/^/# /' "$RIG/log"
		echo 'Bail out! make install failed'
		exit 1
	}
fi
cat >"$root/etc/systemd/system/rig.target" <<-!
	[Unit]
	Requires=basic.target rig.service
	After=basic.target
	AllowIsolate=yes
!
cat >"$root/etc/systemd/system/rig.service" <<-!
	[Unit]
	After=basic.target systemd-logind.service
	SuccessAction=exit-force
	FailureAction=exit-force
	[Service]
	Type=oneshot
	TimeoutStartSec=${RIG_SECONDS:-300}
	Environment=LC_ALL=C.UTF-8
	WorkingDirectory=/rig
	ExecStartPre=/bin/touch /rig/booted
	ExecStart=/rig/script
	StandardOutput=file:/rig/tap
	StandardError=file:/rig/tap
!
# Tests start a unit more often than five times in ten seconds.
mkdir -p "$root/etc/systemd/system.conf.d" || exit 1
cat >"$root/etc/systemd/system.conf.d/rig.conf" <<-!
	[Manager]
	DefaultStartLimitIntervalSec=0
!
for unit in apt-daily apt-daily-upgrade man-db dpkg-db-backup e2scrub_all \
    fstrim logrotate systemd-tmpfiles-clean; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit.timer"
done

# Where control groups cannot be made, systemd-nspawn has what there is.
enter() {
	for group in $(groups); do
		for controller in $(cat "${group%/*}/cgroup.controllers"); do
			echo "+$controller" >"${group%/*}/cgroup.subtree_control"
		done
		mkdir "$group" && echo 0 >"$group/cgroup.procs"
	done
}

(
	enter 2>/dev/null
	exec systemd-nspawn --quiet --register=no --keep-unit \
	    --machine="rig-$$" --private-network --directory="$root" \
	    --link-journal=no --console=pipe --boot -- \
	    systemd.unit=rig.target systemd.show_status=no
) </dev/null >"$RIG/log" 2>&1
code=$?
cat "$root/rig/tap"
[ $code -eq 0 ] && [ -s "$root/rig/tap" ] && exit 0
sed 's/^/# /' "$RIG/log"
# Where we are may have no cgroups to give away, say: that is no failure of
# what was to be tested.
[ -e "$root/rig/booted" ] || bail 'systemd does not boot in a container here'
exit 1
