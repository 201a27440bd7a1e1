#!/bin/sh
# TROUBLESHOOTING of smtpd(8), and smtpd-log(7), as they are printed, in a
# booted Debian: the one that runs, or the release of RIG_ROOT.
here=$(dirname "$0")
RIG_SOURCE=yes RIG_FILES="$here/../text.py" exec "$here/boot.sh" \
    "$here/trouble.py"
