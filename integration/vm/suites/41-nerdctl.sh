#!/bin/bash
# nerdctl run --runtime io.containerd.pvelxc.v2 --snapshotter pvelxc: both halves of the project together, on a real pool.
# limit: 1200 s
# ci
. "$VM_TAP"
. "${VM_TAP%/*}/containerd.sh"

pool=nerdctl
# Volumes and logs want a file system that is no tmpfs.
work=/var/tmp/nerdctl
mkdir -p "$work/mnt" "$work/registered"
export PATH=$PVELXC_BIN:$PVELXC_PEERS/nerdctl-2.1.2:$PVELXC_PEERS/containerd-2.4.2:$PATH
export PVELXC_CONFIG=$work/config.toml NERDCTL_TOML=$work/nerdctl.toml
snapshotter='' containerd=''
finish() {
	[ -z "$containerd" ] || { kill "$containerd"; wait "$containerd"; }
	[ -z "$snapshotter" ] || { kill "$snapshotter"; wait "$snapshotter"; }
	! mountpoint -q "$work/state/exports" || umount "$work/state/exports"
	! zpool list "$pool" >/dev/null 2>&1 || zpool destroy -f "$pool"
	rm -rf --one-file-system "$work" /var/lib/cni
	remove_shared_cgroups default
	tap_end
}
trap 'finish 2>/dev/null' EXIT

settings() { printf 'version = 1\n[pve]\nroot = "%s"\n[runtime]\nunprivileged = %s\n' "$work/registered" "$1" >"$PVELXC_CONFIG"; }
settings false
cat >"$NERDCTL_TOML" <<-EOF
	address = "$work/containerd.sock"
	snapshotter = "pvelxc"
	cgroup_manager = "cgroupfs"
	data_root = "$work/data"
	cni_path = "/usr/lib/cni"
	cni_netconfpath = "$work/net.d"
EOF
snapshotter_settings "$pool" "$work" >"$work/snapshotter.toml"
snapshotter_containerd "$work" >"$work/containerd.toml"
zpool create -f -O mountpoint=none "$pool" "$VM_POOL_DEVICE"
pvelxc-snapshotter -config "$work/snapshotter.toml" >"$work/snapshotter.log" 2>&1 &
snapshotter=$!
poll 60 test -S "$work/snapshotter.sock"
containerd -c "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
containerd=$!
answers() { nerdctl version >/dev/null 2>&1; }

run() { nerdctl run --runtime io.containerd.pvelxc.v2 --snapshotter pvelxc --net none "$@"; }
datasets() { layer_datasets "$pool"; }
# on_disk CONTAINER PATH...: the owners of files of a container, as they are on disk.
on_disk() {
	local name=$1
	shift
	mount -t zfs "$(nerdctl exec "$name" cat /proc/mounts | sed -n 's/^\([^ ]*\) \/ zfs .*/\1/p')" "$work/mnt"
	(cd "$work/mnt" && stat -c %u "$@") || :
	umount "$work/mnt"
}

# An image of two layers, as docker save writes it.
image() {
	mkdir -p "$work/image" "$work/two/home"
	busybox_rootfs "$work/one" cat echo id rm sh sleep stat touch
	echo 'root:x:0:0::/:/bin/sh' >"$work/one/etc/passwd"
	echo mine >"$work/two/home/file"
	chown 1000:1000 "$work/two/home/file"
	cd "$work/image"
	tar -C "$work/one" --numeric-owner -cf one.tar .
	tar -C "$work/two" --numeric-owner -cf two.tar ./home
	cat >config.json <<-EOF
		{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}, "rootfs": {"type": "layers",
		"diff_ids": ["sha256:$(sha256sum one.tar | cut -d' ' -f1)", "sha256:$(sha256sum two.tar | cut -d' ' -f1)"]}}
	EOF
	echo '[{"Config": "config.json", "RepoTags": ["pvelxc.test/suite:1"], "Layers": ["one.tar", "two.tar"]}]' >manifest.json
	tar -cf "$work/image.tar" config.json manifest.json one.tar two.tar
	nerdctl load -i "$work/image.tar"
	[ "$(datasets)" = 1 ]
}

privileged() {
	[ "$(run --rm pvelxc.test/suite:1 sh -c 'cat /home/file; stat -c %u /home/file; id -u')" = $'mine\n1000\n0' ]
	run -d --name priv pvelxc.test/suite:1 sleep 1000000
	trap 'nerdctl rm -f priv' EXIT
	nerdctl exec priv cat /proc/mounts | grep "^$pool/pvelxc/s/.* / zfs "
	[ "$(nerdctl exec priv sh -c 'echo new >/new; cat /new')" = new ]
	local pid
	pid=$(nerdctl inspect -f '{{.State.Pid}}' priv)
	[ "$(stat -c %u "/proc/$pid")" = 0 ]
	lxc-info -n "$(ls /var/lib/lxc)" -s | grep RUNNING
}

# The user namespace maps ids, and so does the mount: what is on disk stays as it is.
unprivileged() {
	settings true
	trap 'settings false; nerdctl rm -f unpriv' EXIT
	run -d --name unpriv pvelxc.test/suite:1 sh -c 'touch /made; sleep 1000000'
	poll 60 nerdctl exec unpriv stat /made
	local pid
	pid=$(nerdctl inspect -f '{{.State.Pid}}' unpriv)
	[ "$(stat -c %u "/proc/$pid")" = 100000 ]
	[ "$(nerdctl exec unpriv stat -c %u /bin/busybox /home/file /made)" = $'0\n1000\n0' ]
	nerdctl exec unpriv cat /proc/mounts | grep "^$pool/pvelxc/s/.* / zfs "
	# No owner was changed, neither of the image's files nor of the one that was made.
	[ "$(on_disk unpriv bin/busybox home/file made)" = $'0\n1000\n0' ]
}

committed() {
	run -d --name comm pvelxc.test/suite:1 sh -c 'echo kept >/kept; rm /home/file; sleep 1000000'
	trap 'nerdctl rm -f comm' EXIT
	poll 60 nerdctl exec comm cat /kept
	nerdctl commit comm pvelxc.test/committed:1
	nerdctl rm -f comm
	trap - EXIT
	[ "$(run --rm pvelxc.test/committed:1 sh -c 'cat /kept; cat /home/file || echo gone')" = $'kept\ngone' ]
}

nothing_left() {
	nerdctl rmi -f pvelxc.test/committed:1 pvelxc.test/suite:1
	gone() { [ "$(datasets)" = 0 ]; }
	poll 90 gone
	poll 60 eval '! pgrep "^(pvelxc-(shim|init|monitor)|containerd-shim)"'
	! grep "$pool/pvelxc/s/" /proc/self/mountinfo
}

check "containerd answers nerdctl" poll 60 answers
check "an image of two layers is one dataset" image
check "a container on a clone" privileged
check "an unprivileged container on an idmapped clone" unprivileged
check "nerdctl commit" committed
check "nothing is left" nothing_left
