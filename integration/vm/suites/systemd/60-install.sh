#!/bin/bash
# The package on a machine like a node of Proxmox VE: from pvelxc install to a container on ZFS that pct would list, in one
# command; and back again.
# limit: 1500 s
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
# state is all that a run may have changed.
state() {
	find /etc/containerd /etc/pvelxc -type f -exec sha256sum {} + 2>/dev/null | sort
	zfs list -Ho name -r "$pool"
	for unit in pvelxc-snapshotter.socket pvelxc-snapshotter.service pvelxc-gc.timer; do
		echo "$unit $(systemctl is-enabled "$unit") $(systemctl is-active "$unit")"
	done
	ls /var/lib/pvelxc-snapshotter 2>/dev/null
	ctr --namespace pvelxc-install containers ls -q
	ls /etc/pve/lxc
	findmnt -rno TARGET | grep pvelxc
	pgrep -x pvelxc-shim
	true
}
# drop_in UNIT LINE...: breaks a unit until it is removed.
drop_in() {
	mkdir -p "/run/systemd/system/$1.d"
	printf '%s\n' "${@:2}" >"/run/systemd/system/$1.d/break.conf"
	systemctl daemon-reload
}
# fails STEP ROLLED_BACK [OPTION...]: an installation ends at that step, says so, and leaves everything as it was.
fails() {
	local out before
	before=$(state)
	if out=$(pvelxc install --pool "$pool" "${@:3}" 2>&1); then
		echo "$out"
		return 1
	fi
	echo "$out"
	grep -E "^pvelxc: install: step $1: " <<<"$out"
	grep -F "$2" <<<"$out"
	mend
	diff <(echo "$before") <(state)
}
mend() { :; }
fails_preflight() {
	kill -USR1 "$pmxcfs"
	mend() { kill -USR2 "$pmxcfs"; }
	fails preflight "nothing was changed"
}
fails_dataset() {
	printf 'zfspool: images\n\tpool %s/pvelxc\n\tcontent rootdir\n' "$pool" >/etc/pve/storage.cfg
	mend() { rm /etc/pve/storage.cfg; }
	fails dataset "rolled back: dataset"
}
fails_settings() {
	mkdir /etc/pvelxc
	printf 'version = 1\n[pve]\nvmid_range = "700000-700099"\n' >/etc/pvelxc/config.toml
	fails settings "rolled back: dataset" --vmid-range 800000-800099
	rm -r /etc/pvelxc
}
fails_containerd() {
	local old=
	[ ! -e /etc/containerd/config.toml ] || old=$(cat /etc/containerd/config.toml)
	mkdir -p /etc/containerd
	printf 'version = 2\nproxy_plugins = {other = {type = "snapshot", address = "/run/other.sock"}}\n' >/etc/containerd/config.toml
	fails containerd "rolled back: settings, dataset"
	if [ -n "$old" ]; then echo "$old" >/etc/containerd/config.toml; else rm /etc/containerd/config.toml; fi
}
# containerd takes what was tried, and not what it finds at its place.
fails_config_dump() {
	printf '#!/bin/sh\nif grep -q pvelxc /etc/containerd/config.toml 2>/dev/null; then case "$*" in *"--config /etc/containerd/config.toml "*) echo "broken by the test" >&2; exit 1;; esac; fi\nexec /usr/bin/containerd "$@"\n' >/usr/local/bin/containerd
	chmod +x /usr/local/bin/containerd
	mend() { rm /usr/local/bin/containerd; }
	fails config-dump "rolled back: containerd, settings, dataset"
}
fails_snapshotter() {
	drop_in pvelxc-snapshotter.service '[Service]' 'ExecStartPre=/bin/false'
	mend() { rm -r /run/systemd/system/pvelxc-snapshotter.service.d; systemctl daemon-reload; systemctl reset-failed; }
	fails snapshotter "rolled back: snapshotter, containerd, settings, dataset"
}
fails_timer() {
	drop_in pvelxc-gc.timer '[Timer]' OnCalendar= OnBootSec= OnUnitInactiveSec=
	mend() { rm -r /run/systemd/system/pvelxc-gc.timer.d; systemctl daemon-reload; }
	fails timer "rolled back: timer, snapshotter, containerd, settings, dataset"
}
# A daemon that does not start again cannot be started by the rollback either, which is said; all else is taken back.
fails_restart() {
	drop_in containerd.service '[Service]' 'ExecStartPre=/bin/false' 'Restart=no'
	mend() {
		rm -r /run/systemd/system/containerd.service.d
		systemctl daemon-reload
		systemctl reset-failed
		systemctl start containerd
		poll 120 ctr version >/dev/null
	}
	fails restart "NOT rolled back: containerd: "
}
fails_hello() {
	mv /usr/bin/pvelxc-monitor /usr/bin/pvelxc-monitor.away
	mend() { mv /usr/bin/pvelxc-monitor.away /usr/bin/pvelxc-monitor; }
	fails hello "rolled back: hello, timer, snapshotter, containerd, settings, dataset"
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
	poll 60 serves
	systemctl stop pvelxc-snapshotter.service
	systemctl is-active pvelxc-snapshotter.socket
	poll 60 serves
	systemctl is-active pvelxc-snapshotter.service
}
# containerd answers for a list that is empty; a snapshot is made by the daemon.
serves() {
	ctr snapshots --snapshotter pvelxc prepare asked >/dev/null && ctr snapshots --snapshotter pvelxc rm asked
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
# The unit gives up what it can, and stays in the host's mount namespace, where the kubelet must see what it mounts.
hardened() {
	local pid
	pid=$(systemctl show -P MainPID pvelxc-snapshotter.service)
	[ "$(readlink "/proc/$pid/ns/mnt")" = "$(readlink /proc/1/ns/mnt)" ]
	grep -x 'Seccomp:	2' "/proc/$pid/status"
	grep -x 'NoNewPrivs:	1' "/proc/$pid/status"
	local unit score
	for unit in pvelxc-snapshotter pvelxc-gc; do
		score=$(systemd-analyze security --no-pager "$unit.service" | sed -n 's/.*Overall exposure level.*: \([0-9]*\)\.\([0-9]\).*/\1\2/p')
		echo "$unit: exposure $score of 100"
		[ "$score" -le 70 ]
	done
}
# A terminal shows a bar, and is left without it.
terminal() {
	local out
	out=$(TERM=xterm script -qec "pvelxc install --pool $pool --dry-run" /dev/null)
	grep -F '░' <<<"$out"
	! grep -F $'\e[3' <<<"$out" # NO_COLOR is set
	grep -F '[1/9] preflight' <<<"$out"
	out=$(env -u NO_COLOR TERM=xterm script -qec "pvelxc install --pool $pool --dry-run" /dev/null)
	grep -F $'\e[32m' <<<"$out"
	out=$(TERM=xterm script -qec "pvelxc install --pool $pool --dry-run --quiet" /dev/null)
	[ -z "$out" ]
}
# Datasets of ours that nobody knows go; those of anybody else, and those in use, stay.
garbage() {
	local out used before
	before=$(zfs list -Ho name -r "$pool" | sort)
	zfs create "$pool/pvelxc/s/abcdefghijklm"
	zfs create "$pool/pvelxc/s/mine"
	zfs create "$pool/other"
	used=/sys/fs/cgroup/pvelxc.monitor/default--gone
	mkdir -p "$used" /run/pvelxc/lxc/default/never
	touch -d '1 hour ago' "$used" /run/pvelxc/lxc/default/never
	out=$(pvelxc gc)
	echo "$out"
	grep -E "^dataset +$pool/pvelxc/s/abcdefghijklm +removed +(no row of the database|removed, and to be destroyed)" <<<"$out"
	grep -E "^cgroup +pvelxc.monitor/default--gone +removed" <<<"$out"
	grep -E "^directory +/run/pvelxc/lxc/default/never +removed" <<<"$out"
	[ "$(grep -cE ' (removed|kept) ' <<<"$out")" = 3 ]
	tail -n 1 <<<"$out" | grep -F "nothing was changed (hint: pvelxc gc --apply)"
	zfs list "$pool/pvelxc/s/abcdefghijklm"
	# As the timer does it, under the restrictions of its unit.
	systemctl start pvelxc-gc.service
	journalctl -u pvelxc-gc.service --no-pager -o cat | grep -E "^dataset +$pool/pvelxc/s/abcdefghijklm +removed"
	! zfs list "$pool/pvelxc/s/abcdefghijklm"
	[ ! -e "$used" ]
	[ ! -e /run/pvelxc/lxc/default/never ]
	zfs destroy "$pool/pvelxc/s/mine"
	zfs destroy "$pool/other"
	[ "$(zfs list -Ho name -r "$pool" | sort)" = "$before" ]
	# One that is in use stays, and is told of, with who uses it.
	local snap=gc-held held
	ctr snapshot --snapshotter pvelxc prepare $snap
	held=$(ctr snapshot --snapshotter pvelxc mounts "$TMPDIR/x" $snap | awk '{print $4}')
	mkdir "$TMPDIR/held"
	mount -t zfs "$held" "$TMPDIR/held"
	ctr snapshot --snapshotter pvelxc rm $snap
	poll 60 eval 'out=$(pvelxc gc --apply); grep -E "^dataset +$held +kept +.*cannot be destroyed.*mounted by pid" <<<"$out"'
	umount "$TMPDIR/held"
	pvelxc gc --apply
	! zfs list "$held"
}
# Without the daemon, datasets are not looked at, which is said; all else is.
no_daemon() {
	local out
	systemctl stop pvelxc-snapshotter.socket pvelxc-snapshotter.service
	trap 'systemctl start pvelxc-snapshotter.socket pvelxc-snapshotter.service' EXIT
	mkdir -p /run/pvelxc/lxc/default/never
	touch -d '1 hour ago' /run/pvelxc/lxc/default/never
	! out=$(pvelxc gc --apply 2>&1)
	echo "$out"
	grep -F "datasets: the snapshotter does not answer" <<<"$out"
	grep -F "hint: systemctl start pvelxc-snapshotter.socket" <<<"$out"
	[ ! -e /run/pvelxc/lxc/default/never ]
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
for step in preflight dataset settings containerd config-dump snapshotter timer restart hello; do
	check "install fails at $step: it is named, and the machine is as it was" "fails_${step//-/_}"
done
check "pvelxc install: from nothing to a container on ZFS" install
check "pvelxc install again changes nothing" again
check "the snapshotter runs under its AppArmor profile, which denied it nothing" confined
check "the snapshotter's socket starts it again" activated
check "a root inside a storage of Proxmox VE is refused" storage
check "the units give up what they can" hardened
check "a terminal shows a bar" terminal
check "gc: what nothing uses goes, what is somebody's or in use stays" garbage
check "gc without the snapshotter does the rest, and says so" no_daemon
check "a container: list, inspect, logs, /etc/pve and lxc-info agree" image
check "doctor finds a healthy node" doctor
check "doctor sees a lost quorum" no_quorum
check "an upgrade leaves containers running under their shims" upgrade
check "uninstall refuses while a container runs" refuses
check "uninstall takes all back but the images" uninstall
check "purged, nothing is left" purge
