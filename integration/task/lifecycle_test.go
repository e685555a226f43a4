package task

import (
	"strings"
	"syscall"
	"testing"

	apievents "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestEventOrder(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		events := e.Record(t)
		c := e.Start(t, harness.Forever())
		p := c.NewExec(t, nil, []string{"sh", "-c", "exit 5"})
		if err := p.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		p.Wait(t)
		events.Await(t, c.ID(), "exit "+p.ID()+" 5")
		pid := c.Task.Pid()
		if err := c.Task.Kill(e.Context, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.Wait(t)
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		events.Expect(t, c.ID(), "create", "start",
			"exec-added "+p.ID(), "exec-started "+p.ID(), "exit "+p.ID()+" 5", "exit 0", "delete")
		create, ok := harness.Payload[*apievents.TaskCreate](events, c.ID())
		if !ok || create.Pid != pid || create.Bundle != e.Daemon.Bundle(e.Namespace, c.ID()) || len(create.Rootfs) == 0 {
			t.Errorf("TaskCreate is %v, want pid %d, bundle and rootfs", create, pid)
		}
		if exit, ok := harness.Payload[*apievents.TaskExit](events, c.ID()); !ok || exit.ExitedAt == nil || exit.Pid == 0 {
			t.Errorf("TaskExit is %v, want a pid and a time", exit)
		}
	})
}

// However short a process lives, its exit comes after its start.
func TestExitNeverBeforeStart(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		events := e.Record(t)
		for range 10 {
			c := e.Start(t, harness.Args("true"))
			c.Wait(t)
			if err := c.Remove(); err != nil {
				t.Fatal(err)
			}
			events.Expect(t, c.ID(), "create", "start", "exit 0", "delete")
		}
	})
}

// The exits of execs that die with init come before init's.
func TestExecExitsBeforeInit(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		events := e.Record(t)
		c := e.Start(t, harness.Forever())
		var execs []*harness.Process
		for range 5 {
			p := c.NewExec(t, nil, []string{"sleep", "1000"})
			if err := p.Start(e.Context); err != nil {
				t.Fatal(err)
			}
			execs = append(execs, p)
		}
		c.Stop(t)
		got := events.Await(t, c.ID(), "exit 137")
		if last := got[len(got)-1]; last != "exit 137" {
			t.Errorf("%q came after init's exit", last)
		}
		text := strings.Join(got, "\n")
		for _, p := range execs {
			if !strings.Contains(text, "exit "+p.ID()+" 137") {
				t.Errorf("no exit of exec %s before init's:\n%s", p.ID(), text)
			}
		}
	})
}

func TestStates(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Create(t, harness.Forever())
		expect := func(want containerd.ProcessStatus) {
			t.Helper()
			status, err := c.Task.Status(e.Context)
			if err != nil {
				t.Fatal(err)
			}
			if status.Status != want {
				t.Errorf("state %s, want %s", status.Status, want)
			}
		}
		expect(containerd.Created)
		if pid := c.Task.Pid(); !harness.Alive(int(pid)) {
			t.Errorf("pid %d of the created task is no process", pid)
		}
		if err := c.Task.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		expect(containerd.Running)
		if err := c.Task.Start(e.Context); err == nil {
			t.Error("a second start succeeded")
		}
		if _, err := c.Task.Delete(e.Context); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("delete of a running task: %v, want FailedPrecondition", err)
		}
		c.Stop(t)
		expect(containerd.Stopped)
		status, err := c.Task.Delete(e.Context)
		if err != nil {
			t.Fatal(err)
		}
		if status.ExitCode() != 137 || status.ExitTime().IsZero() {
			t.Errorf("delete says status %d at %s", status.ExitCode(), status.ExitTime())
		}
		if _, err := c.Task.Delete(e.Context); !errdefs.IsNotFound(err) {
			t.Errorf("second delete: %v, want NotFound", err)
		}
		if _, err := c.Task.Status(e.Context); !errdefs.IsNotFound(err) {
			t.Errorf("state after delete: %v, want NotFound", err)
		}
	})
}

// A task that was never started is killed and deleted like any other.
func TestKillCreated(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		events := e.Record(t)
		c := e.Create(t, harness.Forever())
		if got := c.Stop(t); got.Status != 137 {
			t.Errorf("status %d, want 137", got.Status)
		}
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		events.Expect(t, c.ID(), "create", "exit 137", "delete")
	})
}

// The init of a created task is parked: nothing of the user's has run.
func TestCreatedRunsNothing(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Create(t, harness.Shell("echo ran"))
		if out := c.Stdout.String(); out != "" {
			t.Errorf("output before start: %q", out)
		}
		if err := c.Task.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		if got := c.Wait(t); got.Stdout != "ran\n" {
			t.Errorf("output %q", got.Stdout)
		}
	})
}

// Wait may be called any number of times, before and after the exit.
func TestWait(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		early, err := c.Task.Wait(e.Context)
		if err != nil {
			t.Fatal(err)
		}
		c.Stop(t)
		late, err := c.Task.Wait(e.Context)
		if err != nil {
			t.Fatal(err)
		}
		before, after := harness.Soon(t, "the early wait", early), harness.Soon(t, "the late wait", late)
		if before.ExitCode() != 137 || after.ExitCode() != 137 {
			t.Errorf("status %d before and %d after the exit, want 137", before.ExitCode(), after.ExitCode())
		}
		if !before.ExitTime().Equal(after.ExitTime()) {
			t.Errorf("exit at %s for one waiter and %s for the other", before.ExitTime(), after.ExitTime())
		}
	})
}
