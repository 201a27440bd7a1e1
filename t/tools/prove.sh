#!/bin/bash
# Runs a test for prove: a script as it is, a Criterion suite so that prove
# can read it (prove cannot read all that Criterion writes as YAML) and a
# failure's reason is seen.
#
#	prove -e t/tools/prove.sh TEST ...

set -o pipefail

if [[ ${1##*/} == *.* ]]; then
	exec "$1"
fi
"$1" --tap | awk '
	/^#/	{ next }
	/^  /	{ print "# " $0 | "cat >&2"; next }
		{ print }'
