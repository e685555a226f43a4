package machine

import (
	"fmt"
	"strings"
	"testing"

	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// Limits are in the files of the container's own group.
func TestLimits(t *testing.T) {
	needsUnified(t)
	disk := wholeDisk(t)
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		reservation, swap := int64(16*mebibyte), int64(96*mebibyte)
		c := e.Start(t, harness.Forever(), harness.Spec(oci.WithMemoryLimit(64*mebibyte), oci.WithPidsLimit(77),
			oci.WithCPUCFS(30000, 100000), oci.WithCPUShares(2048), oci.WithCPUs("0")), harness.Edit(func(s *specs.Spec) {
			s.Linux.Resources.Memory.Reservation, s.Linux.Resources.Memory.Swap = &reservation, &swap
			throttle := specs.LinuxThrottleDevice{Rate: 10 * mebibyte}
			throttle.Major, throttle.Minor = int64(unix.Major(disk)), int64(unix.Minor(disk))
			s.Linux.Resources.BlockIO = &specs.LinuxBlockIO{ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{throttle}}
			s.Linux.Resources.Unified = map[string]string{"memory.high": fmt.Sprint(48 * mebibyte)}
		}))
		dir := group(t, int(c.Task.Pid()))
		for name, want := range map[string]string{
			"memory.max":      fmt.Sprint(64 * mebibyte),
			"memory.swap.max": fmt.Sprint(32 * mebibyte),
			"memory.low":      fmt.Sprint(16 * mebibyte),
			"memory.high":     fmt.Sprint(48 * mebibyte),
			"cpu.max":         "30000 100000",
			"cpuset.cpus":     "0",
			"pids.max":        "77",
			"io.max":          fmt.Sprintf("%d:%d rbps=max wbps=%d riops=max wiops=max", unix.Major(disk), unix.Minor(disk), 10*mebibyte),
		} {
			if got := file(t, dir, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if got := file(t, dir, "cpu.weight"); got == "100" {
			t.Error("2048 shares left cpu.weight at its default")
		}
	})
}

// wholeDisk is the number of the disk that / is on: limits are for disks, not partitions.
func wholeDisk(t *testing.T) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/dev/vda", &st); err != nil {
		t.Skipf("needs a disk to throttle: /dev/vda: %v", err)
	}
	return st.Rdev
}

// A paused container is frozen by the kernel, all of it: a process of an exec stands still, too.
func TestFreeze(t *testing.T) {
	needsUnified(t)
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		p := c.NewExec(t, nil, []string{"sh", "-c", "echo up; while :; do :; done"})
		if err := p.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, "output of the exec", func() error {
			if p.Stdout.String() == "" {
				return fmt.Errorf("nothing yet: %s", p.Stderr)
			}
			return nil
		})
		dir := group(t, int(c.Task.Pid()))
		if got := group(t, int(p.Pid())); got != dir {
			t.Errorf("the exec is in %s, init in %s", got, dir)
		}
		if err := c.Task.Pause(e.Context); err != nil {
			t.Fatal(err)
		}
		if got := file(t, dir, "cgroup.events"); !strings.Contains(got, "frozen 1") {
			t.Errorf("when pause returned cgroup.events was %q", got)
		}
		used := file(t, dir, "cpu.stat")
		for range 20 { // each read gives a running process time to be counted
			if now := file(t, dir, "cpu.stat"); now != used {
				t.Fatalf("time passes in a frozen group: %q, then %q", used, now)
			}
		}
		if err := c.Task.Resume(e.Context); err != nil {
			t.Fatal(err)
		}
		if got := file(t, dir, "cgroup.freeze"); got != "0" {
			t.Errorf("after resume cgroup.freeze is %q", got)
		}
	})
}

// Stats are containerd's metrics of version 2, with what the kernel counts.
func TestStats(t *testing.T) {
	needsUnified(t)
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever(), harness.Spec(oci.WithMemoryLimit(64*mebibyte), oci.WithPidsLimit(50)))
		c.Sh(t, "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; (dd if=/dev/zero of=/dev/null bs=200M count=1) 2>/dev/null; true")
		metric, err := c.Task.Metrics(e.Context)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := typeurl.UnmarshalAny(metric.Data)
		if err != nil {
			t.Fatal(err)
		}
		m, ok := decoded.(*cgroup2.Metrics)
		if !ok {
			t.Fatalf("metrics are a %T", decoded)
		}
		for what, ok := range map[string]bool{
			"cpu usage":     m.GetCPU().GetUsageUsec() > 0,
			"memory usage":  m.GetMemory().GetUsage() > 0,
			"memory limit":  m.GetMemory().GetUsageLimit() == 64*mebibyte,
			"oom kills":     m.GetMemoryEvents().GetOomKill() == 1,
			"pids":          m.GetPids().GetCurrent() > 0,
			"limit of pids": m.GetPids().GetLimit() == 50,
		} {
			if !ok {
				t.Errorf("%s: %v", what, m)
			}
		}
	})
}
