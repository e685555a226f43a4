package task

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestExecStatusAndOutput(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		for _, status := range []uint32{0, 3, 255} {
			got := c.Exec(t, []string{"sh", "-c", fmt.Sprintf("echo out; echo err >&2; exit %d", status)})
			if diff := cmp.Diff(harness.Result{Status: status, Stdout: "out\n", Stderr: "err\n"}, got); diff != "" {
				t.Errorf("exec (-want +got):\n%s", diff)
			}
		}
	})
}

func TestExecProcess(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		got := c.Exec(t, []string{"sh", "-c", "pwd; id -u; id -g; id -G; echo $COLOR"}, func(p *specs.Process) {
			p.Cwd = "/tmp"
			p.Env = append(p.Env, "COLOR=green")
			p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 2000}}
		})
		want := []string{"/tmp", "1000", "1000", "1000 2000", "green", ""}
		if diff := cmp.Diff(want, strings.Split(got.Stdout, "\n")); diff != "" {
			t.Errorf("(-want +got):\n%s%s", diff, got.Stderr)
		}
	})
}

// An exec has exactly the capabilities, limits and no_new_privs that its own process says.
func TestExecPrivileges(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		got := c.Exec(t, []string{"cat", "/proc/self/status", "/proc/self/limits"}, func(p *specs.Process) {
			chown := []string{"CAP_CHOWN"}
			p.Capabilities = &specs.LinuxCapabilities{Bounding: chown, Effective: chown, Permitted: chown}
			p.NoNewPrivileges = true
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 333, Hard: 444}}
		})
		status := harness.ParseStatus(got.Stdout)
		want := map[string]string{"CapInh": zero, "CapPrm": one, "CapEff": one, "CapBnd": one, "CapAmb": zero, "NoNewPrivs": "1"}
		for key, value := range want {
			if status[key] != value {
				t.Errorf("%s is %s, want %s", key, status[key], value)
			}
		}
		var limit []string
		for line := range strings.Lines(got.Stdout) {
			if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
				limit = strings.Fields(rest)
			}
		}
		if diff := cmp.Diff([]string{"333", "444", "files"}, limit); diff != "" {
			t.Errorf("open files (-want +got):\n%s", diff)
		}
	})
}

// What /proc/<pid>/status says for no capability and for CAP_CHOWN alone.
const (
	zero = "0000000000000000"
	one  = "0000000000000001"
)

func TestExecProgramCannotRun(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		for program, want := range map[string]string{
			"/no/such/program": "no such file or directory",
			"/etc/passwd":      "permission denied",
		} {
			p := c.NewExec(t, nil, []string{program})
			err := p.Start(e.Context)
			if err == nil || !strings.Contains(err.Error(), program) || !strings.Contains(strings.ToLower(err.Error()), want) {
				t.Errorf("start of %s: %v, want an error with %q", program, err, want)
			}
			if _, err := p.Delete(e.Context); err != nil {
				t.Errorf("delete of an exec that failed to start: %v", err)
			}
		}
		if got := c.Sh(t, "echo well"); got != "well\n" {
			t.Errorf("a later exec printed %q", got)
		}
	})
}

func TestExecIDs(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		p := c.NewExec(t, nil, []string{"true"})
		if _, err := c.Task.Exec(e.Context, p.ID(), c.ProcessSpec(t, []string{"true"}), cio.NullIO); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second exec of one id: %v, want AlreadyExists", err)
		}
		if err := p.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		p.Wait(t)
		if _, err := p.Delete(e.Context); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Status(e.Context); !errdefs.IsNotFound(err) {
			t.Errorf("state of a deleted exec: %v, want NotFound", err)
		}
		again, err := c.Task.Exec(e.Context, p.ID(), c.ProcessSpec(t, []string{"true"}), cio.NullIO)
		if err != nil {
			t.Fatalf("the id of a deleted exec again: %v", err)
		}
		if _, err := again.Delete(e.Context); err != nil {
			t.Errorf("delete of an exec that never started: %v", err)
		}
	})
}

func TestExecAfterInitExit(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		p := c.NewExec(t, nil, []string{"true"})
		c.Stop(t)
		if err := p.Start(e.Context); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("start of an exec after init's exit: %v, want FailedPrecondition", err)
		}
	})
}

func TestExecSignals(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGHUP} {
			p := c.NewExec(t, nil, []string{"sleep", "1000"})
			if err := p.Kill(e.Context, signal); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("kill of an exec that is not started: %v, want FailedPrecondition", err)
			}
			if err := p.Start(e.Context); err != nil {
				t.Fatal(err)
			}
			if err := p.Kill(e.Context, signal); err != nil {
				t.Fatal(err)
			}
			if got, want := p.Wait(t).Status, uint32(128+signal); got != want {
				t.Errorf("status %d after %s, want %d", got, signal, want)
			}
			if err := p.Kill(e.Context, signal); !errdefs.IsNotFound(err) {
				t.Errorf("kill of an exec that ended: %v, want NotFound", err)
			}
		}
	})
}

func TestExecConcurrently(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		var group sync.WaitGroup
		for i := range 20 {
			p := c.NewExec(t, nil, []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)})
			group.Go(func() {
				if err := p.Start(e.Context); err != nil {
					t.Errorf("exec %d: %v", i, err)
					return
				}
				status := <-p.Exited()
				if status.ExitCode() != uint32(i) {
					t.Errorf("exec %d: status %d (%v)", i, status.ExitCode(), status.Error())
				}
				p.IO().Wait()
				if _, err := p.Delete(e.Context); err != nil {
					t.Errorf("delete exec %d: %v", i, err)
				}
				if got, want := p.Stdout.String(), fmt.Sprintf("%d\n", i); got != want {
					t.Errorf("exec %d: output %q", i, got)
				}
			})
		}
		group.Wait()
	})
}

// An exec's own children are the container's processes: they outlive it, and init adopts them.
func TestExecLeavesChildren(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		got := c.Exec(t, []string{"sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"})
		if got.Status != 0 {
			t.Fatalf("got %+v", got)
		}
		child := strings.TrimSpace(got.Stdout)
		if parent := strings.TrimSpace(c.Sh(t, "awk '/^PPid/ { print $2 }' /proc/"+child+"/status")); parent != "1" && parent != "0" {
			t.Errorf("the parent of the exec's child is %s, want init", parent)
		}
		if len(c.Members(t)) < 2 {
			t.Error("the exec's child is not in the container's control group")
		}
	})
}

// Pids lists every process of the container, with the exec's id for those containerd started.
func TestPids(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		p := c.NewExec(t, nil, []string{"sh", "-c", "sleep 1000 & wait"})
		if err := p.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, "all processes of the container", func() error {
			pids := c.Pids(e.Context, t)
			if id, ok := pids[c.Task.Pid()]; !ok || id != "" {
				return fmt.Errorf("init %d is missing or has an exec id: %v", c.Task.Pid(), pids)
			}
			if pids[p.Pid()] != p.ID() {
				return fmt.Errorf("process %d of exec %s is not so named: %v", p.Pid(), p.ID(), pids)
			}
			if len(pids) < 4 { // init, its sleep, the exec, its sleep
				return fmt.Errorf("processes are missing: %v", pids)
			}
			return nil
		})
	})
}
