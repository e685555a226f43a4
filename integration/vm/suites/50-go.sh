#!/bin/bash
# The Go tests that the file packages lists, each in a directory with its testdata.
# limit: 3600 s
# ci
status=0 none=yes
while read -r test; do
	none=
	cd "$(dirname "$test")" || exit
	"$test" -test.v -test.timeout 40m || status=$?
done < <(find "$VM_GO" -path "$VM_GO/integration" -prune -o -name '*.test' -print | sort)
[ -z "$none" ] || echo "ok - Go tests # SKIP the file packages lists none"
exit "$status"
