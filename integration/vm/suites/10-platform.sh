#!/bin/bash
# The machine is what the other suites rely on: real OpenZFS, cgroup v2, LXC, AppArmor, containerd.
# limit: 600 s
# ci
. "$VM_TAP"
. "${VM_TAP%/*}/containerd.sh"

pool=platform
base=$pool/base
rootfs=$pool/ct
lxc=$TMPDIR/lxc
# Mapped users must be able to pass.
chmod 711 "$TMPDIR"
finish() {
	for ct in "$lxc"/*/; do
		[ ! -d "$ct" ] || lxc-stop -P "$lxc" -n "$(basename "$ct")" -k 2>/dev/null
	done
	umount -q "$TMPDIR/mapped"
	! zpool list "$pool" >/dev/null 2>&1 || zpool destroy -f "$pool"
	# LXC and runc keep these when their last container is gone.
	rmdir /sys/fs/cgroup/lxc.pivot /sys/fs/cgroup/default
	tap_end
}
trap finish EXIT

cgroup_v2() {
	[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]
	local c
	for c in cpuset cpu io memory pids; do
		grep -w "$c" /sys/fs/cgroup/cgroup.subtree_control
	done
	! grep -q ' - cgroup ' /proc/self/mountinfo
}

oom() {
	local status=0
	group=/sys/fs/cgroup/platform-oom
	mkdir "$group"
	trap 'rmdir "$group"' EXIT
	echo 32M >"$group/memory.max"
	bash -c 'echo $$ >"$0/cgroup.procs"; exec tail /dev/zero' "$group" || status=$?
	echo "status $status, $(tr '\n' ' ' <"$group/memory.events")"
	[ "$status" = 137 ]
	grep -x 'oom_kill 1' "$group/memory.events"
}

pool() {
	zpool create -f -O mountpoint=none -O atime=off -O compression=lz4 -O xattr=sa -O acltype=posixacl "$pool" "$VM_POOL_DEVICE"
	zfs create -o "mountpoint=$TMPDIR/base" "$base"
	[ "$(stat -fc %T "$TMPDIR/base")" = zfs ]
}

# A container's root file system: busybox, one file of uid 1000, one with an ACL and a capability.
tree() {
	cd "$TMPDIR/base"
	mkdir bin dev etc proc sys run tmp home
	cp /bin/busybox bin/
	local applet
	for applet in cat echo head hostname init sh stat true; do ln -s busybox "bin/$applet"; done
	echo '::sysinit:/bin/true' >etc/inittab
	echo hello >home/file
	chown 1000:1000 home/file
	setfacl -m u:7:r home/file
	cp bin/busybox bin/ping
	setcap cap_net_raw+ep bin/ping
	[ "$(getcap -n bin/ping)" = "bin/ping cap_net_raw=ep" ]
}

clone() {
	zfs snapshot "$base@one"
	zfs clone -o "mountpoint=$TMPDIR/ct" "$base@one" "$rootfs"
	[ "$(cat "$TMPDIR/ct/home/file")" = hello ]
	echo changed >"$TMPDIR/ct/home/file"
	[ "$(cat "$TMPDIR/base/home/file")" = hello ]
	zfs snapshot "$rootfs@two"
	zfs diff "$base@one" "$rootfs@two" | grep "^M.*/home/file$"
	! zfs destroy "$base@one"
}

destroy() {
	zfs clone -o mountpoint=none "$base@one" "$pool/gone"
	zfs snapshot "$pool/gone@three"
	zfs destroy "$pool/gone@three"
	zfs destroy "$pool/gone"
	! zfs list "$pool/gone"
}

send() {
	zfs send "$base@one" | zfs receive -u "$pool/received"
	[ "$(zfs get -Hpo value guid "$base@one")" = "$(zfs get -Hpo value guid "$pool/received@one")" ]
	zfs destroy -r "$pool/received"
}

# The mapping of an unprivileged container, on a dataset and with nothing changed in it.
idmapped() {
	mkdir "$TMPDIR/mapped"
	mount --bind -o X-mount.idmap=b:0:100000:65536 "$TMPDIR/base" "$TMPDIR/mapped"
	[ "$(stat -c %u:%g "$TMPDIR/mapped/home/file")" = 101000:101000 ]
	setpriv --reuid 100000 --regid 100000 --clear-groups touch "$TMPDIR/mapped/tmp/new"
	[ "$(stat -c %u "$TMPDIR/base/tmp/new")" = 0 ]
	rm "$TMPDIR/base/tmp/new"
	umount "$TMPDIR/mapped"
}

