#!/bin/bash
# Installs the Debian packages that building needs, and those of each of
# make's targets that is named; or prints their names.
#
#	t/tools/deps.sh [--list] [TARGET] ...

set -eu

list=
[ "${1:-}" != --list ] || { list=yes; shift; }

# To build, to listen, to send a message.
packages=(gcc libc6-dev libssl-dev libsystemd-dev pkgconf systemd curl)

for target; do
	case $target in
	STATIC=yes)
		# The last two are for the OpenSSL of later releases.
		packages+=(musl-tools libcrypt-dev busybox-static zlib1g-dev
		    libzstd-dev) ;;
	check | coverage)
		packages+=(libcriterion-dev g++ perl python3 swaks openssl
		    faketime ca-certificates ucspi-tcp s6 busybox-static
		    haproxy iproute2 strace netbase
		    valgrind libnet-ssleay-perl procps bash-completion nodejs)
		# inetd and xinetd exclude each other: the tests fetch them
		# and run them where they are, with these.
		packages+=(libbsd0 libevent-2.1-7 libtirpc3 libwrap0)
		[ "$target" = check ] ||
		    packages+=(clang libclang-rt-dev llvm) ;;
	check-peers)
		packages+=(perl python3 openssl postfix dovecot-lmtpd mailman3
		    dovecot-submissiond msmtp
		    postgrey python3-spf-engine socat gsasl haproxy
		    libnginx-mod-mail swaks curl node-nodemailer
		    opendkim opendmarc rspamd redis-server clamav-milter
		    clamav-daemon spamass-milter spamd python3-dkim
		    python3-milter
		    monitoring-plugins-basic prometheus-blackbox-exporter
		    fail2ban gnutls-bin sslscan libnet-ssleay-perl)
		# Exim and ssmtp exclude Postfix: they are fetched and run
		# where they are, with what they need.
		packages+=(libdb5.3 libgnutls-dane0 libidn12 libnsl2
		    libpcre2-8-0 libgnutls-openssl27) ;;
	check-systemd)
		packages+=(make python3 swaks openssl systemd-container
		    systemd-sysv libpam-systemd dbus
		    debootstrap dpkg-dev lintian man-db bash-completion
		    iproute2 ca-certificates ucspi-tcp procps
		    dovecot-lmtpd postgrey pyspf-milter postfix opendkim) ;;
	deb)
		packages+=(dpkg-dev) ;;
	bench)
		# msmtp-mta, which has msmtpd, excludes Postfix: it is fetched
		# and run where it is, with what msmtp needs.
		packages+=(python3 ucspi-tcp postfix strace binutils openssl
		    gnuplot-nox msmtp python3-aiosmtpd stunnel4
		    libmilter-dev systemd-container)
		# Not every release has this one.
		! apt-cache show mailfront >/dev/null 2>&1 ||
		    packages+=(mailfront) ;;
	fuzz)
		packages+=(clang libclang-rt-dev) ;;
	lint)
		packages+=(clang cppcheck g++ mandoc gcc-aarch64-linux-gnu
		    libc6-dev-arm64-cross gcc-riscv64-linux-gnu
		    libc6-dev-riscv64-cross gcc-arm-linux-gnueabihf
		    libc6-dev-armhf-cross qemu-user-static) ;;
	esac
done

if [ -n "$list" ]; then
	echo "${packages[*]}"
	exit
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
exec $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${packages[@]}"
