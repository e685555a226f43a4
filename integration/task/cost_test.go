package task

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// executions counts what processes of the sandbox execute, by fanotify(7).
type executions struct {
	fd int
	t  *testing.T
}

// countExecutions watches the programs under test, and the shell that liblxc uses.
func countExecutions(t *testing.T) *executions {
	t.Helper()
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		t.Skipf("skipped: fanotify cannot be had here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	programs, err := filepath.Glob(filepath.Join(daemon.Bin(), "*pvelxc*"))
	if err != nil || len(programs) == 0 {
		t.Fatalf("no programs: %v", err)
	}
	for _, path := range append(programs, "/bin/sh") {
		if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_EXEC, unix.AT_FDCWD, path); err != nil {
			t.Skipf("skipped: fanotify does not tell of executions here: %v", err)
		}
	}
	return &executions{fd, t}
}

// since counts by program what was executed since the last call.
func (e *executions) since() map[string]int {
	e.t.Helper()
	count := make(map[string]int)
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(e.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			return count
		}
		if err != nil {
			e.t.Fatalf("read fanotify: %v", err)
		}
		// struct fanotify_event_metadata
		for at := buf[:n]; len(at) > 0; at = at[binary.NativeEndian.Uint32(at):] {
			fd, pid := int(int32(binary.NativeEndian.Uint32(at[16:]))), int32(binary.NativeEndian.Uint32(at[20:]))
			if fd < 0 {
				e.t.Fatal("fanotify's queue has overflown")
			}
			file := os.NewFile(uintptr(fd), "")
			if pid != 0 { // 0: of another PID namespace, where other tests run
				var st unix.Stat_t
				if err := unix.Fstat(fd, &st); err != nil {
					e.t.Fatal(err)
				}
				count[e.name(st.Ino)]++
			}
			_ = file.Close()
		}
	}
}

// name finds the program by its inode: what was executed from a detached mount has no path.
func (e *executions) name(inode uint64) string {
	programs, _ := filepath.Glob(filepath.Join(daemon.Bin(), "*pvelxc*"))
	for _, path := range append(programs, "/bin/sh") {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Ino == inode {
			return filepath.Base(path)
		}
	}
	return "another program"
}

// What a container's life costs in programs, exactly.
func TestExecutions(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	count := countExecutions(t)
	expect := func(what string, want map[string]int) {
		t.Helper()
		if diff := cmp.Diff(want, count.since()); diff != "" {
			t.Errorf("%s executes (-want +got):\n%s", what, diff)
		}
	}
	pod := e.NewID()
	pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever())
	// liblxc runs the mount hook by a shell that execs it.
	expect("create and start", map[string]int{
		"containerd-shim-pvelxc-v2": 1, "pvelxc-shim": 1, "pvelxc-monitor": 1, "sh": 1, "pvelxc-init": 2,
	})
	app := e.Start(t, harness.Pod(pod, "container"), harness.Forever())
	expect("create and start in a pod", map[string]int{
		"containerd-shim-pvelxc-v2": 1, "pvelxc-monitor": 1, "sh": 1, "pvelxc-init": 2,
	})
	app.Sh(t, "true")
	expect("exec", map[string]int{"pvelxc-init": 1})

	for _, c := range []*harness.Container{app, pause} {
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, "the shim's end", func() error {
		if len(harness.Programs("pvelxc-shim")) > 0 {
			return errors.New("it lives")
		}
		return nil
	})
	// containerd runs delete for each, in which there is nothing to do; and liblxc may come to its post-stop hook.
	end := count.since()
	for name, most := range map[string]int{"containerd-shim-pvelxc-v2": 2, "sh": 2} {
		if end[name] > most {
			t.Errorf("the end of two containers executes %s %d times", name, end[name])
		}
		delete(end, name)
	}
	if len(end) > 0 {
		t.Errorf("the end of two containers executes %v", end)
	}
}
