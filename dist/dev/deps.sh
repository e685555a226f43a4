#!/usr/bin/env bash
# Installs the Debian packages that building, testing and the demo need, on Debian 12 or 13 as root.
# Asks dpkg first, so it costs a few milliseconds once everything is there.
#
#   dist/dev/deps.sh [build|run|test|k8s|package]   build: what make build needs; run: make demo too; test: everything;
#   k8s: what make test-k8s needs; package: what make packages, release and test-packages need
set -euo pipefail

readonly BUILD=(gcc libc6-dev pkg-config lxc-dev libseccomp-dev)
readonly RUN=(lxc busybox-static runc iproute2 procps mount ca-certificates)
readonly K8S=(ipset)
readonly PACKAGE=(gcc-aarch64-linux-gnu lintian debootstrap apparmor xz-utils jq qemu-user-static)
readonly TEST=(crun containernetworking-plugins iptables tini valgrind
	make libprotobuf-c-dev libprotobuf-dev protobuf-c-compiler protobuf-compiler libnl-3-dev libnet1-dev libcap-dev libbsd-dev uuid-dev python3)

fail() {
	printf 'deps: %s (hint: %s)\n' "$1" "$2" >&2
	exit 1
}

installed() {
	[[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Newer Debian releases call the liblxc headers liblxc-dev; lxc-dev is what Debian 12 knows.
available() {
	local package=$1
	if [[ $package == lxc-dev ]] && ! apt-cache show lxc-dev >/dev/null 2>&1; then
		package=liblxc-dev
	fi
	printf '%s\n' "$package"
}

case ${1:-test} in
build) want=("${BUILD[@]}") ;;
run) want=("${BUILD[@]}" "${RUN[@]}") ;;
test) want=("${BUILD[@]}" "${RUN[@]}" "${TEST[@]}") ;;
k8s) want=("${BUILD[@]}" "${RUN[@]}" "${TEST[@]}" "${K8S[@]}") ;;
package) want=("${BUILD[@]}" "${PACKAGE[@]}") ;;
*) fail "unknown set $1" "build, run, test, k8s or package" ;;
esac

command -v dpkg-query >/dev/null || fail "this is not a Debian system" "install the equivalents of: ${want[*]}"
command -v go >/dev/null || fail "there is no Go" "install Go 1.26 or newer"

missing=()
for package in "${want[@]}"; do
	if ! installed "$package" && ! { [[ $package == lxc-dev ]] && installed liblxc-dev; }; then
		missing+=("$package")
	fi
done
((${#missing[@]})) || exit 0

[[ $(id -u) == 0 ]] || fail "packages are missing: ${missing[*]}" "run as root, or: apt-get install ${missing[*]}"

printf 'deps: installing %s\n' "${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || fail "apt-get update failed" "check the network and /etc/apt/sources.list"
mapfile -t names < <(for package in "${missing[@]}"; do available "$package"; done)
apt-get install -y -qq --no-install-recommends "${names[@]}" >/dev/null ||
	fail "apt-get could not install ${names[*]}" "check the network, then run it by hand to see why"
