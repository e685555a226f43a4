#!/usr/bin/env bash
# Builds the programs the integration tests, the demo and the benchmark run against, from the Go
# module proxy, each into its own directory out/peers/<name>-<version>. A finished directory holds
# a .done stamp and is never built again, so an interrupted build starts over and a second run
# costs nothing.
#
#   integration/peers/build.sh [containerd|containerd-1.7|runc|nerdctl|all]...
set -euo pipefail

readonly CONTAINERD=v2.4.2 # the current line
readonly CONTAINERD_17=v1.7.35 # what Debian 13, the base of Proxmox VE 9, packages (its last patch release)
readonly RUNC=v1.5.1
readonly NERDCTL=v2.1.2

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
peers=$repo/out/peers
work=$repo/out/peers/.work
# Snapshotters that need headers of C libraries and that no test uses.
readonly TAGS=no_btrfs,no_devmapper,no_aufs,no_zfs
readonly LDFLAGS="-s -w"

log() { printf '[peers] %s\n' "$*" >&2; }

# once DIR FUNCTION: runs FUNCTION with a fresh staging directory and moves it to DIR when it succeeded.
once() {
	local dir=$peers/$1 build=$2 stage start=$SECONDS
	if [[ -e $dir/.done ]]; then
		return 0
	fi
	log "building $1"
	stage=$work/$1
	rm -rf "$stage"
	mkdir -p "$stage"
	# Not in an "if": set -e must stay on inside the function.
	(cd "$stage" && "$build" "$stage")
	touch "$stage/.done"
	rm -rf "$dir"
	mv "$stage" "$dir"
	log "$1 done in $((SECONDS - start)) s"
}

build_containerd() {
	local module=github.com/containerd/containerd/v2/cmd
	GOBIN=$1 CGO_ENABLED=0 go install -trimpath -tags "$TAGS" -ldflags "$LDFLAGS" \
		"$module/containerd@$CONTAINERD" "$module/ctr@$CONTAINERD" "$module/containerd-shim-runc-v2@$CONTAINERD"
}

# containerd 1.7's go.mod has exclude directives, which "go install module@version" refuses: a module
# of our own requires it and builds its commands.
build_containerd_17() {
	local out=$1 module=github.com/containerd/containerd
	mkdir mod
	cd mod
	go mod init peers/containerd17 2>/dev/null
	cat >tools.go <<-GO
		//go:build tools

		package tools

		import (
			_ "$module/cmd/containerd"
			_ "$module/cmd/containerd-shim-runc-v2"
			_ "$module/cmd/ctr"
		)
	GO
	go get "$module@$CONTAINERD_17" 2>/dev/null
	go mod tidy 2>/dev/null
	CGO_ENABLED=0 go build -trimpath -tags "$TAGS" -ldflags "$LDFLAGS" -o "$out/" \
		"$module/cmd/containerd" "$module/cmd/containerd-shim-runc-v2" "$module/cmd/ctr"
	cd ..
	rm -r mod
}

build_runc() {
	GOBIN=$1 CGO_ENABLED=1 go install -trimpath -tags seccomp -ldflags "$LDFLAGS" \
		"github.com/opencontainers/runc@$RUNC"
}

# nerdctl's module has replace directives, which "go install module@version" refuses.
build_nerdctl() {
	local out=$1 module=github.com/containerd/nerdctl/v2 source
	source=$(go mod download -json "$module@$NERDCTL" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
	cp -r "$source" src
	chmod -R u+w src
	cd src
	CGO_ENABLED=0 go build -trimpath -ldflags "$LDFLAGS -X $module/pkg/version.Version=$NERDCTL" \
		-o "$out/" ./cmd/nerdctl
	cd ..
	rm -r src
}

target() {
	case $1 in
	containerd) once "containerd-${CONTAINERD#v}" build_containerd ;;
	containerd-1.7) once "containerd-${CONTAINERD_17#v}" build_containerd_17 ;;
	runc) once "runc-${RUNC#v}" build_runc ;;
	nerdctl) once "nerdctl-${NERDCTL#v}" build_nerdctl ;;
	all) for t in containerd runc containerd-1.7 nerdctl; do target "$t"; done ;;
	*)
		log "unknown target $1 (hint: containerd, containerd-1.7, runc, nerdctl or all)"
		exit 2
		;;
	esac
}

mkdir -p "$work"
# One build at a time: two makes in one checkout must not share a staging directory.
exec 9>"$work/lock"
flock 9
for t in "${@:-all}"; do
	target "$t"
done
