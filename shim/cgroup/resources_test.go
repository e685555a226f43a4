package cgroup

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

func TestConvert(t *testing.T) {
	for _, tc := range []struct {
		name string
		mode oci2lxc.CgroupMode
		in   specs.LinuxResources
		want cgroups.Resources
	}{
		{"nothing set is nothing written", oci2lxc.CgroupUnified, specs.LinuxResources{}, cgroups.Resources{SkipDevices: true}},
		{"memory", oci2lxc.CgroupHybrid, specs.LinuxResources{Memory: &specs.LinuxMemory{
			Limit: ptr(int64(1)), Reservation: ptr(int64(2)), Swap: ptr(int64(3)), Swappiness: ptr(uint64(4)),
			DisableOOMKiller: ptr(true), CheckBeforeUpdate: ptr(true),
		}}, cgroups.Resources{
			SkipDevices: true, Memory: 1, MemoryReservation: 2, MemorySwap: 3, MemorySwappiness: ptr(uint64(4)),
			OomKillDisable: true, MemoryCheckBeforeUpdate: true,
		}},
		{"default shares are the default weight", oci2lxc.CgroupUnified, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024))}},
			cgroups.Resources{SkipDevices: true, CpuShares: 1024, CpuWeight: 100}},
		{"least shares", oci2lxc.CgroupUnified, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(2))}},
			cgroups.Resources{SkipDevices: true, CpuShares: 2, CpuWeight: 1}},
		{"most shares", oci2lxc.CgroupUnified, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(262144))}},
			cgroups.Resources{SkipDevices: true, CpuShares: 262144, CpuWeight: 10000}},
		{"idle has no weight", oci2lxc.CgroupUnified, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Idle: ptr(int64(1))}},
			cgroups.Resources{SkipDevices: true, CPUIdle: ptr(int64(1))}},
		{"cpu", oci2lxc.CgroupLegacy, specs.LinuxResources{CPU: &specs.LinuxCPU{
			Shares: ptr(uint64(7)), Quota: ptr(int64(-1)), Period: ptr(uint64(9)), Burst: ptr(uint64(10)),
			RealtimeRuntime: ptr(int64(11)), RealtimePeriod: ptr(uint64(12)), Cpus: "0-1", Mems: "0", Idle: ptr(int64(0)),
		}}, cgroups.Resources{
			SkipDevices: true, CpuShares: 7, CpuQuota: -1, CpuPeriod: 9, CpuBurst: ptr(uint64(10)),
			CpuRtRuntime: 11, CpuRtPeriod: 12, CpusetCpus: "0-1", CpusetMems: "0", CPUIdle: ptr(int64(0)),
		}},
		{"pids 0", oci2lxc.CgroupUnified, specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}},
			cgroups.Resources{SkipDevices: true, PidsLimit: ptr(int64(0))}},
		{"pids without a limit", oci2lxc.CgroupUnified, specs.LinuxResources{Pids: &specs.LinuxPids{}}, cgroups.Resources{SkipDevices: true}},
		{"block io", oci2lxc.CgroupUnified, specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			Weight: ptr(uint16(500)), LeafWeight: ptr(uint16(20)),
			WeightDevice:           []specs.LinuxWeightDevice{weightDevice(8, 1, 30)},
			ThrottleReadBpsDevice:  []specs.LinuxThrottleDevice{throttle(8, 2, 40)},
			ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{throttle(8, 3, 50)}, ThrottleReadIOPSDevice: []specs.LinuxThrottleDevice{throttle(8, 4, 60)},
			ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{throttle(8, 5, 70)},
		}}, cgroups.Resources{
			SkipDevices: true, BlkioWeight: 500, BlkioLeafWeight: 20,
			BlkioWeightDevice:            []*cgroups.WeightDevice{cgroups.NewWeightDevice(8, 1, 30, 0)},
			BlkioThrottleReadBpsDevice:   []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 2, 40)},
			BlkioThrottleWriteBpsDevice:  []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 3, 50)},
			BlkioThrottleReadIOPSDevice:  []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 4, 60)},
			BlkioThrottleWriteIOPSDevice: []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 5, 70)},
		}},
		{"network of v1", oci2lxc.CgroupHybrid, specs.LinuxResources{Network: &specs.LinuxNetwork{
			ClassID: ptr(uint32(5)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 6}},
		}}, cgroups.Resources{SkipDevices: true, NetClsClassid: 5, NetPrioIfpriomap: []*cgroups.IfPrioMap{{Interface: "eth0", Priority: 6}}}},
		{"network on v2", oci2lxc.CgroupUnified, specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(5))}}, cgroups.Resources{SkipDevices: true}},
		{"rdma and unified", oci2lxc.CgroupUnified, specs.LinuxResources{
			Rdma:    map[string]specs.LinuxRdma{"mlx5": {HcaHandles: ptr(uint32(1)), HcaObjects: ptr(uint32(2))}},
			Unified: map[string]string{"memory.high": "1000"},
		}, cgroups.Resources{
			SkipDevices: true, Rdma: map[string]cgroups.LinuxRdma{"mlx5": {HcaHandles: ptr(uint32(1)), HcaObjects: ptr(uint32(2))}},
			Unified: map[string]string{"memory.high": "1000"},
		}},
		{"devices", oci2lxc.CgroupUnified, specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
			{Allow: false}, {Allow: true, Type: "u", Major: ptr(int64(1)), Access: "r"}, {Allow: true, Type: "b", Minor: ptr(int64(3)), Access: "rw"},
		}}, cgroups.Resources{Devices: []*devices.Rule{
			{Type: 'a', Major: -1, Minor: -1, Permissions: "rwm"}, {Type: 'c', Major: 1, Minor: -1, Permissions: "r", Allow: true},
			{Type: 'b', Major: -1, Minor: 3, Permissions: "rw", Allow: true},
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := convert(tc.mode, &tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tc.want, got); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
		})
	}
}

