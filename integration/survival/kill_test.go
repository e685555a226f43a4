package survival

import (
	"testing"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// step is a moment in a container's life, at rest.
type step struct {
	name  string
	reach func(t *testing.T, e *harness.Env) *harness.Container
}

var steps = []step{
	{"created", func(t *testing.T, e *harness.Env) *harness.Container { return e.Create(t, harness.Forever()) }},
	{"running", func(t *testing.T, e *harness.Env) *harness.Container { return e.Start(t, harness.Forever()) }},
	{"executing", func(t *testing.T, e *harness.Env) *harness.Container {
		c := e.Start(t, harness.Forever())
		if err := c.NewExec(t, nil, []string{"sleep", "1000"}).Start(e.Context); err != nil {
			t.Fatal(err)
		}
		return c
	}},
	{"user", func(t *testing.T, e *harness.Env) *harness.Container { // no parent-death signal reaches it
		return e.Start(t, harness.Forever(), harness.User(1000))
	}},
	{"paused", func(t *testing.T, e *harness.Env) *harness.Container {
		c := e.Start(t, harness.Forever())
		if err := c.Task.Pause(e.Context); err != nil {
			t.Fatal(err)
		}
		return c
	}},
	{"stopped", func(t *testing.T, e *harness.Env) *harness.Container {
		c := e.Start(t, harness.Shell("exit 19"))
		c.Wait(t)
		return c
	}},
}

// The shim dies: containerd lets it clean up, reports an exit, and nothing is left.
func TestShimDies(t *testing.T) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				events := e.Record(t)
				c := s.reach(t, e)
				pid := int(c.Task.Pid())
				kill(t, c.Shim(t))
				stopped(t, e, c)
				harness.Gone(t, pid)
				if err := c.Remove(); err != nil {
					t.Error(err)
				}
				settle(t, e)
				harness.Eventually(t, "the exit event", func() error {
					if _, ok := harness.Payload[*apievents.TaskExit](events, c.ID()); !ok {
						return errdefs.ErrNotFound
					}
					return nil
				})
				exit, _ := harness.Payload[*apievents.TaskExit](events, c.ID())
				switch {
				case s.name == "created": // parked: it is killed, or sees first that nobody will start it
					if exit.ExitStatus == 0 {
						t.Error("exit status 0 of a program that never ran")
					}
				case s.name != "stopped":
					if exit.ExitStatus != 137 {
						t.Errorf("exit status %d, want 137", exit.ExitStatus)
					}
				case e.Runtime == harness.Pvelxc: // runc may have forgotten
					if exit.ExitStatus != 19 {
						t.Errorf("exit status %d, want 19", exit.ExitStatus)
					}
				}
			})
		})
	}
}

// The monitor dies: that is the end of the container, and the shim goes on.
func TestMonitorDies(t *testing.T) {
	for _, s := range steps {
		if s.name == "stopped" { // the monitor is gone
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			e := harness.On(t, harness.Pvelxc)
			c := s.reach(t, e)
			pid := int(c.Task.Pid())
			monitor := harness.Parent(t, pid)
			kill(t, monitor)
			if got := c.Wait(t).Status; got != 137 {
				t.Errorf("status %d, want 137", got)
			}
			if harness.Alive(pid) {
				t.Error("the exit was told while PID 1 lived")
			}
			harness.Gone(t, monitor)
			if err := c.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

// In a pod, the end of one monitor is the end of one container.
func TestMonitorDiesInPod(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	pod := e.NewID()
	pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever())
	app := e.Start(t, harness.Pod(pod, "container"), harness.Forever())
	kill(t, harness.Parent(t, int(app.Task.Pid())))
	if got := app.Wait(t).Status; got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	if got := pause.Sh(t, "echo well"); got != "well\n" {
		t.Errorf("exec in the sandbox printed %q", got)
	}
}
