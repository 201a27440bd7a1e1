#!/bin/sh
# smtpd-recipes(7), as it is printed, in a booted Debian: the one that runs, or
# the release of RIG_ROOT.
here=$(dirname "$0")
RIG_SOURCE=yes RIG_FILES="$here/../text.py" exec "$here/boot.sh" \
    "$here/recipes.py"
