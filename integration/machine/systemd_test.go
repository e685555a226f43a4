package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func needsSystemd(t *testing.T) {
	t.Helper()
	needsUnified(t)
	comm, _ := os.ReadFile("/proc/1/comm")
	if strings.TrimSpace(string(comm)) != "systemd" {
		t.Skipf("needs systemd as PID 1, which is %q (hint: PVELXC_TEST_SANDBOX=off on a machine to throw away)", strings.TrimSpace(string(comm)))
	}
}

// slice is where the tests' scopes are. It is left to the machine's end of the run, as the slices of
// an orchestrator are.
func slice() string { return harness.Token + ".slice" }

// inScope starts a container in a scope, as CRI does with SystemdCgroup, and returns the unit's name.
func inScope(t *testing.T, e *harness.Env, opts ...harness.Option) (*harness.Container, string) {
	t.Helper()
	t.Cleanup(func() { command(t, "systemctl", "stop", slice()) })
	id := e.NewID()
	c := e.Start(t, append([]harness.Option{
		harness.ID(id), harness.Forever(), harness.Spec(oci.WithCgroup(slice() + ":pvelxc:" + id)),
		harness.With(containerd.WithRuntime(e.Runtime.Type, &runcoptions.Options{SystemdCgroup: true})),
	}, opts...)...)
	return c, "pvelxc-" + id + ".scope"
}

// property is one of a unit's properties.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	return command(t, "systemctl", "show", "-P", name, unit)
}

// vanished checks that systemd forgot the unit and its group is gone.
func vanished(t *testing.T, unit, dir string) {
	t.Helper()
	harness.Eventually(t, "end of "+unit, func() error {
		out, err := exec.Command("systemctl", "show", "-P", "LoadState", unit).Output()
		if state := strings.TrimSpace(string(out)); err != nil || state != "not-found" {
			return fmt.Errorf("its load state is %q, %w", state, err)
		}
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("%s is there", dir)
		}
		return nil
	})
}

// The container and its monitor are below a delegated scope, which has what competes with other units;
// limits are the container's own. systemd leaves all of it alone, and nothing remains.
func TestScope(t *testing.T) {
	needsSystemd(t)
	e := harness.On(t, harness.Pvelxc)
	reservation := int64(16 * mebibyte)
	c, unit := inScope(t, e, harness.Spec(oci.WithMemoryLimit(64*mebibyte), oci.WithPidsLimit(77), oci.WithCPUCFS(30000, 100000), oci.WithCPUShares(2048)),
		harness.Edit(func(s *specs.Spec) { s.Linux.Resources.Memory.Reservation = &reservation }))
	scope := filepath.Join("/sys/fs/cgroup", property(t, unit, "ControlGroup"))
	for name, want := range map[string]string{
		"ActiveState": "active", "Delegate": "yes", "Slice": slice(), "TasksMax": "infinity",
		"MemoryMax": "infinity", "MemoryLow": fmt.Sprint(reservation),
	} {
		if got := property(t, unit, name); got != want {
			t.Errorf("%s of %s is %q, want %q", name, unit, got, want)
		}
	}
	if got := property(t, unit, "CPUWeight"); got != file(t, scope, "cpu.weight") || got == "100" {
		t.Errorf("CPUWeight is %s, cpu.weight %s", got, file(t, scope, "cpu.weight"))
	}
	init := int(c.Task.Pid())
	payload := group(t, init)
	if payload != scope+"/payload" {
		t.Errorf("init is in %s, the scope is %s", payload, scope)
	}
	if got := group(t, harness.Parent(t, init)); got != scope+"/monitor" {
		t.Errorf("the monitor is in %s, the scope is %s", got, scope)
	}
	if got := group(t, c.Shim(t)); strings.HasPrefix(got, scope) {
		t.Errorf("the shim is in %s: it would end with the scope", got)
	}
	limits := func(when, pids string) {
		t.Helper()
		for name, want := range map[string]string{"memory.max": fmt.Sprint(64 * mebibyte), "cpu.max": "30000 100000", "pids.max": pids} {
			if got := file(t, payload, name); got != want {
				t.Errorf("%s is %q %s, want %q", name, got, when, want)
			}
		}
	}
	limits("at the start", "77")
	tasks, shares := int64(55), uint64(512)
	err := c.Task.Update(e.Context, containerd.WithResources(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &tasks}, CPU: &specs.LinuxCPU{Shares: &shares}}))
	if err != nil {
		t.Fatal(err)
	}
	weight := file(t, scope, "cpu.weight")
	if got := property(t, unit, "CPUWeight"); got != weight {
		t.Errorf("after the update CPUWeight is %s, cpu.weight %s", got, weight)
	}
	command(t, "systemctl", "daemon-reload")
	limits("after a reload of systemd", "55")
	if got := file(t, scope, "cpu.weight"); got != weight {
		t.Errorf("a reload of systemd changed cpu.weight from %s to %s", weight, got)
	}
	// A new process finds its way into a group that systemd calls its own.
	if got := c.Sh(t, "cat /proc/self/cgroup"); got != "0::/\n" && !strings.HasSuffix(strings.TrimSpace(got), "/payload") {
		t.Errorf("exec is in %q", got)
	}
	c.Stop(t)
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	vanished(t, unit, scope)
}

