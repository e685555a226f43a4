package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

func TestApplyAndUpdate(t *testing.T) {
	g := newGroup(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0", Mems: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(77))},
	})
	if err := g.Apply(timeout(t)); err != nil {
		t.Fatal(err)
	}
	quota, weight, period := "50000 100000", "59", "50000 100000"
	if g.mode != oci2lxc.CgroupUnified {
		quota, weight, period = "50000", "512", "100000"
	}
	check := func(controller, v1, v2, want string) {
		t.Helper()
		if got := g.file(t, controller, v1, v2); got != want {
			t.Errorf("%s (v2: %s) is %q, want %q", v1, v2, got, want)
		}
	}
	check("memory", "memory.limit_in_bytes", "memory.max", "67108864")
	check("memory", "memory.soft_limit_in_bytes", "memory.low", "33554432")
	check("cpu", "cpu.shares", "cpu.weight", weight)
	check("cpu", "cpu.cfs_quota_us", "cpu.max", quota)
	check("cpu", "cpu.cfs_period_us", "cpu.max", period)
	check("cpuset", "cpuset.cpus", "cpuset.cpus", "0")
	check("pids", "pids.max", "pids.max", "77")

	if err := g.Update(timeout(t), &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(128 << 20))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(0))},
	}); err != nil {
		t.Fatal(err)
	}
	check("memory", "memory.limit_in_bytes", "memory.max", "134217728")
	check("memory", "memory.soft_limit_in_bytes", "memory.low", "33554432")
	check("cpu", "cpu.shares", "cpu.weight", weight)
	check("cpu", "cpu.cfs_quota_us", "cpu.max", quota)
	check("pids", "pids.max", "pids.max", "0")

	if err := g.Update(timeout(t), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}); err != nil {
		t.Fatal(err)
	}
	check("pids", "pids.max", "pids.max", "max")
	if err := g.Update(timeout(t), &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(2048))}}); err != nil {
		t.Fatal(err)
	}
	if err := g.Update(timeout(t), &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(2048))}}); err != nil {
		t.Errorf("a weight for an idle cgroup: %v", err)
	}
	check("cpu", "cpu.idle", "cpu.idle", "1")
}

func TestSwapUpdateAlone(t *testing.T) {
	g := newGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))}})
	if g.mode != oci2lxc.CgroupUnified {
		t.Skip("needs cgroup v2: only there swap is counted without memory")
	}
	if _, err := os.Stat(filepath.Join(g.unified(), "memory.swap.max")); err != nil {
		t.Skipf("needs a kernel with swap accounting: %v", err)
	}
	if err := g.Apply(timeout(t)); err != nil {
		t.Fatal(err)
	}
	if got := g.file(t, "memory", "", "memory.swap.max"); got != "0" {
		t.Errorf("memory.swap.max is %s, want 0", got)
	}
	if err := g.Update(timeout(t), &specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(96 << 20))}}); err != nil {
		t.Fatal(err)
	}
	if got := g.file(t, "memory", "", "memory.swap.max"); got != "33554432" {
		t.Errorf("memory.swap.max is %s, want 33554432", got)
	}
}

func TestApplyNamesTheMissingController(t *testing.T) {
	g := newGroup(t, nil)
	g.config.Resources = &specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr(uint32(3))}}}
	if g.mode == oci2lxc.CgroupUnified {
		// Taken away from the leaf, as a parent with processes would.
		parent := filepath.Dir(g.unified())
		if strings.Contains(mustRead(t, parent, "cgroup.subtree_control"), "rdma") {
			if err := writeFile(parent, "cgroup.subtree_control", "-rdma"); err != nil {
				t.Fatal(err)
			}
		}
	} else if g.v1("rdma") != "" {
		t.Skip("needs a host without the rdma controller, which v1 cannot take away")
	}
	err := g.Apply(timeout(t))
	if !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Fatalf("Apply: %v, want ErrFailedPrecondition", err)
	}
	for _, part := range []string{"linux.resources.rdma", "rdma.max", "mlx5_1", "hint:"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %q", err, part)
		}
	}
}

