package task

import (
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestExitStatus(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		for _, test := range []struct {
			script string
			want   uint32
		}{
			{"exit 0", 0},
			{"exit 7", 7},
			{"exit 255", 255},
			{"nosuchcommand", 127},
		} {
			if got := e.Run(t, harness.Shell(test.script)); got.Status != test.want {
				t.Errorf("%s: status %d, want %d", test.script, got.Status, test.want)
			}
		}
	})
}

// A program that cannot be run fails the create or the start with an error that names it.
func TestProgramCannotRun(t *testing.T) {
	for _, test := range []struct {
		name, program string
		want          []string // one of these
	}{
		{"absolute", "/no/such/program", []string{"no such file or directory"}},
		{"in PATH", "no-such-program", []string{"executable file not found in $PATH", "no such file or directory"}},
		{"not executable", "/etc/passwd", []string{"permission denied"}},
		{"directory", "/etc", []string{"permission denied", "is a directory"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				c, err := e.TryCreate(t, harness.Args(test.program))
				if err == nil {
					err = c.Task.Start(e.Context)
				}
				if err == nil {
					t.Fatal("it started")
				}
				text := strings.ToLower(err.Error())
				if !strings.Contains(text, test.program) {
					t.Errorf("the error does not name %s: %v", test.program, err)
				}
				for _, want := range test.want {
					if strings.Contains(text, strings.ToLower(want)) {
						return
					}
				}
				t.Errorf("the error is %q, want one of %q in it", err, test.want)
			})
		})
	}
}

func TestKilledInit(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		if got := e.Start(t, harness.Args("sleep", "1000")).Stop(t); got.Status != 137 {
			t.Errorf("status %d after SIGKILL, want 137", got.Status)
		}
	})
}

// In the host's PID namespace init has no protection from signals without a handler. SIGHUP is one
// that LXC takes for a request to reboot.
func TestKilledInitInHostPIDNamespace(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				c := e.Start(t, harness.Args("sleep", "1000"), harness.Spec(oci.WithHostNamespace(specs.PIDNamespace)))
				if err := c.Task.Kill(e.Context, signal); err != nil {
					t.Fatal(err)
				}
				if got, want := c.Wait(t).Status, uint32(128+signal); got != want {
					t.Errorf("status %d, want %d", got, want)
				}
			})
		})
	}
}

// A process that exits at once is reported as one that ran for long: with its status and output.
func TestShortLived(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		for range 10 {
			if got := e.Run(t, harness.Shell("echo out; echo err >&2; exit 3")); got != (harness.Result{Status: 3, Stdout: "out\n", Stderr: "err\n"}) {
				t.Fatalf("got %+v", got)
			}
		}
	})
}

func TestFromScratch(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, harness.FromScratch(), harness.Args("/busybox", "sh", "-c", "echo $$; exit 4"))
		if got != (harness.Result{Status: 4, Stdout: "1\n"}) {
			t.Errorf("got %+v", got)
		}
	})
}
