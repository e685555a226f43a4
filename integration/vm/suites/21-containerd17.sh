#!/bin/bash
# The shim under Debian 13's own containerd, driven by ctr as an administrator does.
# limit: 400 s
# ci
. "$VM_TAP"
. "${VM_TAP%/*}/containerd.sh"

work=/var/tmp/containerd17
export PATH=$PVELXC_BIN:$PATH PVELXC_CONFIG=$work/config.toml
ctr() { command ctr -a "$TMPDIR/sock" "$@"; }
finish() {
	[ -z "${daemon:-}" ] || { kill "$daemon"; wait "$daemon"; }
	rm -rf --one-file-system "$work"
	remove_shared_cgroups default
	tap_end
}
trap 'finish 2>/dev/null' EXIT

mkdir -p "$work/registered"
busybox_rootfs "$work/rootfs" cat echo head id sh sleep
cat >"$work/config.toml" <<-C
	version = 1
	[pve]
	root = "$work/registered"
C
plain_containerd "$work/root" "$TMPDIR" >"$TMPDIR/containerd.toml"
/usr/bin/containerd -c "$TMPDIR/containerd.toml" >"$TMPDIR/log" 2>&1 &
daemon=$!

answers() { poll 60 ctr version; }

run=(run --runtime io.containerd.pvelxc.v2 --rootfs)

prints() {
	[ "$(ctr "${run[@]:0:1}" --rm "${run[@]:1}" "$work/rootfs" prints /bin/echo from-lxc)" = from-lxc ]
}

status() {
	local status=0
	ctr "${run[@]:0:1}" --rm "${run[@]:1}" "$work/rootfs" status /bin/sh -c 'exit 7' || status=$?
	[ "$status" = 7 ]
}

# A container in the background: limits, exec, what LXC says, pause, metrics, kill, delete.
life() {
	trap 'ctr task kill -s KILL life; ctr task rm -f life; ctr container rm life' EXIT
	ctr "${run[@]:0:1}" -d --memory-limit $((64 << 20)) "${run[@]:1}" "$work/rootfs" life /bin/sleep 1000000
	ctr task ls | grep -w 'life.*RUNNING'
	[ "$(cat /sys/fs/cgroup/default/life/memory.max)" = $((64 << 20)) ]
	[ "$(ctr task exec --exec-id one life /bin/id -u)" = 0 ]
	lxc-info -n "$(ls /var/lib/lxc)" -s | grep RUNNING
	ctr task metrics life | grep -E '^memory.usage_in_bytes|^memory.usage'
	ctr task pause life
	[ "$(cat /sys/fs/cgroup/default/life/cgroup.freeze)" = 1 ]
	ctr task resume life
	ctr task kill -s KILL life
	poll 60 eval 'ctr task ls | grep -w "life.*STOPPED"'
	ctr task rm life || [ $? = 137 ]
	trap - EXIT
	ctr container rm life
	[ ! -e /sys/fs/cgroup/default/life ]
}

clean() {
	poll 60 eval '! pgrep -f "containerd-shim-pvelxc-v2|pvelxc-shim"'
	! pgrep pvelxc-
	[ -z "$(ls -A /run/pvelxc/lxc/default /var/lib/lxc 2>/dev/null | grep -v :)" ]
	! grep -w "$work/rootfs\|$TMPDIR/state" /proc/self/mountinfo
}

check "$(/usr/bin/containerd --version | cut -d' ' -f3) starts" answers
check "ctr run prints" prints
check "ctr run returns the exit status" status
check "a task's life" life
check "nothing is left" clean
