package oci2lxc

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ConvertResources validates the limits of an Update as Convert does those of a
// Create. The result has no fields that are without effect on this host, and no device
// rules: those are fixed when a container is created.
func ConvertResources(r *specs.LinuxResources, opts Options) (*specs.LinuxResources, []Warning, error) {
	c := newConverter(&specs.Spec{}, opts)
	if r == nil {
		c.invalid("linux.resources", "", "missing: there is nothing to update")
		return nil, nil, fmt.Errorf("convert resources: %w", c.err())
	}
	if len(r.Devices) > 0 {
		c.warn("linux.resources.devices", "device rules are fixed when the container is created")
	}
	out := c.resources(r)
	if err := c.err(); err != nil {
		return nil, nil, fmt.Errorf("convert resources: %w", err)
	}
	return out, c.warnings, nil
}

// unified says that the host has cgroup v2 controllers alone.
func (c *converter) unified() bool { return c.opts.CgroupMode == CgroupUnified }

// resources validates everything but the devices (config-linux.md#control-groups).
func (c *converter) resources(r *specs.LinuxResources) *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory:         c.memory(r.Memory),
		CPU:            c.cpu(r.CPU),
		Pids:           c.pids(r.Pids),
		BlockIO:        c.blockIO(r.BlockIO),
		HugepageLimits: c.hugepages(r.HugepageLimits),
		Network:        c.network(r.Network),
		Rdma:           c.rdma(r.Rdma),
		Unified:        c.unifiedFiles(r.Unified),
	}
}

// cgroupDevices fills the defaults of the rules: every type, all of rwm.
func (c *converter) cgroupDevices(rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	out := make([]specs.LinuxDeviceCgroup, 0, len(rules))
	for i, r := range rules {
		field := fmt.Sprintf("linux.resources.devices[%d]", i)
		r.Type, r.Access = orDefault(r.Type, "a"), orDefault(r.Access, "rwm")
		if r.Type != "a" && r.Type != "b" && r.Type != "c" {
			c.invalid(field+".type", "a, b or c", "%.80q is not a type of device", r.Type)
		}
		if len(r.Access) > 3 || !only(r.Access, "rwm") {
			c.invalid(field+".access", "some of rwm", "%.80q is not an access", r.Access)
		}
		for _, n := range []*int64{r.Major, r.Minor} {
			if n != nil && (*n < -1 || *n > 1<<32-1) {
				c.invalid(field, "", "%d is not a device number", *n)
			}
		}
		out = append(out, r)
	}
	return out
}

func (c *converter) memory(given *specs.LinuxMemory) *specs.LinuxMemory {
	if given == nil {
		return nil
	}
	const field = "linux.resources.memory."
	m := *given
	for _, v := range []struct {
		name string
		n    *int64
	}{{"limit", m.Limit}, {"reservation", m.Reservation}, {"swap", m.Swap}} {
		if v.n != nil && *v.n < -1 {
			c.invalid(field+v.name, "bytes, or -1 for no limit", "%d is out of range", *v.n)
		}
	}
	if m.Swap != nil && *m.Swap > 0 {
		switch {
		case m.Limit != nil && *m.Limit > *m.Swap:
			c.invalid(field+"swap", "it counts memory and swap together", "%d is less than the memory limit %d", *m.Swap, *m.Limit)
		case c.unified() && (m.Limit == nil || *m.Limit == 0):
			c.invalid(field+"swap", "add memory.limit: cgroup v2 limits swap alone, so the difference is needed", "a limit of memory and swap without one of memory")
		case c.unified() && *m.Limit < 0:
			c.invalid(field+"swap", "-1, or limit memory as well", "swap is limited and memory is not")
		}
	}
	if m.Kernel != nil || m.KernelTCP != nil { //nolint:staticcheck // deprecated, and still sent by clients
		c.warn(field+"kernel", "limits of kernel memory are gone from the kernel: limit covers it")
		m.Kernel, m.KernelTCP = nil, nil //nolint:staticcheck // as above
	}
	if m.Swappiness != nil {
		switch {
		case *m.Swappiness > 200:
			c.invalid(field+"swappiness", "0 to 100 (200 since kernel 5.8)", "%d is out of range", *m.Swappiness)
		case c.unified():
			c.warn(field+"swappiness", "cgroup v2 has no swappiness: use memory.reservation, or vm.swappiness on the host")
			m.Swappiness = nil
		}
	}
	if c.unified() && m.DisableOOMKiller != nil {
		if *m.DisableOOMKiller {
			c.warn(field+"disableOOMKiller", "cgroup v2 cannot disable the OOM killer: use oomScoreAdj")
		}
		m.DisableOOMKiller = nil
	}
	if m.UseHierarchy != nil {
		if !*m.UseHierarchy {
			c.warn(field+"useHierarchy", "accounting is always hierarchical since kernel 5.11")
		}
		m.UseHierarchy = nil
	}
	return &m
}

