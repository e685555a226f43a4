#!/bin/bash
# Measures pvelxc-snapshotter against containerd's snapshotters in the VM; see integration/cmd/bench-vm.
#
#	bench.sh [ARGUMENT...]    arguments are bench-vm's; the results go to out/bench-vm.json
set -euo pipefail
here=$(dirname "$(realpath "$0")")
repo=$(realpath "$here/../..")
share=$(mktemp -d)
trap 'rm -rf "$share"' EXIT
CGO_ENABLED=0 go -C "$repo/integration" build -o "$share/bench-vm" ./cmd/bench-vm
cp "$repo/bin/pvelxc-snapshotter" "$share/"
cp -r "$repo"/out/peers/{snapshotters,containerd}-2.* "$share/"
status=0
"$here/run.sh" -t "${VM_BENCH_LIMIT:-3000}" -d "$share" "export PVELXC_BIN=/host PVELXC_PEERS=/host VM_POOL_DEVICE=/dev/vdb1 TMPDIR=/var/tmp
	/host/bench-vm -o /host/bench-vm.json $*" || status=$?
[ ! -f "$share/bench-vm.json" ] || cp "$share/bench-vm.json" "$repo/out/bench-vm.json"
exit "$status"
