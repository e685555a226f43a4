package program

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMask(t *testing.T) {
	root := newRoot(t)
	mkdir(t, root+"/secret/dir")
	writeFile(t, root+"/secret/file", "secret", 0o644)
	writeFile(t, root+"/secret/second", "secret", 0o644)
	writeFile(t, root+"/secret/dir/x", "secret", 0o644)
	got := output(t, options{}, root, `
		cat /proc/timer_list /secret/file /secret/second /proc/uptime
		echo x > /secret/second && stat -c '%F %t:%T' /secret/file /proc/uptime
		ls -A /proc/irq /secret/dir /proc/bus
		touch /proc/irq/x 2>&1; true`, func(b *Builder) {
		null := tree(t, "/dev/null")
		for _, p := range []string{"/proc/timer_list", "/secret/file", "/secret/second", "/proc/uptime", "/proc/irq", "/secret/dir", "/proc/bus", "/proc/none", "/secret/file/none"} {
			b.Mask(null, p)
		}
	})
	want := "character special file 1:3\ncharacter special file 1:3\n/proc/bus:\n\n/proc/irq:\n\n/secret/dir:\ntouch: /proc/irq/x: Read-only file system"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if b, _ := os.ReadFile(root + "/secret/second"); string(b) != "secret" {
		t.Errorf("the masked file was written to: %q", b)
	}

	fake := root + "/fake"
	writeFile(t, fake, "", 0o666)
	err := initError(t, options{}, root, func(b *Builder) { b.Mask(tree(t, fake), "/secret/file") })
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Text, "not the device null") {
		t.Errorf("mask by a regular file: got %v, want EINVAL", err)
	}
	// A link to elsewhere, as another container with the same volume could place it.
	err = initError(t, options{}, root, func(b *Builder) { b.Mask(tree(t, "/dev/null"), "/proc/self/status") })
	if !errors.Is(err, unix.ELOOP) {
		t.Errorf("mask through a link of /proc: got %v, want ELOOP", err)
	}
}

func TestMaskInUserNamespace(t *testing.T) {
	root := newRoot(t)
	if err := os.Chown(root, 100000, 100000); err != nil {
		t.Fatal(err)
	}
	got := output(t, options{userns: true}, root, "cat /proc/timer_list /proc/uptime; ls /proc/irq; echo 1 2>&1 >/proc/sys/net/ipv4/ip_forward; true", func(b *Builder) {
		null := tree(t, "/dev/null")
		b.Mask(null, "/proc/timer_list")
		b.Mask(null, "/proc/uptime")
		b.Mask(null, "/proc/irq")
		b.Readonly("/proc/sys")
	})
	if !strings.HasSuffix(got, "ip_forward: Read-only file system") || strings.Contains(got, "\n") {
		t.Errorf("got %q", got)
	}
}

func TestReadonly(t *testing.T) {
	root := newRoot(t)
	mkdir(t, root+"/data/sub")
	got := output(t, options{mounts: "tmpfs x /data/sub"}, root, `
		echo 1 2>&1 >/proc/sys/net/ipv4/ip_forward
		touch /data/x /data/sub/x 2>&1
		grep -c ' /data/sub ro,' /proc/self/mountinfo
		touch /tmp/x && echo fine`, func(b *Builder) {
		b.Sysctl("net/ipv4/ip_forward", "1")
		b.Readonly("/proc/sys")
		b.Readonly("/data")
		b.Readonly("/none")
		b.Readonly("/proc/none")
	})
	want := "/bin/sh: can't create /proc/sys/net/ipv4/ip_forward: Read-only file system\n" +
		"touch: /data/x: Read-only file system\ntouch: /data/sub/x: Read-only file system\n1\nfine"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := os.Symlink("loop", root+"/loop"); err != nil {
		t.Fatal(err)
	}
	if err := initError(t, options{}, root, func(b *Builder) { b.Readonly("/loop") }); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: got %v, want ELOOP", err)
	}
}

func TestRootAttr(t *testing.T) {
	got := output(t, options{}, newRoot(t), "touch /x 2>&1; touch /proc/x 2>&1; grep ' / / ' /proc/self/mountinfo | cut -d' ' -f6-8; grep -c ' /proc .*shared' /proc/self/mountinfo", func(b *Builder) {
		b.RootAttr(unix.MOUNT_ATTR_RDONLY, unix.MS_PRIVATE)
	})
	// The root of the image is a directory of the test's filesystem.
	if !strings.HasPrefix(got, "touch: /x: Read-only file system\ntouch: /proc/x: No such file or directory") || !strings.HasSuffix(got, "1") {
		t.Errorf("got %q", got)
	}
	if err := initError(t, options{}, newRoot(t), func(b *Builder) { b.RootAttr(1<<31, 0) }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("unknown attribute: got %v, want EINVAL", err)
	}
}

