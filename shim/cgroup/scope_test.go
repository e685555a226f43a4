package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// TestScope goes through a container's life with the systemd driver.
func TestScope(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil || Mode() != oci2lxc.CgroupUnified {
		t.Skip("needs systemd as PID 1 and cgroup v2")
	}
	scope := fmt.Sprintf("pvelxc-test-%d.scope", os.Getpid())
	base := filepath.Join("pvelxctest.slice/pvelxctest-pod.slice", scope)
	config := oci2lxc.Cgroup{
		Systemd: true, Slice: "pvelxctest-pod.slice", Scope: scope,
		Path: base + "/payload", Monitor: base + "/monitor", Pivot: base + "/pivot",
		Resources: &specs.LinuxResources{
			CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000))},
			Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Reservation: ptr(int64(16 << 20))},
			Pids:   &specs.LinuxPids{Limit: ptr(int64(50))},
		},
	}
	g, err := Open(Mode(), config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := timeout(t)
	monitor := exec.Command("sleep", "infinity")
	if err := monitor.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = monitor.Process.Kill()
		_ = monitor.Wait()
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
			t.Error(err)
		}
		_ = exec.Command("systemctl", "stop", "pvelxctest.slice").Run()
	})
	if err := g.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.PrepareScope(ctx, monitor.Process.Pid); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, base)
	where, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", monitor.Process.Pid))
	if err != nil || strings.TrimSpace(string(where)) != "0::/"+base {
		t.Fatalf("the monitor is in %s, %v, want %s", where, err, base)
	}
	if err := g.PrepareScope(ctx, monitor.Process.Pid); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("a second scope of the same name: %v", err)
	}

	// What liblxc does.
	for _, sub := range []string{"monitor", "payload"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeFile(dir+"/monitor", "cgroup.procs", strconv.Itoa(monitor.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if err := enableControllers(dir, nil); err != nil {
		t.Fatal(err)
	}

	if err := g.Apply(ctx); err != nil {
		t.Fatal(err)
	}
	check := func(sub, name, want string) {
		t.Helper()
		if got := mustRead(t, filepath.Join(dir, sub), name); got != want {
			t.Errorf("%s/%s is %q, want %q", sub, name, got, want)
		}
	}
	// What competes with other units belongs to the scope, limits to the leaf.
	check(".", "cpu.weight", "59")
	check(".", "memory.low", "16777216")
	check(".", "memory.max", "max")
	check(".", "pids.max", "max")
	check("payload", "memory.max", "67108864")
	check("payload", "cpu.max", "50000 100000")
	check("payload", "pids.max", "50")

	if err := g.Update(ctx, &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Shares: ptr(uint64(2048))}, Pids: &specs.LinuxPids{Limit: ptr(int64(60))},
	}); err != nil {
		t.Fatal(err)
	}
	check(".", "cpu.weight", "174")
	check("payload", "pids.max", "60")
	check("payload", "memory.max", "67108864")
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check(".", "cpu.weight", "174")
	check("payload", "pids.max", "60")

	p := spawn(t, g, "wait")
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	p.await(t, "kill")
	if err := monitor.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = monitor.Wait()
	for range 2 {
		if err := g.Remove(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if isDir(dir) {
		t.Errorf("%s still exists", dir)
	}
	if out, _ := exec.Command("systemctl", "show", "-P", "LoadState", scope).Output(); strings.TrimSpace(string(out)) != "not-found" {
		t.Errorf("systemd still knows %s: %s", scope, out)
	}
}
