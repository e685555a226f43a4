#!/bin/bash
# systemd is PID 1, keeps its hands off what it delegates, and enforces what it is asked to.
# limit: 600 s
# ci
. "$VM_TAP"

booted() {
	[ "$(cat /proc/1/comm)" = systemd ]
	[ "$(systemctl --failed --no-legend | wc -l)" = 0 ]
	systemctl is-active apparmor.service lxcfs.service dbus.service
	[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]
}

# In a delegated scope, the payload divides its own group and hands controllers down.
delegated() {
	systemd-run --scope --unit platform-delegated.scope -p Delegate=yes -p MemoryMax=128M -p TasksMax=99 bash -ec '
		group=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
		[[ $group = */platform-delegated.scope ]]
		[ "$(cat "$group/memory.max")" = $((128 << 20)) ]
		[ "$(cat "$group/pids.max")" = 99 ]
		mkdir "$group/init" "$group/payload"
		echo $$ >"$group/init/cgroup.procs"
		echo "+memory +pids" >"$group/cgroup.subtree_control"
		echo 16M >"$group/payload/memory.max"
		# A reload makes systemd write its own groups again; delegated ones it must leave alone.
		systemctl daemon-reload
		[ "$(cat "$group/payload/memory.max")" = $((16 << 20)) ]
		grep -w memory "$group/cgroup.subtree_control"'
	poll 20 eval '! systemctl is-active -q platform-delegated.scope'
	[ ! -e /sys/fs/cgroup/system.slice/platform-delegated.scope ]
}

# A running scope's limits follow set-property, as a container update with the systemd driver does.
updated() {
	systemd-run --unit platform-updated.service -p Delegate=yes -p MemoryMax=64M sleep infinity
	trap 'systemctl stop platform-updated.service' EXIT
	local group
	group=/sys/fs/cgroup$(systemctl show -P ControlGroup platform-updated.service)
	[ "$(cat "$group/memory.max")" = $((64 << 20)) ]
	systemctl set-property --runtime platform-updated.service MemoryMax=96M CPUQuota=50%
	[ "$(cat "$group/memory.max")" = $((96 << 20)) ]
	[ "$(cat "$group/cpu.max")" = "50000 100000" ]
}

out_of_memory() {
	! systemd-run --wait --unit platform-oom.service -p MemoryMax=32M tail /dev/zero
	[ "$(systemctl show -P Result platform-oom.service)" = oom-kill ]
	systemctl reset-failed platform-oom.service
}

check "systemd is PID 1 and nothing has failed" booted
check "a scope with Delegate=yes belongs to its payload" delegated
check "limits follow set-property" updated
check "a unit over its limit ends as oom-kill" out_of_memory
