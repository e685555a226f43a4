#!/bin/bash
# Pods on bridges with VLANs, by the samples of dist/cni: a plain machine's kernel may know none.
# limit: 600 s
export PVELXC_TEST_PATIENCE=3m

# For containerd's root: overlayfs needs upper directories that are on no tmpfs.
work=/var/tmp/vlan
mkdir "$work"
finish() {
	# Monitors and pivots share these, so the shim leaves them.
	find /sys/fs/cgroup/pvelxc.pivot /sys/fs/cgroup/pvelxc.monitor -depth -type d -exec rmdir {} +
	rm -rf --one-file-system "$work"
} 2>/dev/null
trap finish EXIT

# The samples are found from here.
cd "$VM_GO/integration" || exit
TMPDIR=$work ./cni/cni.test -test.v -test.timeout 9m -test.run VLAN