func mustRead(t *testing.T, dir, name string) string {
	t.Helper()
	value, err := readFile(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestProcessInParent: v2 cannot pass controllers on from a cgroup that has
// processes, and liblxc starts without limits then.
func TestProcessInParent(t *testing.T) {
	g := openGroup(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}})
	if g.mode != oci2lxc.CgroupUnified {
		t.Skip("needs cgroup v2: v1 has no such rule")
	}
	parent := &Group{mode: g.mode, hierarchies: g.hierarchies, config: oci2lxc.Cgroup{Path: filepath.Dir(g.config.Path)}}
	for _, dir := range []string{filepath.Dir(parent.config.Path), parent.config.Path} {
		if err := os.Mkdir(g.hierarchies[0].dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := spawn(t, parent, "wait")
	err := g.Prepare(timeout(t))
	if !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Fatalf("Prepare: %v, want ErrFailedPrecondition", err)
	}
	for _, part := range []string{"linux.resources.pids.limit", fmt.Sprint(p.Process.Pid), "pids controller", "hint:"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %q", err, part)
		}
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.await(t, "kill")
}

func TestDevices(t *testing.T) {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rwm"},
	}
	g := newGroup(t, &specs.LinuxResources{Devices: rules})
	if err := g.Apply(timeout(t)); err != nil {
		t.Fatal(err)
	}
	open := func(device string) int {
		p := spawn(t, g, "open", "CGROUP_TEST_DEVICE="+device)
		p.await(t, "open")
		return p.status
	}
	if code := open("/dev/null"); code != 0 {
		t.Errorf("open /dev/null: exit status %d, want 0", code)
	}
	if code := open("/dev/zero"); code != 13 {
		t.Errorf("open /dev/zero: exit status %d, want 13 (EPERM)", code)
	}
	// An update without devices must not touch them, one with devices replaces them.
	if err := g.Update(timeout(t), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(100))}}); err != nil {
		t.Fatal(err)
	}
	if code := open("/dev/zero"); code != 13 {
		t.Errorf("open /dev/zero after an update of pids: exit status %d, want 13 (EPERM)", code)
	}
	rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Access: "rw"})
	if err := g.Update(timeout(t), &specs.LinuxResources{Devices: rules}); err != nil {
		t.Fatal(err)
	}
	if code := open("/dev/zero"); code != 0 {
		t.Errorf("open /dev/zero after it was allowed: exit status %d, want 0", code)
	}
}

func TestFreezeSignalKill(t *testing.T) {
	g := newGroup(t, nil)
	p := spawn(t, g, "signal")
	p.ready(t)
	if err := g.Freeze(timeout(t)); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		t.Fatalf("Frozen = %v, %v after Freeze", frozen, err)
	}
	if err := g.Signal(timeout(t), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		t.Fatalf("Frozen = %v, %v: a signal thawed a frozen container", frozen, err)
	}
	select {
	case <-p.done:
		t.Fatal("a frozen process took a signal")
	case <-time.After(50 * time.Millisecond):
	}
	if err := g.Thaw(timeout(t)); err != nil {
		t.Fatal(err)
	}
	p.await(t, "thaw")
	if p.status != 42 {
		t.Errorf("exit status %d, want 42", p.status)
	}

	p = spawn(t, g, "wait")
	if err := g.Freeze(timeout(t)); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	p.await(t, "kill of a frozen container")
}

func TestSignalThawsWhatItFroze(t *testing.T) {
	g := newGroup(t, nil)
	p := spawn(t, g, "signal")
	p.ready(t)
	if err := g.Signal(timeout(t), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	p.await(t, "signal")
	if p.status != 42 {
		t.Errorf("exit status %d, want 42", p.status)
	}
}

func TestKillOutrunsForks(t *testing.T) {
	g := newGroup(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(200))}})
	if err := g.Apply(timeout(t)); err != nil {
		t.Fatal(err)
	}
	p := spawn(t, g, "breed")
	eventually(t, "several processes", func() bool {
		pids, err := g.Pids()
		return err == nil && len(pids) > 5
	})
	if err := g.Kill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	p.await(t, "kill")
	eventually(t, "no process left", func() bool {
		pids, err := g.Pids()
		return err == nil && len(pids) == 0
	})
}

