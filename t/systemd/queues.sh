#!/bin/sh
# The units with a queue in front of a smarthost: fetches nullmailer and dma,
# which cannot be installed beside Postfix, and runs queues.py under a booted
# systemd with them.
cd "$(dirname "$0")/../.." || exit 1
debs=$(mktemp -d) || exit 1
trap 'rm -rf "$debs"' EXIT
(cd "$debs" && apt-get download -o APT::Sandbox::User=root nullmailer dma) \
    >/dev/null 2>&1 || {
	echo '1..0 # SKIP nullmailer and dma cannot be fetched'
	exit 0
}
mv "$debs"/nullmailer_* "$debs/nullmailer.deb"
mv "$debs"/dma_* "$debs/dma.deb"
RIG_FILES="$debs/nullmailer.deb $debs/dma.deb t/text.py README" \
    t/systemd/boot.sh t/systemd/queues.py
