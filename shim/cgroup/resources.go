package cgroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// convert gives the library's form of r. Fields that are unset stay unset: a write
// of the result changes nothing else.
//
// On v2 cpu.shares becomes cpu.weight by the quadratic conversion of
// opencontainers/cgroups (10^((l²+125l)/612 − 7/34), l = log2(shares)), which maps
// the smallest, the default and the greatest value onto each other (1024 → 100);
// crun and systemd use the same. blockIO.weight becomes io.weight linearly
// (1+(w−10)·9999/990) where there is no io.bfq.weight, and memory.swap, which
// counts memory too, becomes memory.swap.max = swap − limit.
func convert(mode oci2lxc.CgroupMode, r *specs.LinuxResources) (*cgroups.Resources, error) {
	out := &cgroups.Resources{SkipDevices: len(r.Devices) == 0}
	v2 := mode == oci2lxc.CgroupUnified
	for i, d := range r.Devices {
		rule, err := convertDevice(d)
		if err != nil {
			return nil, fmt.Errorf("linux.resources.devices[%d]: %w", i, err)
		}
		out.Devices = append(out.Devices, rule)
	}
	if m := r.Memory; m != nil {
		set(&out.Memory, m.Limit)
		set(&out.MemoryReservation, m.Reservation)
		set(&out.MemorySwap, m.Swap)
		set(&out.OomKillDisable, m.DisableOOMKiller)
		set(&out.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
		out.MemorySwappiness = m.Swappiness
	}
	if err := convertCPU(out, r.CPU, v2); err != nil {
		return nil, err
	}
	if r.Pids != nil {
		out.PidsLimit = r.Pids.Limit
	}
	if err := convertBlockIO(out, r.BlockIO); err != nil {
		return nil, err
	}
	for _, l := range r.HugepageLimits {
		if !slices.Contains(cgroups.HugePageSizes(), l.Pagesize) {
			return nil, fmt.Errorf("linux.resources.hugepageLimits: the kernel has no huge pages of size %q (hint: it has %s): %w",
				l.Pagesize, strings.Join(cgroups.HugePageSizes(), ", "), errdefs.ErrInvalidArgument)
		}
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
	}
	for device, l := range r.Rdma {
		if out.Rdma == nil {
			out.Rdma = map[string]cgroups.LinuxRdma{}
		}
		out.Rdma[device] = cgroups.LinuxRdma{HcaHandles: l.HcaHandles, HcaObjects: l.HcaObjects}
	}
	if n := r.Network; n != nil && !v2 {
		set(&out.NetClsClassid, n.ClassID)
		for _, p := range n.Priorities {
			out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
		}
	}
	if len(r.Unified) > 0 {
		if !v2 {
			return nil, fmt.Errorf("linux.resources.unified needs a host with cgroup v2 alone, this one is %s: %w", mode, errdefs.ErrFailedPrecondition)
		}
		out.Unified = r.Unified
	}
	return out, nil
}

func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

func convertCPU(out *cgroups.Resources, c *specs.LinuxCPU, v2 bool) error {
	if c == nil {
		return nil
	}
	if v2 && (c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 || c.RealtimePeriod != nil && *c.RealtimePeriod != 0) {
		return fmt.Errorf("linux.resources.cpu.realtimeRuntime and realtimePeriod do not exist in cgroup v2: %w", errdefs.ErrNotImplemented)
	}
	set(&out.CpuShares, c.Shares)
	set(&out.CpuQuota, c.Quota)
	set(&out.CpuPeriod, c.Period)
	set(&out.CpuRtRuntime, c.RealtimeRuntime)
	set(&out.CpuRtPeriod, c.RealtimePeriod)
	out.CpuBurst, out.CPUIdle = c.Burst, c.Idle
	out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
	if c.Idle != nil && *c.Idle == 1 {
		// The kernel refuses a weight for an idle cgroup, which has the least of all.
		out.CpuShares = 0
	}
	if v2 {
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(out.CpuShares)
	}
	return nil
}

func convertBlockIO(out *cgroups.Resources, b *specs.LinuxBlockIO) error {
	if b == nil {
		return nil
	}
	set(&out.BlkioWeight, b.Weight)
	set(&out.BlkioLeafWeight, b.LeafWeight)
	for i, d := range b.WeightDevice {
		if d.Weight == nil && d.LeafWeight == nil {
			return fmt.Errorf("linux.resources.blockIO.weightDevice[%d] has neither weight nor leafWeight: %w", i, errdefs.ErrInvalidArgument)
		}
		var weight, leaf uint16
		set(&weight, d.Weight)
		set(&leaf, d.LeafWeight)
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
	}
	for _, t := range []struct {
		from []specs.LinuxThrottleDevice
		to   *[]*cgroups.ThrottleDevice
	}{
		{b.ThrottleReadBpsDevice, &out.BlkioThrottleReadBpsDevice},
		{b.ThrottleWriteBpsDevice, &out.BlkioThrottleWriteBpsDevice},
		{b.ThrottleReadIOPSDevice, &out.BlkioThrottleReadIOPSDevice},
		{b.ThrottleWriteIOPSDevice, &out.BlkioThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			*t.to = append(*t.to, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
	}
	return nil
}

// convertDevice follows config-linux.md#allowed-device-list: the type's default is
// all, a missing number is all numbers.
func convertDevice(d specs.LinuxDeviceCgroup) (*devices.Rule, error) {
	rule := &devices.Rule{Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard, Allow: d.Allow}
	switch d.Type {
	case "", "a":
	case "c", "u":
		rule.Type = devices.CharDevice
	case "b":
		rule.Type = devices.BlockDevice
	default:
		return nil, fmt.Errorf("device type %q is none of a, b, c, u: %w", d.Type, errdefs.ErrInvalidArgument)
	}
	set(&rule.Major, d.Major)
	set(&rule.Minor, d.Minor)
	rule.Permissions = devices.Permissions(d.Access)
	if d.Access == "" {
		rule.Permissions = "rwm"
	}
	for _, c := range rule.Permissions {
		if !strings.ContainsRune("rwm", c) {
			return nil, fmt.Errorf("device access %q has other letters than r, w, m: %w", d.Access, errdefs.ErrInvalidArgument)
		}
	}
	return rule, nil
}
