#!/bin/sh
# The TLS engine that stays, by its units under a booted systemd.
here=$(dirname "$0")
exec "$here/boot.sh" "$here/resident.py"
