package program

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func script(text string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Env: []string{"PATH=/bin", "A=b c"}}
}

func TestOCIHook(t *testing.T) {
	root := newRoot(t)
	state := strings.Repeat(`{"id":"x"}`, 20000) // more than a pipe holds
	got := output(t, options{}, root, "cat /tmp/out", func(b *Builder) {
		h := script(`cat >/tmp/state; echo "$0 $1 [$A] $(env | grep -c .)" >/tmp/out; ls /proc/self/fd >>/tmp/out; echo noise; sleep 1000 & true`)
		h.Args = append(h.Args, "zero", "one two")
		b.RunHook(h, []byte(state))
		b.RunHook(specs.Hook{Path: "/bin/true"}, nil)
	})
	// 3 is ls's own; the subshell sets no variables but PWD, SHLVL and the like.
	if !strings.HasPrefix(got, "zero one two [b c] ") || !strings.HasSuffix(got, "\n0\n1\n2\n3") {
		t.Errorf("got %q", got)
	}
	if b, err := os.ReadFile(root + "/tmp/state"); err != nil || string(b) != state {
		t.Errorf("state has %d bytes, %v; want %d", len(b), err, len(state))
	}
	one := 1
	for name, c := range map[string]struct {
		hook  specs.Hook
		errno syscall.Errno
		text  string
	}{
		"status":    {script("echo out; echo broken >&2; exit 3"), 0, "exit status 3: out\nbroken"},
		"signal":    {script("kill -9 $$"), 0, "signal 9"},
		"missing":   {specs.Hook{Path: "/bin/missing"}, 0, "exit status 127: No such file or directory"},
		"timeout":   {specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "echo slow; sleep 1000"}, Env: []string{"PATH=/bin"}, Timeout: &one}, unix.ETIMEDOUT, "more than 1 s: slow"},
		"long tail": {script("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 1"), 0, "line 2999"},
		"binary":    {script(`printf 'a\000\377b'; exit 1`), 0, "a \uFFFDb"},
	} {
		t.Run(name, func(t *testing.T) {
			err := initError(t, options{}, root, func(b *Builder) { b.For("hooks.startContainer[0]").RunHook(c.hook, nil) })
			if err.Errno != c.errno || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Op, "(hooks.startContainer[0])") {
				t.Errorf("got %v (%d), want %q", err, err.Errno, c.text)
			}
		})
	}
}

func TestHookTimeoutKillsTheGroup(t *testing.T) {
	needRoot(t)
	one := 1
	marker := t.TempDir() + "/marker"
	h := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "echo $$ > " + marker + "; sleep 1000 & echo $! >> " + marker + "; wait"}, Env: []string{"PATH=/bin"}, Timeout: &one}
	// In the host's pid namespace, where nobody else would kill them.
	r := start(t, options{}, false, initBinary(t), []string{"hook", "3"})
	err := opError(t, r, func(b *Builder) { b.RunHook(h, nil) })
	if !errors.Is(err, unix.ETIMEDOUT) {
		t.Fatal(err)
	}
	b, rerr := os.ReadFile(marker)
	if rerr != nil {
		t.Fatal(rerr)
	}
	for _, pid := range strings.Fields(string(b)) {
		gone := false
		for end := time.Now().Add(patience); !gone && time.Now().Before(end); time.Sleep(time.Millisecond) {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", pid))
			gone = err != nil || strings.Contains(string(stat), ") Z ")
		}
		if !gone {
			t.Errorf("process %s of the hook survived", pid)
		}
	}
}

func TestShimGone(t *testing.T) {
	for name, setup := range map[string]func(*Builder){
		"parked":  func(b *Builder) { b.Sync(SyncCreated) },
		"in hook": func(b *Builder) { b.Sync(SyncCreated); b.RunHook(script("sleep 1000"), nil) },
	} {
		r := startInit(t, options{}, newRoot(t))
		b := new(Builder)
		setup(b)
		r.send(program(t, b))
		if m := r.recv(); m.Type != MsgSync {
			t.Fatalf("got %+v", m)
		}
		if name == "in hook" {
			if err := r.conn.Send(t.Context(), MsgGo, 0); err != nil {
				t.Fatal(err)
			}
		}
		r.conn.Close()
		_ = r.wait()
		if code := r.cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("%s: exit status %d, want 1", name, code)
		}
	}
}
