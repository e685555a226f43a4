package pve

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoteThatEnded: who opened a note that its keeper has taken away meanwhile keeps none, and knows of no outage.
func TestNoteThatEnded(t *testing.T) {
	o := outage{note: filepath.Join(t.TempDir(), "away"), root: t.TempDir()}
	fd, err := open(o.note, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.note); err != nil {
		t.Fatal(err)
	}
	if over, err := o.watch(fd); over != nil || err != nil {
		t.Errorf("it is watched (%v), or known: %v", over != nil, err)
	}
}

// TestQuietly: the kernel can choose the thread for no signal of the process, and can again afterwards.
func TestQuietly(t *testing.T) {
	blocked := func() string {
		data, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(data), "SigBlk:\t")
		mask, _, _ := strings.Cut(after, "\n")
		return mask
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := blocked()
	during := ""
	quietly(func() { during = blocked() })
	// SIGHUP 1, SIGINT 2, SIGQUIT 3, SIGUSR1 10, SIGUSR2 12, SIGPIPE 13, SIGTERM 15, SIGCHLD 17: bits from 0.
	if want := "0000000000015a07"; during != want || before != "0000000000000000" || blocked() != before {
		t.Errorf("blocked %s, then %s, then %s; want %s between two of none", before, during, blocked(), want)
	}
}
