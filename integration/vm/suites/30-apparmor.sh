#!/bin/bash
# The AppArmor profiles that ship: the kernel takes them, and enforces them in containers of the shim.
# limit: 600 s
# ci
. "$VM_TAP"
. "${VM_TAP%/*}/containerd.sh"

work=/var/tmp/apparmor
export PATH=$PVELXC_BIN:$PATH PVELXC_CONFIG=$work/config.toml
ctr() { command ctr -a "$TMPDIR/sock" "$@"; }
parser() { apparmor_parser --skip-cache --base /etc/apparmor.d --Include "$VM_APPARMOR" "$@"; }
finish() {
	[ -z "${daemon:-}" ] || { kill "$daemon"; wait "$daemon"; }
	for profile in pvelxc-container pvelxc-snapshotter; do parser --remove "$VM_APPARMOR/$profile"; done
	rm -rf --one-file-system "$work"
	remove_shared_cgroups default
	tap_end
}
trap 'finish 2>/dev/null' EXIT

mkdir -p "$work/registered" "$work/rootfs/mnt"
busybox_rootfs "$work/rootfs" cat echo sh sleep mount umount head mkdir
printf 'version = 1\n[pve]\nroot = "%s"\n' "$work/registered" >"$work/config.toml"
plain_containerd "$work/root" "$TMPDIR" >"$TMPDIR/containerd.toml"
/usr/bin/containerd -c "$TMPDIR/containerd.toml" >"$TMPDIR/log" 2>&1 &
daemon=$!
poll 60 ctr version >/dev/null

loaded() {
	parser --replace "$VM_APPARMOR/pvelxc-container"
	parser --replace "$VM_APPARMOR/pvelxc-snapshotter"
	for profile in pvelxc-container pvelxc-container-nesting pvelxc-snapshotter; do
		grep -x "$profile (enforce)" /sys/kernel/security/apparmor/profiles
	done
}

# confined PROFILE SCRIPT: the output of a script in a container that has every capability and no mask, so that nothing
# but the profile can stand in its way.
serial=0
confined() {
	serial=$((serial + 1))
	ctr run --rm --privileged --apparmor-profile "$1" --runtime io.containerd.pvelxc.v2 --rootfs "$work/rootfs" \
		"c$serial-$BASHPID" /bin/sh -c "$2" 2>&1
}

# util-linux mounts by fsopen, fsmount and move_mount, of which AppArmor sees less.
for program in /usr/bin/mount /usr/bin/umount; do
	cp "$program" "$work/rootfs/bin/new-${program##*/}"
	ldd "$program" | grep -o '/[^ ]*' | while read -r library; do cp --parents -L "$library" "$work/rootfs/"; done
done

cp "$VM_GO/detached" "$work/rootfs/bin/"

