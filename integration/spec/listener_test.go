package spec

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// The kernel's interface for notify listeners (seccomp_unotify(2)), with the sizes of its two structures.
const (
	notifReceive = 0xc0502100
	notifSend    = 0xc0182101
	notifSize    = 80
	answerSize   = 24
)

// agent takes one listener at a socket, and answers what it is asked with an error.
func agent(t *testing.T, errno unix.Errno) (path string, told <-chan specs.ContainerProcessState) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "agent")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	states := make(chan specs.ContainerProcessState, 1)
	go func() {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return // the test is over
		}
		defer conn.Close()
		state, fd, err := receive(conn)
		if err != nil {
			t.Error(err)
			return
		}
		states <- state
		defer unix.Close(fd)
		for {
			var asked [notifSize]byte
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifReceive, uintptr(unsafe.Pointer(&asked))); e != 0 {
				if errors.Is(e, unix.EINTR) {
					continue
				}
				return // the container is gone
			}
			var answer [answerSize]byte
			copy(answer[:8], asked[:8]) // the id
			binary.NativeEndian.PutUint32(answer[16:], uint32(-int32(errno)))
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifSend, uintptr(unsafe.Pointer(&answer)))
		}
	}()
	return path, states
}

// receive reads the state and the descriptor that comes with it (config-linux.md#containerprocessstate).
func receive(conn *net.UnixConn) (state specs.ContainerProcessState, fd int, err error) {
	data, control := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		return state, -1, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil {
		return state, -1, err
	}
	if len(messages) != 1 {
		return state, -1, errors.New("no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return state, -1, err
	}
	return state, fds[0], json.Unmarshal(data[:n], &state)
}

// A system call of the container's is decided by an agent on the host.
func TestSeccompListener(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		path, told := agent(t, unix.EUCLEAN)
		c := e.Start(t, harness.Shell("mkdir /tmp/x 2>&1; echo after"), harness.Edit(func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "meta",
				Architectures: []specs.Arch{specs.ArchX86_64},
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}},
			}
		}))
		state := harness.Soon(t, "the listener", told)
		if state.State.ID != c.ID() || state.Metadata != "meta" || len(state.Fds) != 1 || state.Fds[0] != specs.SeccompFdName || state.Pid <= 0 {
			t.Errorf("the agent is told %+v", state)
		}
		if got := c.Wait(t); got.Stdout != "mkdir: can't create directory '/tmp/x': Structure needs cleaning\nafter\n" {
			t.Errorf("printed %q: %s", got.Stdout, got.Stderr)
		}
	})
}

// What control groups of both versions have beside the usual limits.
func TestCPUExtras(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		quota, period, burst := int64(50000), uint64(100000), uint64(20000)
		c := e.Start(t, harness.Forever(), edit(func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period, Burst: &burst, Cpus: "0", Mems: "0"}
		}))
		for _, row := range []struct{ controller, v1, v2, want string }{
			{"cpu", "cpu.cfs_burst_us", "cpu.max.burst", "20000"},
			{"cpuset", "cpuset.cpus", "cpuset.cpus", "0"},
			{"cpuset", "cpuset.mems", "cpuset.mems", "0"},
		} {
			if got := c.Cgroup(t, row.controller, row.v1, row.v2); got != row.want {
				t.Errorf("%s is %q, want %q", row.v2, got, row.want)
			}
		}
		idle := int64(1)
		c = e.Start(t, harness.Forever(), edit(func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Idle: &idle} }))
		if got := c.Cgroup(t, "cpu", "cpu.idle", "cpu.idle"); got != "1" {
			t.Errorf("cpu.idle is %q", got)
		}
	})
}