func TestPidsAndRemoveRecurse(t *testing.T) {
	g := newGroup(t, nil)
	p := spawn(t, g, "wait")
	// As pct enter does, and deeper than a path can be long.
	for _, h := range g.hierarchies {
		if !h.v2 && !slices.Contains(h.controllers, "freezer") {
			continue
		}
		deep, err := os.Open(h.dir(g.config.Path))
		if err != nil {
			t.Fatal(err)
		}
		for range 30 {
			name := strings.Repeat("d", 200)
			if err := unix.Mkdirat(int(deep.Fd()), name, 0o755); err != nil {
				t.Fatal(err)
			}
			next, err := openChild(deep, name)
			if err != nil {
				t.Fatal(err)
			}
			deep.Close()
			deep = next
		}
		defer deep.Close()
		if err := writeAt(deep, "cgroup.procs", fmt.Sprint(p.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if pids, err := g.Pids(); err != nil || !slices.Equal(pids, []int{p.Process.Pid}) {
		t.Fatalf("Pids = %v, %v, want %d", pids, err, p.Process.Pid)
	}
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := g.Remove(short); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), fmt.Sprint(p.Process.Pid)) {
		t.Errorf("Remove with process %d in it: %v", p.Process.Pid, err)
	}
	if err := g.Kill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	p.await(t, "kill")
	for range 2 {
		if err := g.Remove(timeout(t)); err != nil {
			t.Fatal(err)
		}
	}
	if g.Exists() {
		t.Error("the leaf still exists")
	}
	for _, h := range g.hierarchies {
		if isDir(h.dir(g.config.Monitor)) {
			t.Errorf("%s still exists", h.dir(g.config.Monitor))
		}
	}
	if pids, err := g.Pids(); err != nil || len(pids) != 0 {
		t.Errorf("Pids of a removed cgroup = %v, %v", pids, err)
	}
}

// TestVanishingGroup: a cgroup that is being removed has processes or has none; neither to list nor to kill them is an error then.
func TestVanishingGroup(t *testing.T) {
	g := newGroup(t, nil)
	h := g.hierarchies[0]
	dir := h.dir(g.config.Path)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 300 {
			_ = os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755)
			_ = removeAll(dir)
		}
	}()
	for busy := true; busy; {
		select {
		case <-done:
			busy = false
		default:
		}
		if pids, err := allPids(dir); err != nil || len(pids) > 0 {
			t.Fatalf("processes %v, %v", pids, err)
		}
		if err := g.Kill(timeout(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRemoveKillsInTheMonitorsGroup: there is none of the user's processes in it, and what liblxc has left there nobody else ends.
func TestRemoveKillsInTheMonitorsGroup(t *testing.T) {
	g := newGroup(t, nil)
	p := spawn(t, g, "wait")
	for _, h := range g.hierarchies {
		if err := writeFile(h.dir(g.config.Monitor), "cgroup.procs", strconv.Itoa(p.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Remove(timeout(t)); err != nil {
		t.Fatal(err)
	}
	p.await(t, "Remove")
}

func writeAt(dir *os.File, name, value string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	_, err = file.WriteString(value)
	return err
}

// killed makes a process of the group that the kernel kills for want of memory, and tells of each event.
func killed(t *testing.T, g *Group) (events chan struct{}, end func(), p *process) {
	t.Helper()
	if err := g.Apply(timeout(t)); err != nil {
		t.Fatal(err)
	}
	events = make(chan struct{}, 100)
	end, err := g.OOM(func() { events <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	p = spawn(t, g, "allocate")
	p.await(t, "allocating eight times the limit")
	return events, end, p
}

func small(t *testing.T) *Group {
	return newGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20))}})
}

func noWatches(t *testing.T, g *Group) {
	t.Helper()
	eventually(t, "the watch ends", func() bool {
		g.watchesMu.Lock()
		defer g.watchesMu.Unlock()
		return len(g.watches) == 0
	})
}

func TestOOM(t *testing.T) {
	g := small(t)
	events, _, p := killed(t, g)
	// As liblxc does, at once.
	if err := g.Remove(timeout(t)); err == nil {
		defer noWatches(t, g)
	} else {
		t.Error(err)
	}
	if p.signal != unix.SIGKILL {
		t.Fatalf("status %d, signal %v: was not killed", p.status, p.signal)
	}
	select {
	case <-events:
	case <-time.After(time.Minute):
		t.Fatal("no event")
	}
}

// TestOOMBeforeTheEnd: a watch that is ended as soon as the process is gone has told of its kill by then.
func TestOOMBeforeTheEnd(t *testing.T) {
	for i := range 10 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			g := small(t)
			events, end, _ := killed(t, g)
			end()
			if len(events) == 0 {
				t.Fatal("the watch ended without a word")
			}
			end()
			noWatches(t, g)
		})
	}
}