# container NAME [LINE...]: start a container on the clone, with more lines for its configuration. It is stopped when
# the check ends; pid is its init.
container() {
	name=$1
	shift
	mkdir -p "$lxc/$name"
	printf '%s\n' "lxc.uts.name = $name" "lxc.rootfs.path = dir:$TMPDIR/ct" "lxc.net.0.type = empty" \
		"lxc.init.cmd = /bin/init" 		"lxc.mount.auto = proc:mixed sys:mixed" "$@" >"$lxc/$name/config"
	lxc-start -P "$lxc" -n "$name" -o "$lxc/$name/log" -l WARN || {
		tail -n 20 "$lxc/$name/log"
		return 1
	}
	lxc-wait -P "$lxc" -n "$name" -s RUNNING -t 60
	pid=$(lxc-info -P "$lxc" -n "$name" -pH)
	stop() { lxc-stop -P "$lxc" -n "$name" -k; }
	trap stop EXIT
}

privileged() {
	container privileged lxc.apparmor.profile=generated lxc.cgroup2.memory.max=64M
	[ "$(stat -c %u "/proc/$pid")" = 0 ]
	[ "$(cat "/sys/fs/cgroup$(cut -d: -f3 "/proc/$pid/cgroup")/memory.max")" = $((64 << 20)) ]
	[ "$(lxc-attach -P "$lxc" -n privileged -- /bin/hostname)" = privileged ]
	grep 'enforce' "/proc/$pid/attr/current"
}

# The generated profile denies what the same container may do without it.
apparmor() {
	read_kcore() { lxc-attach -P "$lxc" -n "$1" -- /bin/head -c 4 /proc/kcore; }
	container unconfined lxc.apparmor.profile=unconfined
	read_kcore unconfined | grep -a ELF
	stop
	container confined lxc.apparmor.profile=generated
	! read_kcore confined
}

unprivileged() {
	container unprivileged "lxc.idmap = u 0 100000 65536" "lxc.idmap = g 0 100000 65536" \
		"lxc.rootfs.options = idmap=container" lxc.apparmor.profile=generated
	[ "$(stat -c %u "/proc/$pid")" = 100000 ]
	[ "$(lxc-attach -P "$lxc" -n unprivileged -- /bin/stat -c %u /home/file)" = 1000 ]
}

network() {
	ip netns add platform
	ip link add platform0 type bridge
	trap 'ip link del platform0; ip netns del platform' EXIT
	ip link add platform1 type veth peer name eth0 netns platform
	ip link set platform1 master platform0 up
	ip addr add 10.99.0.1/24 dev platform0
	ip link set platform0 up
	ip -n platform addr add 10.99.0.2/24 dev eth0
	ip -n platform link set eth0 up
	poll 20 ping -q -c 1 -W 1 10.99.0.2
	iptables -t nat -A POSTROUTING -s 10.99.0.0/24 -j MASQUERADE
	iptables -t nat -D POSTROUTING -s 10.99.0.0/24 -j MASQUERADE
	CNI_COMMAND=VERSION /usr/lib/cni/bridge </dev/null | jq -e '.supportedVersions | index("1.0.0")'
}

# Nothing in the VM can reach anything but itself.
isolated() {
	[ "$(cd /sys/class/net && echo *)" = "eth0 lo" ]
	ip -d link show eth0 | grep -w dummy
}

containerd() {
	/usr/bin/containerd --version | grep -w '1\.7\.[0-9]*'
	mkdir "$TMPDIR/containerd"
	plain_containerd "$TMPDIR/containerd/root" "$TMPDIR/containerd" >"$TMPDIR/containerd/config.toml"
	/usr/bin/containerd -c "$TMPDIR/containerd/config.toml" >"$TMPDIR/containerd/log" 2>&1 &
	trap 'kill %1; wait' EXIT
	poll 60 ctr -a "$TMPDIR/containerd/sock" version
	ctr -a "$TMPDIR/containerd/sock" run --rm --runtime io.containerd.runc.v2 --rootfs "$TMPDIR/ct" platform /bin/echo from-runc |
		grep -x from-runc
}

check "the kernel has the cgroup v2 hierarchy alone, with all controllers handed down" cgroup_v2
check "a memory limit kills and counts" oom
check "the seccomp notifier is there" grep -w user_notif /proc/sys/kernel/seccomp/actions_avail
check "the machine has no network but its own" isolated
check "bridge, veth, NAT and the CNI plugins work" network
check "a ZFS pool on $VM_POOL_DEVICE" pool
check "ACLs and file capabilities on a dataset" tree
check "snapshot, clone and diff, and a snapshot with a clone stays" clone
check "a clone and its snapshot are destroyed" destroy
check "send and receive" send
check "an idmapped mount of a dataset" idmapped
check "LXC $(lxc-start --version): a privileged container on a clone, limited and confined" privileged
check "AppArmor enforces the generated profile" apparmor
check "LXC: an unprivileged container on an idmapped clone" unprivileged
check "containerd and runc on a clone" containerd
if command -v criu >/dev/null; then
	check "$(criu --version | head -n 1 | tr -d :) can dump and restore here" criu check
else
	skip "criu" "Debian's archive had no criu package when the VM was built"
fi