func TestPropagation(t *testing.T) {
	root := newRoot(t)
	for _, d := range []string{"a b/c", "s/x/y", "u", "keep"} {
		mkdir(t, root+"/"+d)
	}
	if err := os.Symlink("s", root+"/link"); err != nil {
		t.Fatal(err)
	}
	mounts := []string{"tmpfs t /s", "tmpfs t /s/x", "tmpfs t /s/x/y", "tmpfs t /u", "tmpfs t /keep", "tmpfs t /sx", "tmpfs t /m", "slave /m /slave", "slave /m /gone"}
	got := output(t, options{mounts: strings.Join(mounts, "\n")}, root,
		`while read a b c d path opts tag rest; do case $tag in -) tag=;; esac; echo "$path ${tag%%:*}"; done </proc/self/mountinfo`,
		func(b *Builder) {
			b.SetPropagation(unix.MS_PRIVATE, []Propagation{
				{Path: "/keep"},
				{Path: "/m", Flag: unix.MS_SHARED},
				{Path: "/link", Flag: unix.MS_SHARED, Recursive: true},
				{Path: "/s/x/y", Flag: unix.MS_PRIVATE},
				{Path: "/u", Flag: unix.MS_UNBINDABLE},
				{Path: "/slave", Flag: unix.MS_SLAVE},
				{Path: "/none", Flag: unix.MS_SHARED},
			})
		})
	want := map[string]string{"/": "", "/proc": "", "/s": "shared", "/s/x": "shared", "/s/x/y": "", "/u": "unbindable", "/keep": "shared", "/sx": "", "/m": "shared", "/slave": "master", "/gone": ""}
	for line := range strings.Lines(got) {
		path, tag, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if w, ok := want[path]; !ok || w != tag {
			t.Errorf("%s is %q, want %q", path, tag, w)
		}
		delete(want, path)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v in %q", want, got)
	}
	if err := initError(t, options{}, newRoot(t), func(b *Builder) { b.SetPropagation(unix.MS_PRIVATE, []Propagation{{Path: strings.Repeat("/x", 3000)}}) }); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("got %v, want ENAMETOOLONG", err)
	}
}

func TestUnmount(t *testing.T) {
	got := output(t, options{}, newRoot(t), "ls -A /proc; echo done", func(b *Builder) {
		b.Unmount("/proc")
		b.Unmount("/tmp")  // not a mount
		b.Unmount("/none") // not there
	})
	if got != "done" {
		t.Errorf("got %q", got)
	}
	if err := initError(t, options{}, newRoot(t), func(b *Builder) { b.Unmount("/bin/busybox/x") }); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("got %v, want ENOTDIR", err)
	}
}

func TestTimeNamespace(t *testing.T) {
	for _, userns := range []bool{false, true} {
		root := newRoot(t)
		got := output(t, options{userns: userns}, root, "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime", func(b *Builder) {
			b.TimeNamespace("boottime 1000000000 5\nmonotonic -3 0\n")
		})
		f := strings.Fields(got)
		if len(f) != 7 || f[1] != "-3" || f[4] != "1000000000" || f[5] != "5" || len(f[6]) < 10 {
			t.Errorf("userns %v: got %q", userns, got)
		}
	}
	// PID 1 itself is in it, not only its children.
	r := startInit(t, options{}, newRoot(t))
	b := new(Builder)
	b.TimeNamespace("")
	b.Sync(SyncCreated)
	r.send(program(t, b))
	if m := r.recv(); m.Type != MsgSync {
		t.Fatalf("got %+v, want MsgSync", m)
	}
	link := func(pid any, name string) string {
		s, err := os.Readlink(fmt.Sprintf("/proc/%v/ns/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	own, children := link(r.cmd.Process.Pid, "time"), link(r.cmd.Process.Pid, "time_for_children")
	if own != children || own == link("self", "time") {
		t.Errorf("PID 1 is in %s, its children in %s, the host in %s", own, children, link("self", "time"))
	}
	if err := initError(t, options{}, newRoot(t), func(b *Builder) { b.TimeNamespace("nonsense") }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want EINVAL", err)
	}
}

func TestCgroupNamespaceAndSetns(t *testing.T) {
	needRoot(t)
	own, _ := os.Readlink("/proc/self/ns/cgroup")
	got := output(t, options{}, newRoot(t), "readlink /proc/self/ns/cgroup", func(b *Builder) { b.UnshareCgroup() })
	if !strings.HasPrefix(got, "cgroup:") || got == own {
		t.Errorf("namespace is %q, the host's %q", got, own)
	}
	uts, err := os.Open("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	defer uts.Close()
	own, _ = os.Readlink("/proc/self/ns/uts")
	if got := output(t, options{}, newRoot(t), "readlink /proc/self/ns/uts", func(b *Builder) { b.Setns(uts, unix.CLONE_NEWUTS) }); got != own {
		t.Errorf("joined %q, want %q", got, own)
	}
	if err := initError(t, options{}, newRoot(t), func(b *Builder) { b.Setns(uts, unix.CLONE_NEWCGROUP) }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("namespace of another type: got %v, want EINVAL", err)
	}
	if err := initError(t, options{userns: true}, newRoot(t), func(b *Builder) { b.Setns(uts, unix.CLONE_NEWUTS) }); !errors.Is(err, unix.EPERM) {
		t.Errorf("without rights: got %v, want EPERM", err)
	}
}
