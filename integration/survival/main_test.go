// Package survival tests what is left when the shim, the monitor or containerd dies: nothing, and
// the exit status where there was one.
package survival

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// stopped waits until containerd says that the task is stopped, or knows it no more.
func stopped(t *testing.T, e *harness.Env, c *harness.Container) {
	t.Helper()
	harness.Eventually(t, "the end of "+c.ID(), func() error {
		task, err := c.Container.Task(e.Context, nil)
		if err != nil {
			return nil //nolint:nilerr // no task is as good as a stopped one
		}
		status, err := task.Status(e.Context)
		if err != nil {
			return fmt.Errorf("state: %w", err)
		}
		if status.Status != containerd.Stopped {
			return fmt.Errorf("state %s", status.Status)
		}
		return nil
	})
}

// settle runs the next container, which works, and whose shim ends the registrations of containers
// that are gone, and half-written ones.
func settle(t *testing.T, e *harness.Env) {
	t.Helper()
	harness.Reconcile()
	next := e.Start(t, harness.Forever())
	if got := next.Sh(t, "echo well"); got != "well\n" {
		t.Errorf("an exec in the next container printed %q", got)
	}
	harness.Eventually(t, "the registrations", func() error {
		containers, err := e.Daemon.Client.Containers(e.Context)
		if err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(harness.Registrations(), "nodes", "*", "lxc", "*"))
		if err == nil && len(files) > len(containers) {
			err = fmt.Errorf("%d containers, registered %q", len(containers), files)
		}
		return err
	})
	if err := next.Remove(); err != nil {
		t.Error(err)
	}
}

// kill sends SIGKILL.
func kill(t *testing.T, pid int) {
	t.Helper()
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// load finds the task again after a restart of containerd.
func load(ctx context.Context, t *testing.T, c *harness.Container) (containerd.Task, <-chan containerd.ExitStatus) {
	t.Helper()
	task, err := c.Container.Task(ctx, cio.Load)
	if err != nil {
		t.Fatalf("load the task: %v", err)
	}
	exited, err := task.Wait(ctx)
	if err != nil {
		t.Fatalf("wait for the task: %v", err)
	}
	return task, exited
}
