#!/usr/bin/env bash
# Runs every test that a plain machine can run, and closes with the totals. make test calls it with
# everything built. The runs are kept in out/test, in go test's JSON.
#
# What failed runs a second time, alone, and is named where it passes then.
#
# FUZZ_TIME is how long each fuzz target runs (default 3s); INTEGRATION=0 leaves the integration tests out.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$repo/out/test
cd "$repo"
rm -rf "$out"
mkdir -p "$out"
go -C integration build -o "$repo/out/testsum" ./cmd/testsum
testsum=$repo/out/testsum

section() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

# record NAME COMMAND...: shows and keeps a run. Whether it failed is for the closing lines to say.
record() {
	local name=$1
	shift
	"$@" 2>&1 | "$testsum" -record "$out/$name.json" || true
}

section "unit and golden tests, with the race detector"
record unit go test -race -timeout 20m -json ./...

section "fuzz targets, ${FUZZ_TIME:-3s} each"
go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | while read -r dir; do
	targets=$(grep -hos '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' || true)
	for target in $targets; do
		record "fuzz-$(basename "$dir")-$target" \
			go test -json -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZ_TIME:-3s}" -timeout 5m "$dir" </dev/null
	done
done

if [[ ${INTEGRATION:-1} != 0 ]]; then
	section "integration tests: containerd, LXC, and runc as the reference; the shim with the race detector, the C programs with sanitizers"
	mkdir -p "$repo/out/race"
	cp -f "$repo"/bin/pvelxc* "$repo/out/race/"
	rm -f "$repo"/out/race/pvelxc-{init,monitor}
	make --no-print-directory c BIN="$repo/out/race" SANITIZE=1
	CGO_ENABLED=1 go build -race -o "$repo/out/race/" ./cmd/containerd-shim-pvelxc-v2 ./cmd/pvelxc-shim
	PVELXC_BIN=$repo/out/race record integration go -C integration test -timeout 40m -json ./...
fi

# Containers are made on machines that do other things too, and a test may lose against them once. What
# failed runs again, alone; the totals name it. More than a few failures are no accident.
"$testsum" -failed "$out"/*.json >"$out/failed"
if [[ -s $out/failed && $(wc -l <"$out/failed") -le 6 ]]; then
	section "again: what failed"
	while read -r package pattern; do
		name=zz-again-$(tr / - <<<"$package")
		case $package in
		*/integration/*) PVELXC_BIN=$repo/out/race record "$name" go -C integration test -count=1 -timeout 20m -json -run "$pattern" "$package" </dev/null ;;
		*) record "$name" go test -race -count=1 -timeout 20m -json -run "$pattern" "$package" </dev/null ;;
		esac
	done <"$out/failed"
fi

section "totals"
"$testsum" "$out"/*.json
