package container

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestTypicalSpec: a field that the specification does not have would teach nothing.
func TestTypicalSpec(t *testing.T) {
	decoder := json.NewDecoder(strings.NewReader(typicalSpec))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(new(specs.Spec)); err != nil {
		t.Error(err)
	}
}

// waiter is what the test binary is called when it is a monitor in waiting.
const waiter = "waiter"

func init() {
	if os.Args[0] == waiter {
		const socket = 3
		_, _ = unix.Read(socket, make([]byte, 1))
		os.Exit(0)
	}
}

// TestSpare: a spare that nobody takes serves the next.
func TestSpare(t *testing.T) {
	self, err := openProgram("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	programs := &Programs{Monitor: Executable{Path: waiter, file: self}}
	ready := func() *spare {
		s := &spare{ready: make(chan struct{})}
		s.monitor, s.err = spawnMonitor(programs)
		if s.err != nil {
			t.Fatal(s.err)
		}
		close(s.ready)
		return s
	}
	defer func() { next.spare = nil }()

	first, second := ready(), ready()
	first.giveBack()
	if next.spare != first {
		t.Error("a spare that was given back is not the next")
	}
	pid := second.monitor.pid
	second.giveBack()
	if next.spare != first {
		t.Error("a second spare took the place of the first")
	}
	if taken := takeSpare(); taken != first || next.spare != nil {
		t.Error("the spare was not taken")
	}
	m, err := first.take(programs)
	if err != nil {
		t.Fatal(err)
	}
	first.giveBack()
	if next.spare != nil {
		t.Error("a spare that was taken was given back")
	}
	if m.pid == pid || m.exit.Pid != 0 {
		t.Errorf("monitor %d was handed out; the one that nobody wanted was %d", m.pid, pid)
	}

	// One that has died meanwhile is replaced.
	dead := ready()
	dead.monitor.close()
	if ref, err := refOf(dead.monitor.pid); err == nil {
		if err := ref.end(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	old := dead.monitor
	<-old.gone
	again, err := dead.take(programs)
	if err != nil || again.pid == old.pid {
		t.Errorf("a dead monitor was handed out: %v", err)
	}
	for _, live := range []*monitor{m, again} {
		if ref, err := refOf(live.pid); err == nil {
			_ = ref.end(t.Context())
		}
		live.close()
		<-live.gone
	}
}

// TestAbove: a program that is executed from a descriptor has one that no file of its child's takes the place of: the child has them
// from 0 on, and a shim that has closed its first files gives their numbers to what it opens next.
func TestAbove(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := above(null)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if fd := file.Fd(); fd < 10 || file.Name() != os.DevNull {
		t.Errorf("descriptor %d of %s", fd, file.Name())
	}
}
