#!/bin/bash
# pvelxc-snapshotter as containerd's proxy plugin on a real pool.
# limit: 600 s
# ci
. "$VM_TAP"
. "${VM_TAP%/*}/containerd.sh"

pool=snapshotter
run=$TMPDIR/run
mkdir -p "$run"
finish() {
	[ -z "$containerd" ] || { kill "$containerd"; wait "$containerd"; }
	[ ! -s "$run/pid" ] || kill "$(<"$run/pid")"
	stopped() { ! pgrep -x pvelxc-snapshot; }
	poll 30 stopped
	! mountpoint -q "$run/state/exports" || umount "$run/state/exports"
	! zpool list "$pool" >/dev/null 2>&1 || zpool destroy -f "$pool"
	tap_end
}
containerd=''
trap finish EXIT

zpool create -f -O mountpoint=none "$pool" "$VM_POOL_DEVICE"
{ snapshotter_settings "$pool" "$run"; echo 'metrics = "127.0.0.1:9478"'; } >"$run/snapshotter.toml"
snapshotter_containerd "$run" >"$run/containerd.toml"
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
datasets() { layer_datasets "$pool"; }

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

# image writes an OCI archive of two layers, the second with a whiteout.
image() {
	local dir=$run/image m=application/vnd.oci.image
	mkdir -p "$dir/blobs/sha256" "$run/one/etc" "$run/one/gone" "$run/two/etc"
	echo one >"$run/one/etc/one"
	touch "$run/one/gone/file"
	echo two >"$run/two/etc/two"
	touch "$run/two/.wh.gone"
	tar -C "$run/one" -cf "$run/one.tar" .
	tar -C "$run/two" -cf "$run/two.tar" .
	gzip -k "$run/two.tar"
	sum() { sha256sum "$1" | cut -d' ' -f1; }
	add() { # FILE: makes it a blob and prints how to refer to it
		cp "$1" "$dir/blobs/sha256/$(sum "$1")"
		printf '"digest":"sha256:%s","size":%s' "$(sum "$1")" "$(stat -c %s "$1")"
	}
	printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%s"]},"config":{}}' \
		"$(sum "$run/one.tar")" "$(sum "$run/two.tar")" >"$run/config.json"
	printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s",%s},"layers":[{"mediaType":"%s",%s},{"mediaType":"%s",%s}]}' \
		"$m.manifest.v1+json" "$m.config.v1+json" "$(add "$run/config.json")" "$m.layer.v1.tar" "$(add "$run/one.tar")" \
		"$m.layer.v1.tar+gzip" "$(add "$run/two.tar.gz")" >"$run/manifest.json"
	printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s",%s,"annotations":{"io.containerd.image.name":"docker.io/test/two:1"}}]}' \
		"$m.manifest.v1+json" "$(add "$run/manifest.json")" >"$dir/index.json"
	echo '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
	tar -C "$dir" -cf "$run/image.tar" .
}

applied() {
	exec 5<>/dev/tcp/127.0.0.1/9478
	printf 'GET /metrics HTTP/1.0\r\n\r\n' >&5
	sed -n 's/^pvelxc_snapshotter_operation_seconds_count{operation="apply",result="ok"} //p' <&5
	exec 5<&-
}
# The committed snapshot that is no other's parent.
top() { snap ls | awk '$NF == "Committed" { has[$1] = 1; if (NF == 3) parent[$2] = 1 } END { for (n in has) if (!parent[n]) print n }'; }
zfs_mounts() { grep -c ' - zfs ' /proc/self/mountinfo || :; }

# The differ unpacks with no mount, and both layers are snapshots of one dataset.
unpacked() {
	image
	local before
	before=$(zfs_mounts)
	ctr image import --snapshotter pvelxc "$run/image.tar"
	snap ls
	[ "$(applied)" = 2 ]
	[ "$(zfs_mounts)" = "$before" ]
	[ "$(datasets)" = 1 ]
	snap view v "$(top)"
	mount -t zfs "$(snap mounts /mnt v | grep -o "$pool/pvelxc/s/[a-z0-9]*@[a-z0-9]*")" "$run/mnt"
	[ "$(cat "$run"/mnt/etc/*)" = $'one\ntwo' ] && [ ! -e "$run/mnt/gone" ]
	umount "$run/mnt"
	snap rm v
}

# What a container changed is its layer.
compared() {
	snap prepare box "$(top)"
	mount -t zfs "$(snap mounts /mnt box | grep -o "$pool/pvelxc/s/[a-z0-9]*")" "$run/mnt"
	rm "$run/mnt/etc/one"
	echo three >"$run/mnt/etc/three"
	umount "$run/mnt"
	snap diff box | gzip -dcf >"$run/diff.tar"
	tar -tf "$run/diff.tar"
	[ "$(tar -tf "$run/diff.tar" | sort)" = $'etc/\netc/.wh.one\netc/three' ]
	snap rm box
	ctr image rm --sync docker.io/test/two:1
	gone() { [ "$(datasets)" = 0 ]; }
	poll 60 gone
}

exported() {
	grep " $run/state/exports .* - zfs $pool/pvelxc " /proc/self/mountinfo
	! touch "$run/state/exports/x"
}

storage() { "$PVELXC_BIN/pvelxc-snapshotter" -config "$run/snapshotter.toml" -check; }

check "the configuration is valid" storage
check "layers through containerd are snapshots of one dataset" layers
check "a view is a snapshot's mount" view
check "a killed snapshotter comes back" killed
check "what is removed is destroyed" removed
check "an image is unpacked by the differ" unpacked
check "a container's changes are a layer" compared
check "the pool is where the kubelet looks for capacity" exported
