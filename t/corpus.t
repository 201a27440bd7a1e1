#!/bin/sh
# corpus.t - every fuzz target takes every input of its corpus, under the
# sanitizers: what was found once must not come back.  Of a target that fails
# the last input that is named is the one that it failed at.
cd "$(dirname "$0")/.." || exit 1
set -- $(ls t/fuzz/*.c | grep -v /replay.c)
echo "1..$#"
n=0
for f; do
	n=$((n + 1))
	name=${f##*/}
	name=${name%.c}
	corpus=t/fuzz/corpus/$name
	if said=$("t/out/replay/$name" "$corpus"/* 2>&1) &&
	    [ "$(echo "$said" | wc -l)" = "$(ls "$corpus" | wc -l)" ]
	then
		echo "ok $n - $name"
	else
		echo "$said" | grep -B1 -A30 -m1 -v ^t/fuzz/corpus/ | sed 's/^/# /'
		echo "not ok $n - $name"
	fi
done
