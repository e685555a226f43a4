package task

import (
	"fmt"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestKillExited(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		c.Stop(t)
		if err := c.Task.Kill(e.Context, syscall.SIGTERM); !errdefs.IsNotFound(err) {
			t.Errorf("kill of an exited task: %v, want NotFound", err)
		}
	})
}

func TestKillDelivers(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Shell("trap 'exit 12' USR1; echo ready; while :; do sleep 1000 & wait $!; done"))
		c.Saw(t, "ready")
		if err := c.Task.Kill(e.Context, syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if got := c.Wait(t).Status; got != 12 {
			t.Errorf("status %d, want 12", got)
		}
	})
}

func TestKillAll(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Shell("sleep 1000 & sleep 1000 & wait"), harness.Spec(oci.WithHostNamespace(specs.PIDNamespace)))
		p := c.NewExec(t, nil, []string{"sleep", "1000"})
		if err := p.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		var members []int
		harness.Eventually(t, "processes of the container", func() error {
			if members = c.Members(t); len(members) < 4 {
				return fmt.Errorf("members %v", members)
			}
			return nil
		})
		if err := c.Task.Kill(e.Context, syscall.SIGKILL, containerd.WithKillAll); err != nil {
			t.Fatal(err)
		}
		if got := c.Wait(t).Status; got != 137 {
			t.Errorf("status %d, want 137", got)
		}
		if got := p.Wait(t).Status; got != 137 {
			t.Errorf("status of the exec %d, want 137", got)
		}
		harness.Gone(t, members...)
	})
}

// With a shared PID namespace the kernel does not end the container's processes with init: the
// runtime does.
func TestInitExitKillsTheRest(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Shell("sleep 1000 & echo $!; read line; exit 6"), harness.Spec(oci.WithHostNamespace(specs.PIDNamespace)))
		harness.Eventually(t, "exit", func() error {
			status, err := c.Task.Status(e.Context)
			if err == nil && status.Status != containerd.Stopped {
				err = fmt.Errorf("state %s", status.Status)
			}
			return err
		})
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
	})
}
