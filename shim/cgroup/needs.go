package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// neededControllers lists the limits that r sets, each with the controller that
// must exist for it. The kernel would report a missing one as a missing file, or,
// with a process in a parent, not at all.
func (g *Group) neededControllers(r *specs.LinuxResources) []need {
	if r == nil {
		return nil
	}
	n := needs{v2: g.mode == oci2lxc.CgroupUnified}
	if m := r.Memory; m != nil {
		addNonzero(&n, "memory", "memory.limit", "memory.max", "memory.limit_in_bytes", m.Limit)
		addNonzero(&n, "memory", "memory.reservation", "memory.low", "memory.soft_limit_in_bytes", m.Reservation)
		addNonzero(&n, "memory", "memory.swap", "memory.swap.max", "memory.memsw.limit_in_bytes", m.Swap)
	}
	if c := r.CPU; c != nil {
		addNonzero(&n, "cpu", "cpu.shares", "cpu.weight", "cpu.shares", c.Shares)
		addNonzero(&n, "cpu", "cpu.quota", "cpu.max", "cpu.cfs_quota_us", c.Quota)
		addNonzero(&n, "cpu", "cpu.period", "cpu.max", "cpu.cfs_period_us", c.Period)
		addPtr(&n, "cpu", "cpu.burst", "cpu.max.burst", "cpu.cfs_burst_us", c.Burst)
		addPtr(&n, "cpu", "cpu.idle", "cpu.idle", "cpu.idle", c.Idle)
		if c.Cpus != "" {
			n.add("cpuset", "cpu.cpus", "cpuset.cpus", "cpuset.cpus", c.Cpus)
		}
		if c.Mems != "" {
			n.add("cpuset", "cpu.mems", "cpuset.mems", "cpuset.mems", c.Mems)
		}
	}
	if r.Pids != nil {
		addPtr(&n, "pids", "pids.limit", "pids.max", "pids.max", r.Pids.Limit)
	}
	n.addBlockIO(r.BlockIO)
	for _, l := range r.HugepageLimits {
		n.add("hugetlb", "hugepageLimits", "hugetlb."+l.Pagesize+".max", "hugetlb."+l.Pagesize+".limit_in_bytes", l.Limit)
	}
	for device := range r.Rdma {
		n.add("rdma", "rdma", "rdma.max", "rdma.max", device)
	}
	if n.v2 {
		for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
			if controller, _, _ := strings.Cut(file, "."); controller != "cgroup" {
				n.add(controller, "unified", file, file, r.Unified[file])
			}
		}
	}
	return n.list
}

type needs struct {
	v2   bool
	list []need
}

func (n *needs) add(controller, field, v2File, v1File string, value any) {
	file := v2File
	if !n.v2 {
		file = v1File
	}
	n.list = append(n.list, need{controller: controller, limit: "linux.resources." + field, file: file, value: fmt.Sprint(value)})
}

func addPtr[T any](n *needs, controller, field, v2File, v1File string, value *T) {
	if value != nil {
		n.add(controller, field, v2File, v1File, *value)
	}
}

// addNonzero is for fields where 0 means "unset", as callers commonly send it.
func addNonzero[T comparable](n *needs, controller, field, v2File, v1File string, value *T) {
	var zero T
	if value != nil && *value != zero {
		n.add(controller, field, v2File, v1File, *value)
	}
}

func (n *needs) addBlockIO(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	controller := "io"
	if !n.v2 {
		controller = "blkio"
	}
	addNonzero(n, controller, "blockIO.weight", "io.weight", "blkio.weight", b.Weight)
	for _, t := range []struct {
		field, key, v1 string
		list           []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", "rbps", "blkio.throttle.read_bps_device", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "wbps", "blkio.throttle.write_bps_device", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "riops", "blkio.throttle.read_iops_device", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "wiops", "blkio.throttle.write_iops_device", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.list {
			n.add(controller, "blockIO."+t.field, "io.max", t.v1, fmt.Sprintf("%d:%d %s=%d", d.Major, d.Minor, t.key, d.Rate))
		}
	}
}
