#!/bin/sh
# The same as recipes.sh under the other of Debian 12 and 13.
. "${0%/*}/other.inc"
exec t/systemd/recipes.sh