func (c *converter) cpu(given *specs.LinuxCPU) *specs.LinuxCPU {
	if given == nil {
		return nil
	}
	const field = "linux.resources.cpu."
	p := *given
	if p.Period != nil && *p.Period != 0 && (*p.Period < 1000 || *p.Period > 1000000) {
		c.invalid(field+"period", "1000 to 1000000 µs", "%d is out of range", *p.Period)
	}
	if p.Quota != nil && *p.Quota > 0 && *p.Quota < 1000 {
		c.invalid(field+"quota", "1000 µs at least, or -1 for no limit", "%d is out of range", *p.Quota)
	}
	if p.Burst != nil && p.Quota != nil && *p.Quota > 0 && *p.Burst > uint64(*p.Quota) {
		c.invalid(field+"burst", "", "%d is more than the quota %d", *p.Burst, *p.Quota)
	}
	if c.unified() {
		if p.RealtimeRuntime != nil && *p.RealtimeRuntime != 0 || p.RealtimePeriod != nil && *p.RealtimePeriod != 0 {
			c.unsupported(field+"realtimeRuntime", "leave it out", "cgroup v2 has no limits for realtime processes")
		}
		p.RealtimeRuntime, p.RealtimePeriod = nil, nil
	}
	if _, err := parseList(p.Cpus, maxCPU); err != nil {
		c.invalid(field+"cpus", "for example 0-3,7", "%v", err)
	}
	if _, err := parseList(p.Mems, maxNode); err != nil {
		c.invalid(field+"mems", "for example 0-1", "%v", err)
	}
	if p.Idle != nil && *p.Idle != 0 && *p.Idle != 1 {
		c.invalid(field+"idle", "0 or 1", "%d is out of range", *p.Idle)
	}
	return &p
}

// pids keeps 0: it is a limit like any other since version 1.3 of the specification.
func (c *converter) pids(given *specs.LinuxPids) *specs.LinuxPids {
	if given == nil || given.Limit == nil {
		return nil
	}
	if *given.Limit < -1 {
		c.invalid("linux.resources.pids.limit", "-1 for no limit", "%d is out of range", *given.Limit)
	}
	return &specs.LinuxPids{Limit: given.Limit}
}

func (c *converter) blockIO(given *specs.LinuxBlockIO) *specs.LinuxBlockIO {
	if given == nil {
		return nil
	}
	const field = "linux.resources.blockIO."
	b := *given
	c.weight(field+"weight", b.Weight)
	if b.LeafWeight != nil {
		c.warn(field+"leafWeight", "the CFQ scheduler is gone from the kernel")
		b.LeafWeight = nil
	}
	b.WeightDevice = nil
	for i, d := range given.WeightDevice {
		f := fmt.Sprintf("%sweightDevice[%d]", field, i)
		c.blockDevice(f, d.LinuxBlockIODevice)
		c.weight(f+".weight", d.Weight)
		if d.LeafWeight != nil {
			c.warn(f+".leafWeight", "the CFQ scheduler is gone from the kernel")
			d.LeafWeight = nil
		}
		if d.Weight != nil {
			b.WeightDevice = append(b.WeightDevice, d)
		}
	}
	for _, l := range []struct {
		name string
		list []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", b.ThrottleReadBpsDevice}, {"throttleWriteBpsDevice", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", b.ThrottleReadIOPSDevice}, {"throttleWriteIOPSDevice", b.ThrottleWriteIOPSDevice},
	} {
		for i, d := range l.list {
			c.blockDevice(fmt.Sprintf("%s%s[%d]", field, l.name, i), d.LinuxBlockIODevice)
		}
	}
	return &b
}

