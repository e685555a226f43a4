package survival

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// The programs of the runtime, the one that containerd runs first.
var programs = []string{"containerd-shim-pvelxc-v2", "pvelxc-shim", "pvelxc-init", "pvelxc-monitor", "pvelxc-seccomp", "pvelxc"}

// installation is a directory of programs that an upgrade replaces.
type installation struct {
	t   *testing.T
	dir string
}

// former installs a former version, built from this project's history.
func former(t *testing.T) *installation {
	t.Helper()
	i := &installation{t, t.TempDir()}
	from := filepath.Join(daemon.Peers(), "pvelxc-former")
	if _, err := os.Stat(filepath.Join(from, ".done")); err != nil {
		t.Skip("needs a former version (integration/peers/build.sh former)")
	}
	i.put(from)
	if _, err := os.Stat(filepath.Join(i.dir, "pvelxc-shim")); err == nil {
		t.Fatal("test is void: the former version has pvelxc-shim")
	}
	return i
}

// put replaces programs as dpkg does: by renaming new files over them.
func (i *installation) put(from string) {
	i.t.Helper()
	for _, name := range programs {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		path := filepath.Join(i.dir, name)
		if err = errors.Join(err, os.WriteFile(path+".new", data, 0o755), os.Rename(path+".new", path)); err != nil {
			i.t.Fatal(err)
		}
	}
}

func (i *installation) upgrade() { i.put(daemon.Bin()) }

func (i *installation) runtime() harness.Option {
	return harness.With(containerd.WithRuntime(filepath.Join(i.dir, programs[0]), nil))
}

// confs are the VMIDs that are registered, with the marker of whose they are.
func confs(t *testing.T, e *harness.Env, c *harness.Container) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(harness.Registrations(), "nodes", "*", "lxc", "*.conf"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), "/"+e.Namespace+"/"+c.ID()+"\n") {
			found = append(found, file)
		}
	}
	return found
}

// unregistered waits until a container has no conf.
func unregistered(t *testing.T, e *harness.Env, c *harness.Container) {
	t.Helper()
	harness.Eventually(t, "the end of the registration", func() error {
		if left := confs(t, e, c); len(left) > 0 {
			return fmt.Errorf("registered: %v", left)
		}
		return nil
	})
}

// A pod of a former version goes on under its shim when the programs are replaced: execs, another container, signals,
// exits and deletions are those of before, and the new version starts what comes next.
func TestFormerShimIsServed(t *testing.T) {
	i := former(t)
	e := harness.On(t, harness.Pvelxc)
	events := e.Record(t)
	pod := e.NewID()
	pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever(), i.runtime())
	app := e.Start(t, harness.Pod(pod, "container"), harness.Forever(), i.runtime())
	shim := app.Shim(t)
	if len(confs(t, e, app)) != 1 {
		t.Fatalf("confs %v", confs(t, e, app))
	}
	i.upgrade()

	if got := app.Sh(t, "echo well"); got != "well\n" {
		t.Errorf("exec after the upgrade: %q", got)
	}
	row := listed(t, i, app)
	if row.State != "running" || row.Pid != int(app.Task.Pid()) || row.VMID == 0 {
		t.Errorf("the new pvelxc list says %+v", row)
	}
	if err := app.Task.Kill(e.Context, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := app.Wait(t).Status; got != 0 {
		t.Errorf("status %d", got)
	}
	if err := app.Remove(); err != nil {
		t.Error(err)
	}
	unregistered(t, e, app)
	events.Await(t, app.ID(), "delete")
	if !harness.Alive(shim) || pause.Shim(t) != shim {
		t.Error("the pod's shim has changed")
	}
	if got := pause.Stop(t).Status; got != 137 {
		t.Errorf("status %d of a sandbox that was killed", got)
	}
	if err := pause.Remove(); err != nil {
		t.Error(err)
	}
	harness.Gone(t, shim)

	next := e.Start(t, harness.Forever(), i.runtime())
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", next.Shim(t))); err != nil || filepath.Base(exe) != "pvelxc-shim" {
		t.Errorf("the next container's shim is %s, %v", exe, err)
	}
}

// A shim of a former version that dies after the upgrade leaves a state to the new delete: of one that ran, of one that
// had ended, whose status is told, and of one that was created.
func TestFormerStateIsRead(t *testing.T) {
	for _, s := range []struct {
		name   string
		status uint32
	}{{"running", 137}, {"stopped", 19}, {"created", 0}} {
		t.Run(s.name, func(t *testing.T) {
			i := former(t)
			e := harness.On(t, harness.Pvelxc)
			var c *harness.Container
			switch s.name {
			case "running":
				c = e.Start(t, harness.Forever(), i.runtime())
			case "stopped":
				c = e.Start(t, harness.Shell("exit 19"), i.runtime())
				c.Wait(t)
			default:
				c = e.Create(t, harness.Forever(), i.runtime())
			}
			if state := stateOf(t, e, c); state.Version != 1 {
				t.Errorf("state version %d", state.Version)
			}
			pid, shim := int(c.Task.Pid()), c.Shim(t)
			i.upgrade()
			kill(t, shim)
			stopped(t, e, c)
			harness.Gone(t, shim)
			if s.name != "stopped" {
				harness.Gone(t, pid)
			}
			if status, err := c.Task.Status(e.Context); err == nil && s.status != 0 && status.ExitStatus != s.status {
				t.Errorf("exit status %d, want %d", status.ExitStatus, s.status)
			}
			if err := c.Remove(); err != nil {
				t.Error(err)
			}
			settle(t, e)
			unregistered(t, e, c)
		})
	}
}

// containerd that is started anew after the upgrade finds the tasks of the former version again.
func TestContainerdFindsFormerTasks(t *testing.T) {
	i := former(t)
	e := harness.Private(t, harness.Pvelxc, daemon.Containerd2)
	c := e.Start(t, harness.Forever(), i.runtime())
	pid := c.Task.Pid()
	i.upgrade()
	restart(t, e, func() {})
	task, exited := load(e.Context, t, c)
	if task.Pid() != pid || !harness.Alive(int(pid)) {
		t.Errorf("the task's pid is %d, was %d", task.Pid(), pid)
	}
	if got := c.Sh(t, "echo well"); got != "well\n" {
		t.Errorf("exec printed %q", got)
	}
	if err := task.Kill(e.Context, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := harness.Soon(t, "the exit", exited); status.ExitCode() != 0 {
		t.Errorf("status %d, want 0", status.ExitCode())
	}
}

func stateOf(t *testing.T, e *harness.Env, c *harness.Container) (state struct{ Version int }) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/run/pvelxc/lxc", e.Namespace, c.ID(), "state.json"))
	if err == nil {
		err = json.Unmarshal(data, &state)
	}
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// listed is what an installation's pvelxc list says of a container.
func listed(t *testing.T, i *installation, c *harness.Container) (row struct {
	ID, State string
	VMID, Pid int
}) {
	t.Helper()
	cmd := exec.Command(filepath.Join(i.dir, "pvelxc"), "list", "-o", "json")
	cmd.Env = append(os.Environ(), "PVELXC_CONFIG="+filepath.Join(harness.Work, "pvelxc.toml"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		ID, State string
		VMID, Pid int
	}{}
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.ID == c.ID() {
			return r
		}
	}
	t.Fatalf("%s is not in %s", c.ID(), out)
	return row
}
