package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/reaper"
)

// openPTY makes a pty whose slave is raw enough to compare output.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs /dev/ptmx: %v", err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	state, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	state.Oflag &^= unix.OPOST
	state.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, state); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func startOnTerminal(t *testing.T, streams *IO, master, slave *os.File, script string) <-chan reaper.Exit {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	exits, err := reaper.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	if err := streams.Console(master); err != nil {
		t.Fatal(err)
	}
	gone := make(chan reaper.Exit, 1)
	go func() {
		exit := <-exits
		_ = reaper.Release(cmd)
		streams.Exited()
		gone <- exit
	}()
	return gone
}

func TestConsole(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	config.Terminal = true
	stdout := collect(t, config.Stdout)
	streams := open(t, config)
	if child := streams.Child(); child.Stdin == nil || child.Stdin != child.Stdout || child.Stdin != child.Stderr {
		t.Errorf("a process on a terminal was given %v, not the null device", child)
	}
	if err := streams.Resize(1, 1); err != nil {
		t.Errorf("resize without a terminal: %v", err)
	}
	master, slave := openPTY(t)
	gone := startOnTerminal(t, streams, master, slave, "read line; stty size; echo \"got $line\"; head -c 100000 /dev/zero | tr '\\0' x; exit 4")
	if err := streams.Resize(120, 40); err != nil {
		t.Error(err)
	}
	writer, err := os.OpenFile(config.Stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(writer, "hello\n")
	_ = writer.Close()
	if exit := await(t, gone); exit.Code() != 4 {
		t.Errorf("exit status %d", exit.Code())
	}
	want := "40 120\ngot hello\n" + strings.Repeat("x", 100_000)
	if got := stdout(); got != want {
		t.Errorf("output of %d bytes, want %d: %.60q", len(got), len(want), got)
	}
	if err := streams.Resize(1, 1); err != nil {
		t.Errorf("resize after the exit: %v", err)
	}
	drain(t, streams)
}

// TestConsoleIsOpenedAgain: a master's EIO between two users of a terminal is not the end of the output.
func TestConsoleIsOpenedAgain(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	config.Terminal = true
	stdout := collect(t, config.Stdout)
	streams := open(t, config)
	master, slave := openPTY(t)
	name := slave.Name()
	if err := streams.Console(master); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(slave, "one ")
	_ = slave.Close()
	for _, word := range []string{"two ", "three"} {
		time.Sleep(20 * time.Millisecond) // lets the reader meet the EIO; without it the test is only weaker
		again, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(again, word)
		_ = again.Close()
	}
	drain(t, streams)
	if got := stdout(); got != "one two three" {
		t.Errorf("output %q", got)
	}
}

// TestConsoleAfterExit: the process may be gone before its master arrives.
func TestConsoleAfterExit(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	config.Terminal = true
	stdout := collect(t, config.Stdout)
	streams := open(t, config)
	master, slave := openPTY(t)
	_, _ = io.WriteString(slave, "last words")
	_ = slave.Close()
	streams.Exited()
	if err := streams.Console(master); err != nil {
		t.Fatal(err)
	}
	if got := stdout(); got != "last words" {
		t.Errorf("output %q", got)
	}
}

func TestConsoleToLogger(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	streams := open(t, Config{ID: "c1", Namespace: "ns", Terminal: true, Stdout: loggerURI(t, "binary", "run", dir)})
	master, slave := openPTY(t)
	await(t, startOnTerminal(t, streams, master, slave, "echo out; echo err >&2"))
	drain(t, streams)
	if data, err := os.ReadFile(filepath.Join(dir, "stdout")); err != nil || string(data) != "out\nerr\n" {
		t.Errorf("logged %q, %v", data, err)
	}
}

func TestConsoleOfClosedStreams(t *testing.T) {
	noLeaks(t)
	config := fifos(t)
	config.Terminal = true
	streams := open(t, config)
	streams.Close()
	master, slave := openPTY(t)
	defer slave.Close()
	if err := streams.Console(master); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("error %v", err)
	}
}
