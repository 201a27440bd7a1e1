#!/bin/sh
# Every fuzzer with everything in its corpus, under the sanitizers: what was
# found once must not come back.  The last input that is named is the culprit.
cd "$(dirname "$0")/.." || exit 1
set -- t/fuzz_*.c
echo "1..$#"
n=0
for f; do
	n=$((n + 1))
	name=${f#t/fuzz_}
	name=${name%.c}
	if said=$("t/san/fuzz_$name" "t/corpus/$name"/* 2>&1) &&
	    [ "$(echo "$said" | wc -l)" = "$(ls "t/corpus/$name" | wc -l)" ]
	then
		echo "ok $n - $name"
	else
		echo "$said" | grep -B1 -A30 -m1 -v ^t/corpus/ | sed 's/^/# /'
		echo "not ok $n - $name"
	fi
done
