package task

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestTerminal(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		in, keyboard := io.Pipe()
		defer keyboard.Close()
		c := e.Start(t, harness.TTY(), harness.Stdin(in), harness.Spec(oci.WithTTYSize(91, 17)),
			harness.Shell("tty; stty size; ls -l /dev/console; while read line; do test $line = size && stty size; test $line = end && exit 5; done"))
		c.Saw(t, "/dev/pts/0")
		c.Saw(t, "17 91")
		c.Saw(t, "/dev/console")
		if err := c.Task.Resize(e.Context, 123, 45); err != nil {
			t.Fatal(err)
		}
		io.WriteString(keyboard, "size\n")
		c.Saw(t, "45 123")
		io.WriteString(keyboard, "end\n")
		if got := c.Wait(t).Status; got != 5 {
			t.Errorf("status %d, want 5", got)
		}
	})
}

// The terminal is the controlling one: Ctrl-C interrupts what runs in the foreground.
func TestTerminalInterrupt(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		in, keyboard := io.Pipe()
		defer keyboard.Close()
		c := e.Start(t, harness.TTY(), harness.Stdin(in), harness.Shell("trap 'exit 33' INT; echo ready; while :; do sleep 1; done"))
		c.Saw(t, "ready")
		io.WriteString(keyboard, "\x03")
		if got := c.Wait(t).Status; got != 33 {
			t.Errorf("status %d, want 33", got)
		}
	})
}

// A user without privileges may open the terminal that is his.
func TestTerminalOfUser(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, harness.TTY(), harness.Spec(oci.WithUIDGID(1000, 1000)), harness.Shell("echo opened >$(tty); id -u"))
		if got.Status != 0 || !strings.Contains(got.Stdout, "opened") || !strings.Contains(got.Stdout, "1000") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestExecTerminal(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		in, keyboard := io.Pipe()
		defer keyboard.Close()
		p := c.NewExec(t, in, []string{"sh", "-c", "tty; stty size; read line; stty size; exit 6"}, func(p *specs.Process) {
			p.Terminal = true
			p.ConsoleSize = &specs.Box{Width: 77, Height: 11}
		})
		if err := p.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		see := func(text string) {
			t.Helper()
			harness.Eventually(t, "output of the exec", func() error {
				if out := p.Stdout.String(); !strings.Contains(out, text) {
					return fmt.Errorf("no %q in %q", text, out)
				}
				return nil
			})
		}
		see("/dev/pts/")
		see("11 77")
		if err := p.Resize(e.Context, 88, 22); err != nil {
			t.Fatal(err)
		}
		io.WriteString(keyboard, "go\n")
		see("22 88")
		if got := p.Wait(t).Status; got != 6 {
			t.Errorf("status %d, want 6", got)
		}
	})
}

func TestResizeWithoutTerminal(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		if err := c.Task.Resize(e.Context, 80, 24); err != nil {
			t.Error(err)
		}
	})
}

// Every terminal is given back: the shim does not keep masters of processes that are gone.
func TestTerminalsAreClosed(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		shim := c.Shim(t)
		terminal := func(p *specs.Process) { p.Terminal = true }
		c.Exec(t, []string{"true"}, terminal) // the first one may open what stays open
		before := len(harness.OpenFiles(shim))
		for range 5 {
			c.Exec(t, []string{"true"}, terminal)
			c.Exec(t, []string{"true"})
		}
		harness.Eventually(t, "the shim's descriptors", func() error {
			if files := harness.OpenFiles(shim); len(files) > before {
				return fmt.Errorf("%d were open before, now %d: %v", before, len(files), files)
			}
			return nil
		})
	})
}
