package program

import (
	"errors"
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