func (c *converter) weight(field string, w *uint16) {
	if w != nil && *w != 0 && (*w < 10 || *w > 1000) {
		c.invalid(field, "10 to 1000", "%d is out of range", *w)
	}
}

func (c *converter) blockDevice(field string, d specs.LinuxBlockIODevice) {
	if d.Major < 0 || d.Major > maxMajor || d.Minor < 0 || d.Minor > maxMinor {
		c.invalid(field, "", "there is no device %d:%d", d.Major, d.Minor)
	}
}

// hugepages checks the form of the sizes; which of them the host has, its files say.
func (c *converter) hugepages(limits []specs.LinuxHugepageLimit) []specs.LinuxHugepageLimit {
	for i, l := range limits {
		n := strings.TrimSuffix(l.Pagesize, "B")
		if n != "" && strings.IndexByte("KMG", n[len(n)-1]) >= 0 {
			n = n[:len(n)-1]
		}
		if n == "" || n[0] == '0' || len(n) > 9 || !only(n, digits) || !strings.HasSuffix(l.Pagesize, "B") {
			c.invalid(fmt.Sprintf("linux.resources.hugepageLimits[%d].pageSize", i), "for example 2MB or 1GB", "%.80q is not a size", l.Pagesize)
		}
	}
	return limits
}

// network limits are of cgroup v1 (net_cls, net_prio).
func (c *converter) network(n *specs.LinuxNetwork) *specs.LinuxNetwork {
	if n == nil {
		return nil
	}
	for i, p := range n.Priorities {
		if !validInterface(p.Name) {
			c.invalid(fmt.Sprintf("linux.resources.network.priorities[%d].name", i), "", "%.80q is not the name of an interface", p.Name)
		}
	}
	if c.unified() {
		if n.ClassID != nil {
			c.warn("linux.resources.network.classID", "cgroup v2 has no net_cls: match on the cgroup in nftables")
		}
		if len(n.Priorities) > 0 {
			c.warn("linux.resources.network.priorities", "cgroup v2 has no net_prio: match on the cgroup in nftables")
		}
		return nil
	}
	return n
}

func (c *converter) rdma(limits map[string]specs.LinuxRdma) map[string]specs.LinuxRdma {
	for _, name := range sortedKeys(limits) {
		if name == "" || len(name) > 64 || strings.ContainsAny(name, " \t\r\n=\x00/") {
			c.invalid("linux.resources.rdma", "", "%.80q is not the name of a device", name)
		}
	}
	return limits
}

// unifiedFiles checks linux.resources.unified: names of files in the container's group.
// Those of cgroup.* that move processes or change the group's nature are the runtime's.
func (c *converter) unifiedFiles(files map[string]string) map[string]string {
	if len(files) > 0 && !c.unified() {
		c.unsupported("linux.resources.unified", "use the fields for each limit, or boot with cgroup v2 alone", "the host has cgroup v1 controllers")
		return nil
	}
	for _, name := range sortedKeys(files) {
		field := fmt.Sprintf("linux.resources.unified[%.80q]", name)
		switch controller, file, ok := strings.Cut(name, "."); {
		case !ok, controller == "", file == "", len(name) > 255, !only(name, alnum+"._-"):
			c.invalid(field, "controller.file, for example memory.high", "it is not the name of a file in a cgroup")
		case controller == "cgroup" && file != "max.depth" && file != "max.descendants" && file != "pressure":
			c.invalid(field, "", "the file is the runtime's")
		}
		c.text(field, files[name])
	}
	return files
}
