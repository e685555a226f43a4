package container

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/reaper"
)

// fork starts a child of which the reaper knows nothing, as a helper forks one for the shim.
func fork(t *testing.T, script string) int {
	t.Helper()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func receiveExit(t *testing.T, exits <-chan reaper.Exit) reaper.Exit {
	t.Helper()
	select {
	case e := <-exits:
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no exit was delivered")
		return reaper.Exit{}
	}
}

// A process that has ended before its pid is known has that pid all the same, in its events and for whoever signals it.
func TestAdoptTheDead(t *testing.T) {
	defer reaper.Expect()()
	pid := fork(t, "exit 5")
	for end := time.Now().Add(30 * time.Second); !errors.Is(unix.Kill(pid, 0), unix.ESRCH); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the child is not collected")
		}
	}
	// The pid is gone a moment before its exit is kept.
	reaper.Hold()()
	exits, fd, err := adopt(pid)
	if err != nil || fd != nil {
		t.Fatalf("adopt the dead: %v, %v; want neither", fd, err)
	}
	p := newProcess("c", "e", os.DevNull, Stdio{})
	p.setLive(pid, fd)
	if err := p.signal(syscall.SIGKILL); err == nil || err.Error() != "exec e of container c: process already finished: not found" {
		t.Errorf("signal to the dead: %v", err)
	}
	e := receiveExit(t, exits)
	p.setExited(Exit{Status: e.Code(), At: e.At}, func(e Exit) {
		if e.Pid != pid || e.Status != 5 {
			t.Errorf("exit of pid %d with status %d, want %d with 5", e.Pid, e.Status, pid)
		}
	})
}

// One that ends while it is adopted, or later, is referred to.
func TestAdoptTheLiving(t *testing.T) {
	defer reaper.Expect()()
	for range 50 {
		pid := fork(t, "exit 6")
		exits, fd, err := adopt(pid)
		if err != nil {
			t.Fatal(err)
		}
		if e := receiveExit(t, exits); e.Pid != pid || e.Code() != 6 {
			t.Errorf("exit %+v of %d", e, pid)
		}
		if fd != nil {
			fd.Close()
		}
	}
}
