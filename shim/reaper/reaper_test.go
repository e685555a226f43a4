package reaper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 30 * time.Second

func receive(t *testing.T, exits <-chan Exit) Exit {
	t.Helper()
	select {
	case exit := <-exits:
		return exit
	case <-time.After(patience):
		t.Fatal("no exit was delivered")
		return Exit{}
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestStartDeliversExitsOfShortLivedChildren(t *testing.T) {
	_, _ = Run(t.Context(), exec.Command("true")) // opens what the runtime keeps
	before := openFDs(t)
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			cmd := exec.Command("sh", "-c", "exit "+strconv.Itoa(i))
			exits, err := Start(cmd)
			if err != nil {
				t.Error(err)
				return
			}
			pid := cmd.Process.Pid
			exit := receive(t, exits)
			if exit.Pid != pid || exit.Code() != uint32(i) {
				t.Errorf("exit %+v of pid %d, want status %d", exit, pid, i)
			}
			if exit.At.IsZero() {
				t.Error("exit without a time")
			}
			if err := Release(cmd); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if after := openFDs(t); after > before {
		t.Errorf("%d fds open, %d before", after, before)
	}
}

func TestCodeOfSignal(t *testing.T) {
	exit, err := Run(t.Context(), exec.Command("sh", "-c", "kill -9 $$"))
	if err != nil {
		t.Fatal(err)
	}
	if exit.Code() != 128+9 {
		t.Errorf("code %d, want 137", exit.Code())
	}
}

func TestStartOfMissingProgram(t *testing.T) {
	if _, err := Start(exec.Command("/nonexistent/program")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want one that wraps ErrNotExist", err)
	}
}

func TestRunCollectsOutput(t *testing.T) {
	var output bytes.Buffer
	cmd := exec.Command("sh", "-c", "echo out; echo err >&2; exit 3")
	cmd.Stdout, cmd.Stderr = &output, &output
	exit, err := Run(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if exit.Code() != 3 || output.String() != "out\nerr\n" {
		t.Errorf("code %d, output %q", exit.Code(), output.String())
	}
}

func TestRunKillsAtDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var output bytes.Buffer
	cmd := exec.Command("sh", "-c", "sleep 1000 & wait")
	cmd.Stdout = &output // the grandchild keeps the pipe open
	cmd.WaitDelay = 10 * time.Millisecond
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	exit, err := Run(ctx, cmd)
	defer func() { _ = unix.Kill(-exit.Pid, unix.SIGKILL) }()
	if !errors.Is(err, context.DeadlineExceeded) || exit.Code() != 137 {
		t.Errorf("exit %+v, error %v", exit, err)
	}
}

// TestWatchOfSibling covers the two orders of a child's death and its watcher: the pid of a child we did not start ourselves becomes
// known while it lives, and after it was collected.
func TestWatchOfSibling(t *testing.T) {
	if err := SetSubreaper(); err != nil {
		t.Fatal(err)
	}
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprintf("dead=%v", early), func(t *testing.T) {
			done := Expect()
			defer done()
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			// The background shell is orphaned, hence ours, when its parent exits. It lives until the pipe's reader sends EOF.
			cmd := exec.Command("sh", "-c", `exec 9<&0; (read line <&9; exit 42) & echo $!`)
			cmd.Stdin = reader
			var output bytes.Buffer
			cmd.Stdout = &output
			cmd.WaitDelay = time.Millisecond // the orphan holds stdout open
			if _, err := Run(t.Context(), cmd); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(output.String()))
			if err != nil {
				t.Fatal(err)
			}
			var exits <-chan Exit
			if early {
				writer.Close()
				for deadline := time.Now().Add(patience); !isKept(pid); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("the unknown child's exit was not kept")
					}
				}
				exits = Watch(pid)
			} else {
				exits = Watch(pid)
				writer.Close()
			}
			if exit := receive(t, exits); exit.Pid != pid || exit.Code() != 42 {
				t.Errorf("exit %+v, want status 42 of pid %d", exit, pid)
			}
			if isKept(pid) {
				t.Error("a delivered exit is still kept")
			}
		})
	}
}

func isKept(pid int) bool {
	mu.Lock()
	defer mu.Unlock()
	_, ok := kept[pid]
	return ok
}

func TestExpectForgetsWithLastWindow(t *testing.T) {
	first, second := Expect(), Expect()
	deliver(Exit{Pid: 1 << 30})
	first()
	first() // idempotent: must not close the second window
	if !isKept(1 << 30) {
		t.Error("the exit was forgotten while a window was open")
	}
	second()
	if isKept(1 << 30) {
		t.Error("the exit was kept after the last window closed")
	}
	deliver(Exit{Pid: 1 << 30})
	if isKept(1 << 30) {
		t.Error("an exit was kept outside of a window")
	}
}