// The node's settings ask for scopes, too, with the text of runtime options as well as in its file.
func TestScopeByConfig(t *testing.T) {
	needsSystemd(t)
	e := harness.On(t, harness.Pvelxc)
	text := &runtimeoptions.Options{ConfigBody: []byte("[runtime]\nsystemd_cgroup = true\n")}
	c, unit := inScope(t, e, harness.With(containerd.WithRuntime(e.Runtime.Type, text)))
	if got := property(t, unit, "Slice"); got != slice() {
		t.Errorf("the scope is in %q", got)
	}
	scope := filepath.Dir(group(t, int(c.Task.Pid())))
	if filepath.Base(scope) != unit {
		t.Errorf("init is below %s, want %s", scope, unit)
	}
}

// systemctl stop, which the machine's shutdown is too, is an exit that containerd hears of.
func TestScopeStopped(t *testing.T) {
	needsSystemd(t)
	e := harness.On(t, harness.Pvelxc)
	events := e.Record(t)
	c, unit := inScope(t, e)
	scope := filepath.Join("/sys/fs/cgroup", property(t, unit, "ControlGroup"))
	command(t, "systemctl", "stop", unit)
	got := c.Wait(t).Status
	if got != 0 && got != 137 {
		t.Errorf("status %d, want 0 (init's own on SIGTERM) or 137", got)
	}
	events.Await(t, c.ID(), fmt.Sprintf("exit %d", got))
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	vanished(t, unit, scope)
}

// After SIGKILL of monitor or shim the scope is gone, too.
func TestScopeOfTheKilled(t *testing.T) {
	needsSystemd(t)
	for victim, find := range map[string]func(*testing.T, *harness.Container) int{
		"monitor": func(t *testing.T, c *harness.Container) int { return harness.Parent(t, int(c.Task.Pid())) },
		"shim":    func(t *testing.T, c *harness.Container) int { return c.Shim(t) },
	} {
		t.Run(victim, func(t *testing.T) {
			e := harness.On(t, harness.Pvelxc)
			c, unit := inScope(t, e)
			scope := filepath.Join("/sys/fs/cgroup", property(t, unit, "ControlGroup"))
			init := int(c.Task.Pid())
			if err := unix.Kill(find(t, c), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			harness.Gone(t, init)
			if err := c.Remove(); err != nil {
				t.Fatal(err)
			}
			vanished(t, unit, scope)
		})
	}
}

// Out of memory below a scope kills in the container only: the monitor lives to tell of it.
func TestScopeOutOfMemory(t *testing.T) {
	needsSystemd(t)
	e := harness.On(t, harness.Pvelxc)
	events := e.Record(t)
	c, unit := inScope(t, e, harness.Spec(oci.WithMemoryLimit(24*mebibyte)),
		harness.Shell("dd if=/dev/zero of=/dev/null bs=200M count=1; echo dd $?; exec sleep 1000000"))
	events.Await(t, c.ID(), "oom")
	c.Saw(t, "dd 137")
	if got := property(t, unit, "ActiveState"); got != "active" {
		t.Errorf("the scope is %s", got)
	}
	if err := c.Task.Pause(e.Context); err != nil {
		t.Fatal(err)
	}
	if err := c.Task.Kill(e.Context, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := c.Wait(t).Status; got != 137 {
		t.Errorf("status %d of a paused one that was killed, want 137", got)
	}
}
