package survival

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// moments is how many points of an operation are tried, spread evenly over the time it takes.
const moments = 6

// operation is something that takes time and may be hit at any instruction.
type operation struct {
	name string
	// prepare returns the operation itself. Its error does not matter: it may succeed or fail.
	prepare func(t *testing.T, e *harness.Env) (run func())
}

var operations = []operation{
	{"create", func(t *testing.T, e *harness.Env) func() {
		return func() { _, _ = e.TryCreate(t, harness.Forever()) }
	}},
	{"start", func(t *testing.T, e *harness.Env) func() {
		c := e.Create(t, harness.Forever())
		return func() { _ = c.Task.Start(e.Context) }
	}},
	{"exec", func(t *testing.T, e *harness.Env) func() {
		c := e.Start(t, harness.Forever())
		return func() {
			p, err := c.Task.Exec(e.Context, e.NewID(), c.ProcessSpec(t, []string{"sleep", "1000"}), cio.NullIO)
			if err == nil {
				_ = p.Start(e.Context)
			}
		}
	}},
	{"delete", func(t *testing.T, e *harness.Env) func() {
		c := e.Start(t, harness.Forever())
		return func() { _ = c.Remove() }
	}},
}

// victim are processes to kill: of a program, and with this last argument where one is given.
type victim struct{ name, program, argument string }

var victims = []victim{
	{"shim", "pvelxc-shim", "serve"},
	{"start", "containerd-shim-pvelxc-v2", "start"},
	{"monitor", "pvelxc-monitor", ""},
	{"init", "pvelxc-init", ""},
}

// A shim, monitor or init that is killed at any moment of an operation leaves nothing behind once
// containerd has cleaned up, and the next container works.
func TestKilledAtAnyMoment(t *testing.T) {
	for _, o := range operations {
		for _, v := range victims {
			if v.name == "start" && o.name != "create" {
				continue
			}
			t.Run(o.name+"/"+v.name, func(t *testing.T) {
				takes := duration(t, o)
				for i := range moments {
					t.Run(fmt.Sprint(i), func(t *testing.T) { hit(t, o, v, takes*time.Duration(i)/moments) })
				}
			})
		}
	}
}

// duration is how long the operation takes undisturbed.
func duration(t *testing.T, o operation) (takes time.Duration) {
	t.Helper()
	t.Run("undisturbed", func(t *testing.T) {
		run := o.prepare(t, harness.On(t, harness.Pvelxc))
		start := time.Now()
		run()
		takes = time.Since(start)
	})
	return takes
}

func hit(t *testing.T, o operation, v victim, after time.Duration) {
	t.Helper()
	e := harness.On(t, harness.Pvelxc)
	run := o.prepare(t, e)
	done := make(chan struct{})
	go func() {
		defer close(done)
		run()
	}()
	<-time.After(after)
	for _, pid := range harness.Programs(v.program) {
		if v.argument == "" || harness.LastArgument(pid) == v.argument {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
		}
	}
	harness.Soon(t, o.name+" after the kill of the "+v.name, done)
	settle(t, e)
}