func weightDevice(major, minor int64, weight uint16) specs.LinuxWeightDevice {
	d := specs.LinuxWeightDevice{Weight: &weight}
	d.Major, d.Minor = major, minor
	return d
}

func throttle(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

func TestConvertRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		mode  oci2lxc.CgroupMode
		in    specs.LinuxResources
		field string
		class error
	}{
		{"realtime on v2", oci2lxc.CgroupUnified, specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))}}, "cpu.realtimeRuntime", errdefs.ErrNotImplemented},
		{"unified on v1", oci2lxc.CgroupHybrid, specs.LinuxResources{Unified: map[string]string{"pids.max": "1"}}, "unified", errdefs.ErrFailedPrecondition},
		{"huge pages of another size", oci2lxc.CgroupUnified, specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB"}}}, "hugepageLimits", errdefs.ErrInvalidArgument},
		{"weight device without weight", oci2lxc.CgroupUnified, specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{WeightDevice: make([]specs.LinuxWeightDevice, 1)}}, "blockIO.weightDevice[0]", errdefs.ErrInvalidArgument},
		{"device type", oci2lxc.CgroupUnified, specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "p"}}}, "devices[0]", errdefs.ErrInvalidArgument},
		{"device access", oci2lxc.CgroupUnified, specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rx"}}}, "devices[0]", errdefs.ErrInvalidArgument},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := convert(tc.mode, &tc.in)
			if !errors.Is(err, tc.class) || !strings.Contains(err.Error(), "linux.resources."+tc.field) {
				t.Errorf("error %v, want %v naming %s", err, tc.class, tc.field)
			}
		})
	}
}

func TestOpenRefusesPaths(t *testing.T) {
	good := oci2lxc.Cgroup{Path: "a/b", Monitor: "m/b", Pivot: "p"}
	if _, err := Open(Mode(), good); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", ".", "/", "/a", "a/../b", "..", "../a", "a//b", "a/", "a\nb", "a\x00b"} {
		for _, field := range []func(*oci2lxc.Cgroup) *string{
			func(c *oci2lxc.Cgroup) *string { return &c.Path },
			func(c *oci2lxc.Cgroup) *string { return &c.Monitor },
			func(c *oci2lxc.Cgroup) *string { return &c.Pivot },
		} {
			bad := good
			*field(&bad) = path
			if _, err := Open(Mode(), bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("Open with path %q: %v", path, err)
			}
		}
	}
}

func TestParseMembership(t *testing.T) {
	got, err := parseMembership("12:cpu,cpuacct:/a\n1:name=systemd:/a:b\n0::/\n")
	want := []membership{{"cpu,cpuacct", "a"}, {"name=systemd", "a:b"}, {"", ""}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(membership{})); diff != "" || err != nil {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
	for _, outside := range []string{"0::/../x\n", "0::/..\n", "0::/gone (deleted)\n"} {
		if _, err := parseMembership(outside); !errors.Is(err, errOutside) {
			t.Errorf("%q: %v", outside, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0::/a\n1:name=x:/b:c\n")
	f.Add("1\n0\n22\n")
	f.Fuzz(func(t *testing.T, data string) {
		if members, err := parseMembership(data); err == nil {
			for _, m := range members {
				if strings.HasPrefix(m.path, "../") || strings.Contains(m.path, "\n") {
					t.Errorf("path %q", m.path)
				}
			}
		}
		if pids, err := parsePids(data); err == nil {
			for _, pid := range pids {
				if pid <= 0 {
					t.Errorf("process %d: kill(2) would take it for a group", pid)
				}
			}
		}
	})
}
