#!/bin/bash
# pvelxc-snapshotter as containerd's proxy plugin on a real pool.
# limit: 600 s
. "$VM_TAP"

pool=snapshotter
run=$TMPDIR/run
mkdir -p "$run"
finish() {
	[ -z "$containerd" ] || { kill "$containerd"; wait "$containerd"; }
	[ ! -s "$run/pid" ] || kill "$(<"$run/pid")"
	stopped() { ! pgrep -x pvelxc-snapshot; }
	poll 30 stopped
	! zpool list "$pool" >/dev/null 2>&1 || zpool destroy -f "$pool"
	tap_end
}
containerd=''
trap finish EXIT

zpool create -f -O mountpoint=none "$pool" "$VM_POOL_DEVICE"
cat >"$run/snapshotter.toml" <<-EOF
	version = 1
	root = "$pool/pvelxc"
	state = "$run/state"
	address = "$run/snapshotter.sock"
EOF
cat >"$run/containerd.toml" <<-EOF
	version = 3
	root = "$run/root"
	state = "$run/run"
	disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.zfs", "io.containerd.nri.v1.nri"]
	[grpc]
	  address = "$run/containerd.sock"
	[ttrpc]
	  address = "$run/containerd.sock.ttrpc"
	[proxy_plugins.pvelxc]
	  type = "snapshot"
	  address = "$run/snapshotter.sock"
EOF
# A check is a subshell, so the process is known by a file.
start() {
	"$PVELXC_BIN/pvelxc-snapshotter" -config "$run/snapshotter.toml" >>"$run/snapshotter.log" 2>&1 &
	echo $! >"$run/pid"
}
start
poll 60 test -S "$run/snapshotter.sock"
"$PVELXC_PEERS"/containerd-2.4.2/containerd -c "$run/containerd.toml" >"$run/containerd.log" 2>&1 &
containerd=$!
ctr() { "$PVELXC_PEERS"/containerd-2.4.2/ctr -a "$run/containerd.sock" "$@"; }
poll 60 ctr version >/dev/null
snap() { ctr snapshots --snapshotter pvelxc "$@"; }
datasets() { zfs list -H -o name -r -d 1 "$pool/pvelxc/s" | grep -cv "/s$"; }

layers() {
	local parent='' i
	for i in 1 2 3; do
		# shellcheck disable=SC2086 # no parent is no word
		snap prepare "extract-$i layer" $parent
		mkdir -p "$run/mnt"
		mount -t zfs "$(zfs list -H -o name -r -d 1 "$pool/pvelxc/s" | grep -v "/s$")" "$run/mnt"
		echo "$i" >"$run/mnt/file$i"
		umount "$run/mnt"
		snap commit "layer$i" "extract-$i layer"
		parent=layer$i
	done
	[ "$(datasets)" = 1 ]
}

view() {
	snap view v layer2
	[ "$(datasets)" = 1 ]
	local source
	source=$(snap mounts /mnt v | tee /dev/stderr | grep -o "$pool/pvelxc/s/[a-z0-9]*@[a-z0-9]*")
	mount -t zfs "$source" "$run/mnt"
	[ "$(cat "$run"/mnt/file*)" = $'1\n2' ]
	! touch "$run/mnt/x"
	umount "$run/mnt"
	snap rm v
}

# Killed, it comes back with everything, and containerd goes on.
killed() {
	snap prepare before layer3
	kill -9 "$(<"$run/pid")"
	start
	poll 60 snap info before
	snap prepare after layer3
	snap rm before
	snap rm after
}

removed() {
	snap rm layer3
	snap rm layer2
	snap rm layer1
	gone() { [ "$(datasets)" = 0 ]; }
	poll 60 gone
}

storage() { "$PVELXC_BIN/pvelxc-snapshotter" -config "$run/snapshotter.toml" -check; }

check "the configuration is valid" storage
check "layers through containerd are snapshots of one dataset" layers
check "a view is a snapshot's mount" view
check "a killed snapshotter comes back" killed
check "what is removed is destroyed" removed
