#!/bin/bash
# The shim on pure cgroup v2, with LXC 6 and AppArmor: the integration tests that a slow machine can afford.
# limit: 1200 s
# ci: the tests of what only this ground has: AppArmor, control groups v2, file systems that map ids
. "${VM_TAP%/*}/containerd.sh"
status=0
export PVELXC_TEST_RUNTIMES=pvelxc PVELXC_TEST_PATIENCE=2m

# For containerd's root: overlayfs needs upper directories that are on no tmpfs.
work=/var/tmp/shim
mkdir "$work"
pool=shim
finish() {
	! zpool list "$pool" >/dev/null 2>&1 || zpool destroy -f "$pool"
	remove_shared_cgroups
	rm -rf --one-file-system "$work"
} 2>/dev/null
trap finish EXIT

# tests PACKAGE PATTERN: each package with the tests that differ here from what the host has shown.
tests() {
	TMPDIR=$work "$VM_GO/integration/$1/$1.test" -test.v -test.timeout 9m -test.run "$2" || status=1
}

if [ -n "$VM_CI" ]; then
	tests machine 'AppArmor|Unprivileged|Freeze'
	tests task 'ExitStatus|PauseResume|OutOfMemory$|PidsLimit'
	tests spec 'Devices|UserNamespace|SnapshotIsClean'
else
	tests machine 'AppArmor|Limits|Freeze|Stats|Unprivileged'
	tests task 'ExitStatus|EventOrder|PauseResume|Update|CPULimits|Metrics|OutOfMemory|PidsLimit|Terminal$|KillAll|ExecProcess'
	tests spec 'Devices|AddedDevice|Mknod|Hooks|UserNamespace|JoinNetworkNamespace|SnapshotIsClean|Capabilities'
fi

# The same user namespace on a filesystem that maps ids itself.
mkdir "$work/zfs"
zpool create -f -O mountpoint=none -O atime=off -O xattr=sa -O acltype=posixacl "$pool" "$VM_POOL_DEVICE" &&
	zfs create -o "mountpoint=$work/zfs" "$pool/work" &&
	work=$work/zfs PVELXC_TEST_SNAPSHOTTER=native tests machine Unprivileged || status=1
exit "$status"
