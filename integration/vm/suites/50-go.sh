#!/bin/bash
# The Go tests that the file packages lists, each in a directory with its testdata.
# limit: 3600 s
# ci: what is exact: counts, containerd's own suite and kill -9 on a pool, the backend's conformance
status=0 none=yes
if [ -n "$VM_CI" ]; then
	cd "$VM_GO/snapshotter" || exit
	# Histories that run beside each other share the transaction groups that they wait for.
	./snapshotter.test -test.v -test.timeout 20m -test.parallel 8 -test.run '^(TestCountsOnPool|TestOnPool|TestSuiteOnPool|TestFaultsOnPool)$' || status=$?
	cd zfs/probe || exit
	./probe.test -test.v -test.timeout 10m -test.run '^TestConformance$/^ioctl$' || status=$?
	exit "$status"
fi
while read -r test; do
	none=
	cd "$(dirname "$test")" || exit
	"$test" -test.v -test.timeout 40m -test.parallel 8 || status=$?
done < <(find "$VM_GO" -path "$VM_GO/integration" -prune -o -name '*.test' -print | sort)
[ -z "$none" ] || echo "ok - Go tests # SKIP the file packages lists none"
exit "$status"
