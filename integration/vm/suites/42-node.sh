#!/bin/bash
# Pods, through containerd's CRI, where a plain machine cannot have them: on ZFS by pvelxc-snapshotter beside runc's on
# overlayfs; and on bridges with VLANs.
# limit: 1500 s

status=0
export PVELXC_TEST_PATIENCE=3m PVELXC_TEST_PODS=8
if [ -z "$VM_CI" ]; then PVELXC_TEST_PODS=60; fi

# For containerd's root: overlayfs needs upper directories that are on no tmpfs.
work=/var/tmp/node
mkdir "$work"
finish() {
	! zpool list pods >/dev/null 2>&1 || zpool destroy -f pods
	# Monitors and pivots share these, so the shim leaves them.
	find /sys/fs/cgroup/pvelxc.pivot /sys/fs/cgroup/pvelxc.monitor -depth -type d -exec rmdir {} +
	rm -rf --one-file-system "$work"
} 2>/dev/null
trap finish EXIT

# The samples are found from here.
cd "$VM_GO/integration" || exit
tests() { TMPDIR=$work "./$1/$1.test" -test.v -test.timeout 22m -test.run "$2" || status=1; }

tests runtimeclass .

exit "$status"
