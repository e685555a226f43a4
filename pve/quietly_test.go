package pve

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

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
