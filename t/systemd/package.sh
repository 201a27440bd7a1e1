#!/bin/sh
# The Debian packages, built and tried in a booted Debian: the one that runs,
# or the release of RIG_ROOT.
RIG_SOURCE=yes exec "$(dirname "$0")/boot.sh" "$(dirname "$0")/package.py"
