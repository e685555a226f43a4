#!/bin/bash
# The timer of reconciliation, as it ships: it runs by itself, removes what has no container, and a run that hangs is ended
# and shows.
# limit: 300 s
# ci
. "$VM_TAP"

units=/etc/systemd/system
root=/var/lib/pvelxc/pve
node=$(hostname -s)
lxc=$root/nodes/$node/lxc
cp /host/dist/systemd/pvelxc-gc.* $units/
ln -s /host/bin/pvelxc /usr/local/bin/pvelxc
mkdir -p "$lxc" /etc/pvelxc
systemctl daemon-reload

# What a container leaves that a power failure ended.
orphan() {
	printf 'hostname: gone\nlock: create\nlxc.group: pvelxc/%s/default/gone\n' "$node" >"$lxc/$1.conf"
	touch -d '1 hour ago' "$lxc/$1.conf"
	mkdir -p "/var/lib/lxc/$1"
}

verified() {
	systemd-analyze verify $units/pvelxc-gc.service $units/pvelxc-gc.timer
}

# The shipped delays count from boot and from the last run; a drop-in adds a short one from boot. (An empty OnBootSec= would
# reset the one from the last run too.)
ran() {
	orphan 900001
	printf 'hostname: admins\n' >"$lxc/100.conf"
	touch -d '1 hour ago' "$lxc/100.conf"
	echo 'OPTIONS="--textfile /run/pvelxc.prom"' >/etc/default/pvelxc-gc
	mkdir -p $units/pvelxc-gc.timer.d
	printf '[Timer]\nOnBootSec=1s\nRandomizedDelaySec=0\nAccuracySec=1s\n' >$units/pvelxc-gc.timer.d/soon.conf
	systemctl daemon-reload
	systemctl start pvelxc-gc.timer
	if ! poll 60 test ! -e "$lxc/900001.conf"; then
		journalctl -u pvelxc-gc.service --no-pager -n 20
		return 1
	fi
	poll 60 eval '[ "$(systemctl show -P Result -P ActiveState pvelxc-gc.service | sort | xargs)" = "inactive success" ]'
	[ ! -e /var/lib/lxc/900001 ]
	[ "$(cat "$lxc/100.conf")" = "hostname: admins" ]
	grep -x 'pvelxc_reconcile_success 1' /run/pvelxc.prom
	grep -x 'pvelxc_reconcile_changes{action="removed"} 1' /run/pvelxc.prom
	journalctl -u pvelxc-gc.service --no-pager | grep -E '900001 +removed'
}

# It comes again, counted from the last run.
again() {
	poll 60 eval '[ "$(systemctl show -P NextElapseUSecMonotonic pvelxc-gc.timer)" != infinity ]'
	systemctl list-timers --all --no-pager pvelxc-gc.timer
	systemctl cat pvelxc-gc.timer | grep -x OnUnitInactiveSec=10min
}

# A lock that is never released stands for a cluster file system that hangs: the run is ended by its limit.
hung() {
	orphan 900002
	exec 9>/run/lock/lxc/pve-config-900002.lock
	flock 9
	mkdir -p $units/pvelxc-gc.service.d
	printf '[Service]\nTimeoutStartSec=3s\n' >$units/pvelxc-gc.service.d/short.conf
	systemctl daemon-reload
	if systemctl start pvelxc-gc.service; then return 1; fi
	systemctl --failed --no-legend | grep pvelxc-gc.service
	exec 9>&-
	rm -r $units/pvelxc-gc.service.d
	systemctl daemon-reload
	systemctl reset-failed pvelxc-gc.service
	systemctl start pvelxc-gc.service
	[ ! -e "$lxc/900002.conf" ]
}

# A configuration that is wrong is said, and nothing is touched.
misconfigured() {
	orphan 900003
	echo 'verson = 1' >/etc/pvelxc/config.toml
	if systemctl start pvelxc-gc.service; then return 1; fi
	journalctl -u pvelxc-gc.service --no-pager | grep 'config.toml:1'
	[ -e "$lxc/900003.conf" ]
	rm /etc/pvelxc/config.toml
	systemctl reset-failed pvelxc-gc.service
	systemctl start pvelxc-gc.service
	[ ! -e "$lxc/900003.conf" ]
}

check "systemd finds nothing wrong with the units" verified
check "the timer runs gc, which removes the conf of a container that is gone and writes metrics" ran
check "the timer comes again" again
check "a run that hangs is ended and shows as failed; the next one does its work" hung
check "a wrong configuration is said and nothing is touched" misconfigured
systemctl stop pvelxc-gc.timer
rm -rf $units/pvelxc-gc.* /usr/local/bin/pvelxc /etc/pvelxc /var/lib/pvelxc /etc/default/pvelxc-gc /run/pvelxc.prom
systemctl daemon-reload
