#!/usr/bin/env bash
# Checks what can be checked without running anything: Go in both modules, C, shell.
set -euo pipefail

readonly GOLANGCI=v2.15.0

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools=$PWD/out/tools/golangci-lint-$GOLANGCI
if [[ ! -x $tools/golangci-lint ]]; then
	echo "lint: building golangci-lint $GOLANGCI" >&2
	GOBIN=$tools CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" \
		"github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI"
fi

failed=0
check() {
	"$@" || failed=1
}

for module in . integration; do
	echo "lint: go in $module" >&2
	(cd "$module" && go vet ./...) || failed=1
	(cd "$module" && "$tools/golangci-lint" run ./...) || failed=1
done

echo "lint: c" >&2
flags=(-fsyntax-only -std=gnu11 -Wall -Wextra -Werror -Wformat=2 -Wshadow -Wstrict-prototypes -Wmissing-prototypes -D_GNU_SOURCE)
for source in shim/init/*.c; do
	check gcc "${flags[@]}" -fanalyzer "$source"
done
for source in shim/monitor/*.c; do
	# shellcheck disable=SC2046
	check gcc "${flags[@]}" $(pkg-config --cflags lxc) "$source"
done

echo "lint: shell" >&2
while read -r script; do
	check bash -n "$script"
done < <(git ls-files '*.sh' .ci/run)

exit $failed
