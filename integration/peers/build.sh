#!/usr/bin/env bash
# Builds the programs the integration tests, the demo and the benchmark run against, from the Go
# module proxy, each into its own directory out/peers/<name>-<version>. A finished directory holds
# a .done stamp and is never built again, so an interrupted build starts over and a second run
# costs nothing.
#
#   integration/peers/build.sh [containerd|containerd-1.7|runc|nerdctl|snapshotters|criu|former|all|k8s]...
#
# k8s is what make test-k8s alone needs: kubernetes, which takes ten minutes of two idle cores, kubernetes-tools,
# etcd, coredns and policy. all is without it.
set -euo pipefail

readonly CONTAINERD=v2.4.2 # the current line
readonly CONTAINERD_17=v1.7.35 # what Debian 13, the base of Proxmox VE 9, packages (its last patch release)
readonly RUNC=v1.5.1
readonly NERDCTL=v2.1.2
readonly CRIU=4.1.1
readonly KUBERNETES=v1.37.2
# A former version of this project, whose containers an upgrade must serve: one shim program without a small one in front,
# and the first form of the state file.
readonly FORMER=65bb9a144d48289c28100d4564f86aa99e186f07
readonly ZFS=v2.0.0 # containerd's own snapshotter on ZFS
readonly COREDNS=v1.15.0
readonly KUBE_ROUTER=v2.1.0 # the newest that the proxy has

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
	# Two makes in one checkout must not share a staging directory; a long build must not keep others
	# waiting that want something else.
	exec 9>"$work/$1.lock"
	flock 9
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

# Debian 12's CRIU does not run on newer kernels: Debian 13's does, from its source package.
build_criu() {
	local out=$1 mirror apt
	apt=(-o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$PWD/lists"
		-o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root)
	mkdir -p lists/partial cache/archives/partial
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '^http.*/debian/$' || true)
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian/} trixie main" >sources.list
	apt-get -qq "${apt[@]}" update
	apt-get -qq "${apt[@]}" source --download-only --tar-only "criu=$CRIU-1"
	tar xf "criu_$CRIU.orig.tar.xz"
	make -C "criu-$CRIU" -j 2 criu >make.log 2>&1 || {
		tail -n 20 make.log >&2
		return 1
	}
	cp "criu-$CRIU/criu/criu" "$out/"
	rm -r "criu-$CRIU" criu_*.tar.xz lists cache sources.list make.log
}

# Kubernetes' module wants its staging modules beside it, as no version of their own (v0.0.0): a module of
# our own requires it and replaces them by what was published of them.
build_kubernetes() { kubernetes "$1" kubelet kube-apiserver kube-controller-manager kube-scheduler; }
build_kubernetes_tools() { kubernetes "$1" kube-proxy kubectl; }

kubernetes() {
	local out=$1 module=k8s.io/kubernetes command staging
	shift
	mkdir mod
	cd mod
	go mod init peers/kubernetes 2>/dev/null
	cp "$(go mod download -json "$module@$KUBERNETES" | sed -n 's/^[[:space:]]*"GoMod": "\(.*\)",*$/\1/p')" upstream.mod
	sed -n 's/^[[:space:]]*\(k8s\.io\/[a-z0-9-]*\) => \.\/staging.*/\1/p; s/^[[:space:]]*\(k8s\.io\/[a-z0-9-]*\) v0\.0\.0\( .*\)*$/\1/p' upstream.mod | sort -u >staging
	while read -r staging; do
		go mod edit -replace "$staging=$staging@v0.${KUBERNETES#v1.}"
	done <staging
	go mod edit -require "$module@$KUBERNETES"
	{
		printf '//go:build tools\n\npackage tools\n\nimport (\n'
		for command in "$@"; do
			printf '\t_ "%s/cmd/%s"\n' "$module" "$command"
		done
		printf ')\n'
	} >tools.go
	for command in "$@"; do
		CGO_ENABLED=0 go build -mod=mod -trimpath -ldflags "$LDFLAGS -X k8s.io/component-base/version.gitVersion=$KUBERNETES" \
			-o "$out/" "$module/cmd/$command"
	done
	cd ..
	rm -r mod
}

# program NAME OUT MODULE@VERSION...: a program of our own that serves what is in these modules.
program() {
	local name=$1 out=$2
	shift 2
	mkdir mod
	cp "$repo/integration/peers/$name/main.go.txt" mod/main.go
	cd mod
	go mod init "peers/$name" 2>/dev/null
	go get "$@" 2>/dev/null
	go mod tidy 2>/dev/null
	CGO_ENABLED=0 go build -trimpath -ldflags "$LDFLAGS" -o "$out" .
	cd ..
	chmod -R u+w mod
	rm -r mod
}

# The snapshotters that ours is compared with, each served on a socket as ours is.
build_snapshotters() { program snapshotters "$1/snapshotter" "github.com/containerd/zfs/v2@$ZFS" "github.com/containerd/containerd/v2@$CONTAINERD"; }
build_coredns() { program coredns "$1/coredns" "github.com/coredns/coredns@$COREDNS"; }
build_policy() { program policy "$1/policy" "github.com/cloudnativelabs/kube-router/v2@$KUBE_ROUTER"; }

# Debian's etcd, taken out of its package: an installed one would run as a service of the machine.
build_etcd() {
	apt-get download -qq etcd-server || {
		log "apt-get could not download etcd-server (hint: apt-get update)"
		return 1
	}
	dpkg -x etcd-server_*.deb package
	mv package/usr/bin/etcd .
	rm -r package etcd-server_*.deb
}

# The checkout's own history has it; a shallow clone has not.
build_former() {
	git -C "$repo" cat-file -e "$FORMER^{commit}" 2>/dev/null || git -C "$repo" fetch --quiet --depth 1 origin "$FORMER" 2>/dev/null || {
		log "the history has no commit $FORMER (hint: git fetch --unshallow)"
		return 1
	}
	mkdir src
	git -C "$repo" archive "$FORMER" | tar -x -C src
	GOFLAGS=-buildvcs=false make --no-print-directory -C src BIN="$1" containerd-shim-pvelxc-v2 pvelxc pvelxc-seccomp c >/dev/null
	rm -r src
}

target() {
	case $1 in
	containerd) once "containerd-${CONTAINERD#v}" build_containerd ;;
	containerd-1.7) once "containerd-${CONTAINERD_17#v}" build_containerd_17 ;;
	runc) once "runc-${RUNC#v}" build_runc ;;
	nerdctl) once "nerdctl-${NERDCTL#v}" build_nerdctl ;;
	kubernetes) once "kubernetes-${KUBERNETES#v}" build_kubernetes ;;
	kubernetes-tools) once "kubernetes-tools-${KUBERNETES#v}" build_kubernetes_tools ;;
	etcd) once etcd build_etcd ;;
	coredns) once "coredns-${COREDNS#v}" build_coredns ;;
	policy) once "policy-${KUBE_ROUTER#v}" build_policy ;;
	snapshotters) once "snapshotters-${ZFS#v}" build_snapshotters ;;
	criu) once "criu-$CRIU" build_criu ;;
	former) once pvelxc-former build_former ;;
	all) for t in containerd runc containerd-1.7 nerdctl snapshotters; do target "$t"; done ;;
	k8s) for t in kubernetes kubernetes-tools etcd coredns policy; do target "$t"; done ;;
	*)
		log "unknown target $1 (hint: containerd, containerd-1.7, runc, nerdctl, snapshotters, criu, former, all or k8s)"
		exit 2
		;;
	esac
}

mkdir -p "$work"
for t in "${@:-all}"; do
	target "$t"
done
