package program

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHostnames(t *testing.T) {
	got := output(t, options{}, newRoot(t), "hostname; cat /proc/sys/kernel/domainname", func(b *Builder) {
		b.Hostname("web-1")
		b.Domainname("example.org")
	})
	if got != "web-1\nexample.org" {
		t.Errorf("got %q", got)
	}
	long := strings.Repeat("x", 65)
	for _, set := range []func(*Builder){
		func(b *Builder) { b.Hostname(long) },
		func(b *Builder) { b.Domainname(long) },
	} {
		if err := initError(t, options{}, newRoot(t), set); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("name of 65 bytes: got %v, want EINVAL", err)
		}
	}
}

// A new network namespace has lo, but down.
func TestLoopback(t *testing.T) {
	for _, o := range []options{{}, {userns: true}} {
		root := newRoot(t)
		if o.userns {
			if err := os.Chown(root, 100000, 100000); err != nil {
				t.Fatal(err)
			}
		}
		const state = "ip -o addr show dev lo | grep -c 127.0.0.1/8; true"
		if got := output(t, o, root, state, func(*Builder) {}); got != "0" {
			t.Errorf("before: %q", got)
		}
		if got := output(t, o, root, state, func(b *Builder) { b.Loopback() }); got != "1" {
			t.Errorf("user namespace %t: %q", o.userns, got)
		}
	}
}

func TestSysctl(t *testing.T) {
	got := output(t, options{}, newRoot(t), "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni", func(b *Builder) {
		b.Sysctl("net/ipv4/ip_forward", "1")
		b.Sysctl("kernel/shmmni", "4000")
	})
	if got != "1\n4000" {
		t.Errorf("got %q", got)
	}
	for path, want := range map[string]syscall.Errno{
		"net/ipv4/nothing":    unix.ENOENT,
		"../sysrq-trigger":    unix.EXDEV,
		"/proc/sysrq-trigger": unix.EXDEV,
	} {
		err := initError(t, options{}, newRoot(t), func(b *Builder) { b.For("linux.sysctl").Sysctl(path, "1") })
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "open /proc/sys/"+path) || !strings.Contains(err.Error(), "(linux.sysctl)") {
			t.Errorf("%s: got %v, want %v and the path", path, err, want)
		}
	}
}

func TestFakeProc(t *testing.T) {
	nothing := func(b *Builder) { b.Umask(0) }
	for name, mounts := range map[string]string{"no mount": "", "other filesystem": "tmpfs x /proc", "part of procfs": "bind /proc/sys /proc"} {
		if err := initError(t, options{noProc: true, mounts: mounts}, newRoot(t), nothing); !errors.Is(err, unix.EXDEV) || err.Text != "/proc is not a procfs" {
			t.Errorf("%s: got %v, want EXDEV", name, err)
		}
	}
	set := func(b *Builder) { b.Sysctl("kernel/shmmni", "4000") }
	for _, mounts := range []string{"tmpfs x /proc/sys", "bind /proc/sys/net /proc/sys/kernel"} {
		if err := initError(t, options{mounts: mounts}, newRoot(t), set); !errors.Is(err, unix.EXDEV) {
			t.Errorf("%s: got %v, want EXDEV", mounts, err)
		}
	}
}

// Who may trace a process may also look into it: its owner, unless it is not
// dumpable. The kernel shows that in the owner of the files of /proc/PID.
func TestNotDumpable(t *testing.T) {
	needRoot(t)
	for _, role := range []string{"hook", "init", "exec"} {
		conn, peer, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(initBinary(t), role, "3")
		cmd.ExtraFiles = []*os.File{peer}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		peer.Close()
		if _, err := conn.Recv(t.Context()); err != nil { // MsgHello
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid), &st); err != nil || st.Uid != 0 {
			t.Errorf("%s: /proc/PID/environ belongs to %d, %v; want 0", role, st.Uid, err)
		}
		conn.Close()
		_ = cmd.Wait()
	}
}