func TestOOMWithoutCause(t *testing.T) {
	g := newGroup(t, nil)
	for range 20 {
		end, err := g.OOM(func() { t.Error("an event without cause") })
		if err != nil {
			t.Fatal(err)
		}
		end()
		end()
	}
	noWatches(t, g)
	// The end of the cgroup is none either.
	end, err := g.OOM(func() { t.Error("an event without cause") })
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(timeout(t)); err != nil {
		t.Fatal(err)
	}
	end()
	noWatches(t, g)
}

func TestStats(t *testing.T) {
	g := newGroup(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}, Pids: &specs.LinuxPids{Limit: ptr(int64(9))},
	})
	if err := g.Apply(timeout(t)); err != nil {
		t.Fatal(err)
	}
	spawn(t, g, "hold").ready(t)
	got, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	var limit, usage, pids, pidsMax uint64
	switch m := got.(type) {
	case *stats.Metrics:
		limit, usage, pids, pidsMax = m.Memory.Usage.Limit, m.Memory.Usage.Usage, m.Pids.Current, m.Pids.Limit
	case *stats2.Metrics:
		limit, usage, pids, pidsMax = m.Memory.UsageLimit, m.Memory.Usage, m.Pids.Current, m.Pids.Limit
	default:
		t.Fatalf("Stats gives a %T", got)
	}
	if limit != 64<<20 || usage < 8<<20 || pids == 0 || pidsMax != 9 {
		t.Errorf("memory %d of %d, pids %d of %d", usage, limit, pids, pidsMax)
	}
	gone := &Group{mode: g.mode, hierarchies: g.hierarchies, config: oci2lxc.Cgroup{Path: g.config.Path + "-gone"}}
	if _, err := gone.Stats(); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Stats of a cgroup that is gone: %v", err)
	}
}

func TestEntryFollowsTheProcess(t *testing.T) {
	g := newGroup(t, nil)
	p := spawn(t, g, "wait")
	for _, h := range g.hierarchies {
		dir := h.dir(g.config.Path + "/init.scope")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(h.controllers, "cpuset") {
			if err := inheritCpuset(h.dir(g.config.Path), dir); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeFile(dir, "cgroup.procs", fmt.Sprint(p.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	dir, v1, err := g.Entry(p.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	var v2 int
	for _, h := range g.hierarchies {
		if h.v2 {
			v2++
			if want := h.dir(g.config.Path + "/init.scope"); dir == nil || dir.Name() != want {
				t.Errorf("v2 directory %v, want %s", dir, want)
			}
		}
	}
	if len(v1)+v2 != len(g.hierarchies) {
		t.Errorf("%d v1 files for %d hierarchies", len(v1), len(g.hierarchies))
	}
	second := spawn(t, g, "wait")
	for _, file := range v1 {
		if _, err := file.WriteString(fmt.Sprint(second.Process.Pid)); err != nil {
			t.Errorf("enter %s: %v", file.Name(), err)
		}
		file.Close()
	}
	if dir != nil {
		if err := writeAt(dir, "cgroup.procs", fmt.Sprint(second.Process.Pid)); err != nil {
			t.Error(err)
		}
		dir.Close()
	}
	first, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", second.Process.Pid)); err != nil || string(now) != string(first) {
		t.Errorf("second process is in\n%s, want\n%s", now, first)
	}
	dirs, err := g.Controllers(p.Process.Pid)
	if err != nil || len(dirs) != len(g.hierarchies) {
		t.Fatalf("Controllers = %v, %v", dirs, err)
	}
	for name, dir := range dirs {
		if want := filepath.Join("/sys/fs/cgroup", name, g.config.Path, "init.scope"); dir != want {
			t.Errorf("Controllers[%q] = %s, want %s", name, dir, want)
		}
	}
}

func TestJoin(t *testing.T) {
	g := newGroup(t, nil)
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := Join("/"+g.config.Path, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	pids, err := g.Pids()
	if err != nil || !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("the group has %v, %v", pids, err)
	}
	if err := Join(g.config.Path+"-none", cmd.Process.Pid); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a group that is not there: %v", err)
	}
	for _, path := range []string{"../x", "/", ""} {
		if err := Join(path, cmd.Process.Pid); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", path, err)
		}
	}
}
