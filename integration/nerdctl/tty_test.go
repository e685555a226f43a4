package nerdctl

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

// terminal is nerdctl on a terminal.
type terminal struct {
	screen   harness.Buffer
	keyboard io.Writer
	resize   func(rows, columns uint16)
	ended    chan error
}

func (n *cli) terminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	cmd := n.command(args...)
	cmd.WaitDelay = 0 // its streams are the terminal's
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 17, Cols: 91})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	s := &terminal{keyboard: master, ended: make(chan error, 1)}
	s.resize = func(rows, columns uint16) {
		if err := pty.Setsize(master, &pty.Winsize{Rows: rows, Cols: columns}); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGWINCH); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		_, _ = io.Copy(&s.screen, master) // ends with EIO when nobody has the terminal open
		s.ended <- cmd.Wait()
	}()
	return s
}

func (s *terminal) sees(t *testing.T, text string) {
	t.Helper()
	harness.Eventually(t, "screen", func() error {
		if got := s.screen.String(); !strings.Contains(got, text) {
			return fmt.Errorf("no %q in %q", text, got)
		}
		return nil
	})
}

func (s *terminal) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(s.keyboard, keys); err != nil {
		t.Fatal(err)
	}
}

func (s *terminal) status(t *testing.T) int {
	t.Helper()
	err := harness.Soon(t, "end of nerdctl on a terminal", s.ended)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func TestRunTerminal(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		s := n.terminal(t, n.runArgs("--rm", "-it", "--net", "none", image.Busybox, "sh", "-c", "tty; echo PS$((1 + 1)); exec sh")...)
		s.sees(t, "/dev/pts/0")
		s.sees(t, "PS2")
		// The size arrives some time after the start, and a new one some time after the signal.
		s.types(t, "until stty size | grep '17 91'; do sleep 0.05; done\n")
		s.sees(t, "\r\n17 91")
		s.resize(23, 77)
		s.types(t, "until stty size | grep '23 77'; do sleep 0.05; done\n")
		s.sees(t, "\r\n23 77")
		s.types(t, `sh -c 'trap "echo inter$((1))rupted; exit" INT; echo wai$((1))ting; while :; do sleep 1; done'`+"\n")
		s.sees(t, "wai1ting")
		s.types(t, "\x03")
		s.sees(t, "inter1rupted")
		s.types(t, "echo ali$((2))ve\n")
		s.sees(t, "ali2ve")
		s.types(t, "exit 5\n")
		if got := s.status(t); got != 5 {
			t.Errorf("status %d, want 5; screen %q", got, s.screen.String())
		}
	})
}

func TestExecTerminal(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t)
		s := n.terminal(t, "exec", "-it", name, "sh")
		s.types(t, "stty size; echo rea$((1))dy\n")
		s.sees(t, "17 91")
		s.sees(t, "rea1dy")
		s.types(t, "\x04") // end of input ends the shell
		if got := s.status(t); got != 0 {
			t.Errorf("status %d, want 0; screen %q", got, s.screen.String())
		}
	})
}

// Detaching leaves the container running; attaching again shows it.
func TestDetachAndAttach(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.name(t)
		s := n.terminal(t, n.runArgs("-it", "--name", name, "--net", "none", image.Busybox, "sh", "-c", "echo start; while read line; do echo got $line; test $line = end && exit 6; done")...)
		s.sees(t, "start")
		s.types(t, "one\n")
		s.sees(t, "got one")
		s.types(t, "\x10\x11") // ctrl-p ctrl-q
		if got := s.status(t); got != 0 {
			t.Errorf("detaching ended with %d", got)
		}
		n.becomes(t, name, ".State.Status", "running")
		s = n.terminal(t, "attach", name)
		s.types(t, "two\n")
		s.sees(t, "got two")
		s.types(t, "end\n")
		if got := s.status(t); got != 6 {
			t.Errorf("status %d, want 6; screen %q", got, s.screen.String())
		}
	})
}

// A terminal without anybody at it: its output is in the log.
func TestDetachedTerminal(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, "tty; test -t 1 && echo terminal; "+forever, "--net", "none", "-t")
		n.logs(t, name, "/dev/pts/0")
		n.logs(t, name, "terminal")
		n.ok(t, "stop", name)
	})
}
