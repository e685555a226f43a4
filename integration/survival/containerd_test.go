package survival

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// eachPrivate runs a test for each runtime with a containerd that it may kill.
func eachPrivate(t *testing.T, version daemon.Version, test func(t *testing.T, e *harness.Env)) {
	t.Helper()
	for _, r := range harness.Selected() {
		t.Run(r.Name, func(t *testing.T) { test(t, harness.Private(t, r, version)) })
	}
}

// restart kills containerd and starts it again; between does what happens while it is down.
func restart(t *testing.T, e *harness.Env, between func()) {
	t.Helper()
	e.Daemon.Kill()
	between()
	if err := e.Daemon.Start(e.Context); err != nil {
		t.Fatal(err)
	}
}

func TestContainerdRestart(t *testing.T) {
	eachPrivate(t, daemon.Containerd2, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		p := c.NewExec(t, nil, []string{"sleep", "1000"})
		if err := p.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		pid, shim := c.Task.Pid(), c.Shim(t)
		restart(t, e, func() {})
		task, exited := load(e.Context, t, c)
		if task.Pid() != pid || !harness.Alive(int(pid)) || !harness.Alive(shim) {
			t.Errorf("the task's pid is %d, was %d; shim %d alive: %t", task.Pid(), pid, shim, harness.Alive(shim))
		}
		if got := c.Pids(e.Context, t)[p.Pid()]; got != p.ID() {
			t.Errorf("process %d is exec %q, want %q", p.Pid(), got, p.ID())
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
	})
}

// A task that ends while containerd is down keeps its status, where containerd keeps the task: some
// versions delete a task that has no processes when they start.
func TestExitWhileContainerdIsDown(t *testing.T) {
	eachPrivate(t, daemon.Containerd2, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Shell("trap 'exit 41' TERM; echo ready; while :; do sleep 1000 & wait $!; done"))
		c.Saw(t, "ready")
		pid := int(c.Task.Pid())
		restart(t, e, func() {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			harness.Gone(t, pid)
		})
		if _, err := c.Container.Task(e.Context, nil); errdefs.IsNotFound(err) {
			return
		}
		_, exited := load(e.Context, t, c)
		if status := harness.Soon(t, "the exit", exited); status.ExitCode() != 41 {
			t.Errorf("status %d, want 41", status.ExitCode())
		}
	})
}

// A task that was created and not yet started is started after the restart.
func TestStartAfterContainerdRestart(t *testing.T) {
	eachPrivate(t, daemon.Containerd2, func(t *testing.T, e *harness.Env) {
		c := e.Create(t, harness.Shell("exit 23"))
		restart(t, e, func() {})
		task, exited := load(e.Context, t, c)
		if err := task.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		if status := harness.Soon(t, "the exit", exited); status.ExitCode() != 23 {
			t.Errorf("status %d, want 23", status.ExitCode())
		}
	})
}

// containerd and the shim die together, as on a machine that is out of memory.
func TestContainerdAndShimDie(t *testing.T) {
	eachPrivate(t, daemon.Containerd2, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		shim, pid := c.Shim(t), int(c.Task.Pid())
		restart(t, e, func() { kill(t, shim) })
		stopped(t, e, c)
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		harness.Gone(t, pid)
		settle(t, e)
	})
}

// The line that Debian 13 packages speaks an older protocol to the shim.
func TestContainerd17(t *testing.T) {
	eachPrivate(t, daemon.Containerd17, func(t *testing.T, e *harness.Env) {
		if _, err := os.Stat(e.Daemon.Binary("containerd")); err != nil {
			t.Fatal(err)
		}
		events := e.Record(t)
		c := e.Start(t, harness.Forever())
		if got := c.Exec(t, []string{"sh", "-c", "echo out; exit 5"}); got != (harness.Result{Status: 5, Stdout: "out\n"}) {
			t.Errorf("exec: %+v", got)
		}
		if _, err := c.Task.Metrics(e.Context); err != nil {
			t.Errorf("metrics: %v", err)
		}
		if pids := c.Pids(e.Context, t); len(pids) == 0 {
			t.Error("no pids")
		}
		if err := c.Task.Pause(e.Context); err != nil {
			t.Error(err)
		}
		if err := c.Task.Resume(e.Context); err != nil {
			t.Error(err)
		}
		restart(t, e, func() {})
		task, exited := load(e.Context, t, c)
		if err := task.Kill(e.Context, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := harness.Soon(t, "the exit", exited); status.ExitCode() != 0 {
			t.Errorf("status %d, want 0", status.ExitCode())
		}
		events.Await(t, c.ID(), "start")
	})
}

// A client that comes back attaches to a running task's streams.
func TestAttachAgain(t *testing.T) {
	eachPrivate(t, daemon.Containerd2, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Shell("while :; do echo line; sleep 0.05; done"))
		c.Saw(t, "line")
		restart(t, e, func() {})
		var again harness.Buffer
		task, err := c.Container.Task(e.Context, cio.NewAttach(cio.WithStreams(nil, &again, &again)))
		if err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, "output after the restart", func() error {
			if again.String() == "" {
				return fmt.Errorf("nothing")
			}
			return nil
		})
		if status, err := task.Status(e.Context); err != nil || status.Status != containerd.Running {
			t.Errorf("state %s, %v", status.Status, err)
		}
		task.IO().Cancel()
		task.IO().Close()
	})
}
