#!/bin/sh
# The same as trouble.sh under the other of Debian 12 and 13.
. "${0%/*}/other.inc"
exec t/systemd/trouble.sh