# Each line is one attempt and what came of it.
attempts='
try() { name=$1; shift; if "$@" 2>/dev/null; then echo "$name yes"; else echo "$name no"; fi; }
put() { echo "$1" >"$2"; }
cat /proc/self/attr/current
try tmpfs mount -t tmpfs none /mnt
try umount umount /mnt
try proc mount -t proc none /mnt
try sysfs mount -t sysfs none /mnt
try debugfs mount -t debugfs none /mnt
try bindproc mount --bind /proc/sys /mnt
try sysrq put h /proc/sysrq-trigger
try corepattern put core /proc/sys/kernel/core_pattern
peek() { head -c 4 "$1" >/dev/null; }
try kcore peek /proc/kcore
try file put x /tmp/file
try remount mount -o remount,rw /proc
try overproc mount -t tmpfs none /proc/sys
mkdir /tmp/m
try newproc new-mount -t proc none /tmp/m
try newsysfs new-mount -t sysfs none /tmp/m
try newdebugfs new-mount -t debugfs none /tmp/m
try detachedsysrq detached proc sysrq-trigger h
try detachedpattern detached proc sys/kernel/core_pattern core
try detacheddirty detached proc sys/vm/dirty_ratio 20
try detachedhelper detached sysfs kernel/uevent_helper /bin/false
'
unconfined() {
	local out
	out=$(confined unconfined "$attempts")
	echo "$out"
	for name in tmpfs umount proc sysfs sysrq corepattern kcore file remount overproc newproc newsysfs detachedsysrq detachedpattern detacheddirty; do grep -x "$name yes" <<<"$out"; done
}
container() {
	local out name
	out=$(confined pvelxc-container "$attempts")
	echo "$out"
	grep -x "pvelxc-container (enforce)" <<<"$out"
	for name in tmpfs umount file; do grep -x "$name yes" <<<"$out"; done
	for name in proc sysfs debugfs bindproc overproc remount sysrq corepattern kcore newproc newsysfs newdebugfs detachedsysrq detachedpattern detacheddirty detachedhelper; do grep -x "$name no" <<<"$out"; done
}
nesting() {
	local out name
	out=$(confined pvelxc-container-nesting "$attempts")
	echo "$out"
	for name in tmpfs proc sysfs file; do grep -x "$name yes" <<<"$out"; done
	for name in debugfs sysrq corepattern kcore detachedsysrq detachedpattern detacheddirty; do grep -x "$name no" <<<"$out"; done
}
an_exec() {
	ctr run --detach --null-io --privileged --apparmor-profile pvelxc-container --runtime io.containerd.pvelxc.v2 --rootfs "$work/rootfs" ex /bin/sleep 1000
	trap 'ctr tasks rm -f ex; ctr containers rm ex' EXIT
	local out
	out=$(ctr tasks exec --exec-id one ex /bin/sh -c 'cat /proc/self/attr/current; echo h >/proc/sysrq-trigger || echo denied' 2>&1)
	echo "$out"
	grep "pvelxc-container (enforce)" <<<"$out"
	grep -x denied <<<"$out"
}
unloaded() {
	! confined pvelxc-no-such-profile 'echo ran' | tee "$TMPDIR/out" | grep -x ran
	grep pvelxc-no-such-profile "$TMPDIR/out"
}


# The daemon's profile is attached by its path. A shell under that name does what a daemon must not that a layer has taken over.
daemon() {
	local out name
	cp /bin/busybox /usr/bin/pvelxc-snapshotter
	trap 'rm /usr/bin/pvelxc-snapshotter' EXIT
	out=$(exec -a sh /usr/bin/pvelxc-snapshotter -c '
		put() { if ( echo "$1" >"$2" ) 2>/dev/null; then echo "$2 yes"; else echo "$2 no"; fi; }
		read -r profile </proc/self/attr/current
		echo "$profile"
		put h /proc/sysrq-trigger
		put core /proc/sys/kernel/core_pattern
		put /bin/false /proc/sys/kernel/modprobe
		put x "$TMPDIR/file"
		for program in /bin/true /bin/sh /usr/bin/mount; do
			if "$program" -h </dev/null >/dev/null 2>&1; then echo "$program yes"; else echo "$program no $?"; fi
		done
		if ( : </dev/mem ) 2>/dev/null; then echo "/dev/mem yes"; else echo "/dev/mem no"; fi')
	echo "$out"
	grep -x "pvelxc-snapshotter (enforce)" <<<"$out"
	for name in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe; do grep -x "$name no" <<<"$out"; done
	# 126 is "it is there and cannot be executed".
	for name in /bin/true /bin/sh /usr/bin/mount; do grep -x "$name no 126" <<<"$out"; done
	grep -x "$TMPDIR/file yes" <<<"$out"
	# Not the files' own modes: without the profile it is all allowed.
	parser --remove "$VM_APPARMOR/pvelxc-snapshotter"
	out=$(exec -a sh /usr/bin/pvelxc-snapshotter -c 'read -r p </proc/self/attr/current; echo "$p"; old=$(cat /proc/sys/kernel/core_pattern); echo "$old" >/proc/sys/kernel/core_pattern && /bin/true && echo free')
	parser --replace "$VM_APPARMOR/pvelxc-snapshotter"
	echo "$out"
	grep -x unconfined <<<"$out"
	grep -x free <<<"$out"
}

check "the kernel takes the profiles" loaded
check "without a profile, a privileged container can do what the next one must not" unconfined
check "pvelxc-container: no mount of /proc or /sys, no write to sysrq-trigger" container
check "pvelxc-container-nesting: those mounts, and still none of the host's" nesting
check "an exec is confined as its container is" an_exec
check "a profile that is not loaded is refused by name" unloaded
check "pvelxc-snapshotter: it writes files, and executes nothing, and nothing of the kernel is written" daemon
