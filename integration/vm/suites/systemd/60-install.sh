#!/bin/bash
# The package on a machine like a node of Proxmox VE: from pvelxc install to a container on ZFS that pct would list, in one
# command; and back again.
# limit: 1200 s
. "$VM_TAP"
. "${VM_TAP%/*}/containerd.sh"

deb=$(find "$VM_DEB" -name "pvelxc_*_$(dpkg --print-architecture).deb" 2>/dev/null | head -n 1)
if [ -z "$deb" ]; then
	echo "not ok - there is no package in $VM_DEB (make packages)"
	exit 1
fi
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin NO_COLOR=1
unset PVELXC_CONFIG
pool=node
before=$(ls /etc)
finish() {
	pvelxc uninstall --force
	dpkg --purge pvelxc
	systemctl stop containerd
	! mountpoint -q /var/lib/pvelxc-snapshotter/exports || umount /var/lib/pvelxc-snapshotter/exports
	zpool destroy -f "$pool"
	systemctl mask containerd
	rm -rf /var/lib/pvelxc-snapshotter
	kill "$pmxcfs"
	wait "$pmxcfs"
	rmdir /etc/pve
	rm -rf --one-file-system /var/lib/containerd/*
	remove_shared_cgroups default pvelxc-install
	systemctl reset-failed
}
trap 'finish 2>&1 | sed "s/^/# finish: /"; tap_end' EXIT

mkdir /etc/pve
"$VM_GO/pmxcfs" node1 /etc/pve &
pmxcfs=$!
poll 30 test -e /etc/pve/local
zpool create -f -O mountpoint=none "$pool" "$VM_POOL_DEVICE"
# The other suites start a containerd of their own.
systemctl unmask containerd
systemctl start containerd
poll 120 ctr version >/dev/null

package() {
	dpkg -i "$deb"
	! systemctl is-active pvelxc-snapshotter.socket
	pvelxc version
}
# The step before the last fails, and what was done before is taken back.
rolls_back() {
	local main
	main=$(cat /etc/containerd/config.toml 2>/dev/null)
	mkdir -p /run/systemd/system/pvelxc-gc.timer.d
	printf '[Timer]\nOnCalendar=\nOnBootSec=\nOnUnitInactiveSec=\n' >/run/systemd/system/pvelxc-gc.timer.d/break.conf
	systemctl daemon-reload
	trap 'rm -r /run/systemd/system/pvelxc-gc.timer.d; systemctl daemon-reload' EXIT
	local out
	if out=$(pvelxc install --pool "$pool" 2>&1); then
		echo "$out"
		return 1
	fi
	echo "$out"
	grep "step timer" <<<"$out"
	grep "rolled back: timer, snapshotter, containerd, settings, dataset" <<<"$out"
	[ "$(cat /etc/containerd/config.toml 2>/dev/null)" = "$main" ]
	[ ! -e /etc/pvelxc/snapshotter.toml ]
	! zfs list "$pool/pvelxc"
	! systemctl is-active pvelxc-snapshotter.service
}
dry_run() {
	local out
	out=$(pvelxc install --pool "$pool" --dry-run)
	echo "$out"
	grep -F '+runtime_type' <<<"$out"
	[ ! -e /etc/pvelxc ]
	! zfs list "$pool/pvelxc"
}
install() {
	local out
	out=$(pvelxc install --pool "$pool")
	echo "$out"
	grep -E "a container ran as LXC container 9[0-9]{5}" <<<"$out"
	tail -n 1 <<<"$out" | grep '^next: '
	zfs list "$pool/pvelxc"
	systemctl is-active pvelxc-snapshotter.service pvelxc-gc.timer containerd.service
	# The default runtime is still there.
	containerd config dump | grep -F 'containerd.runtimes.runc]'
}
again() {
	local out
	out=$(pvelxc install --pool "$pool")
	echo "$out"
	! grep -E '(dataset|settings|containerd|snapshotter|timer|restart) +done' <<<"$out"
}
confined() {
	[ "$(cat "/proc/$(systemctl show -P MainPID pvelxc-snapshotter.service)/attr/current")" = "pvelxc-snapshotter (enforce)" ]
	local denied
	denied=$(dmesg | grep -E 'apparmor="DENIED".*profile="pvelxc-snapshotter' || :)
	echo "$denied"
	[ -z "$denied" ]
}
# Killed, it is there again for whoever asks; stopped, it is started by the next request through its socket.
activated() {
	systemctl kill -s KILL pvelxc-snapshotter.service
	poll 60 ctr snapshots --snapshotter pvelxc ls
	systemctl stop pvelxc-snapshotter.service
	systemctl is-active pvelxc-snapshotter.socket
	poll 60 ctr snapshots --snapshotter pvelxc ls
	systemctl is-active pvelxc-snapshotter.service
}
storage() {
	printf 'zfspool: local-zfs\n\tpool %s/data\n\tcontent rootdir,images\n' "$pool" >/etc/pve/storage.cfg
	trap 'rm /etc/pve/storage.cfg' EXIT
	printf 'version = 1\nroot = "%s/data/pvelxc"\n' "$pool" >"$TMPDIR/inside.toml"
	local out
	if out=$(pvelxc-snapshotter -config "$TMPDIR/inside.toml" 2>&1); then
		echo "$out"
		return 1
	fi
	echo "$out"
	grep "storage local-zfs" <<<"$out"
	! zfs list "$pool/data"
	# Its own, beside it, is fine.
	pvelxc-snapshotter -check
}
# A container that stays, to be looked at.
image() {
	mkdir -p "$TMPDIR/rootfs/bin"
	cp /bin/busybox "$TMPDIR/rootfs/bin/"
	ln -s busybox "$TMPDIR/rootfs/bin/sleep"
	ctr run --detach --null-io --runtime io.containerd.pvelxc.v2 --rootfs "$TMPDIR/rootfs" stays /bin/sleep 10000
	pvelxc list
	pvelxc list | grep -E '^9[0-9]{5} +default +stays +.* running '
	local vmid
	vmid=$(pvelxc list -o json | jq -r '.[] | select(.id == "stays") | .vmid')
	grep -x "protection: 1" "/etc/pve/lxc/$vmid.conf"
	lxc-info -n "$vmid" -s | grep RUNNING
	pvelxc inspect "$vmid" | grep -F 'lxc.group: pvelxc/node1/default/stays'
	pvelxc logs stays
}
doctor() {
	local status=0 out
	out=$(pvelxc doctor) || status=$?
	echo "$out"
	[ "$status" -lt 2 ]
	for name in quorum vmid-range zfs-pool-health zfs-root-props containerd-config runtime-handler snapshotter-socket exports-root apparmor binary-skew; do
		grep -E "^✓ $name " <<<"$out"
	done
}
no_quorum() {
	kill -USR1 "$pmxcfs"
	local out status=0
	out=$(pvelxc doctor quorum) || status=$?
	kill -USR2 "$pmxcfs"
	echo "$out"
	[ "$status" = 2 ]
	grep -E '^✗ quorum +cluster not quorate' <<<"$out"
}
# The package that is installed anew replaces programs, and containers go on under the old ones.
upgrade() {
	local shim
	shim=$(pgrep -x pvelxc-shim)
	dpkg -i "$deb"
	[ "$(pgrep -x pvelxc-shim)" = "$shim" ]
	pvelxc list | grep -E 'stays +.* running '
	pvelxc doctor binary-skew | grep "1 shims of a former version"
	ctr tasks exec --exec-id e stays /bin/busybox true
}
refuses() {
	local out
	! out=$(pvelxc uninstall 2>&1)
	echo "$out"
	grep -E "1 containers run, default/stays the first.*--force" <<<"$out"
	grep -F runtimes.pvelxc /etc/containerd/config.toml
}
uninstall() {
	ctr tasks rm -f stays
	ctr containers rm stays
	pvelxc uninstall
	[ ! -e /etc/containerd/config.toml ] || ! grep pvelxc /etc/containerd/config.toml
	! systemctl is-active pvelxc-snapshotter.socket
	! systemctl is-active pvelxc-gc.timer
	zfs list "$pool/pvelxc" # images stay
}
purge() {
	dpkg --purge pvelxc
	diff <(echo "$before") <(ls /etc | grep -vxE "pve|cni")
	! grep pvelxc /sys/kernel/security/apparmor/profiles
}

check "the package is installed, and does nothing by itself" package
check "a dry run shows what would change, and changes nothing" dry_run
check "a step that fails is named, and the machine is as it was" rolls_back
check "pvelxc install: from nothing to a container on ZFS" install
check "pvelxc install again changes nothing" again
check "the snapshotter runs under its AppArmor profile, which denied it nothing" confined
check "the snapshotter's socket starts it again" activated
check "a root inside a storage of Proxmox VE is refused" storage
check "a container: list, inspect, logs, /etc/pve and lxc-info agree" image
check "doctor finds a healthy node" doctor
check "doctor sees a lost quorum" no_quorum
check "an upgrade leaves containers running under their shims" upgrade
check "uninstall refuses while a container runs" refuses
check "uninstall takes all back but the images" uninstall
check "purged, nothing is left" purge
