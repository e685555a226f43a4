package program

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// mountinfo returns the line of the topmost mount at path (as the test sees it in
// r's namespace), empty for none.
func mountinfo(t *testing.T, r *role, path string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var found string
	for line := range strings.Lines(string(b)) {
		if strings.Fields(line)[4] == path {
			found = strings.TrimSpace(line)
		}
	}
	return found
}

func TestMountFS(t *testing.T) {
	root := newRoot(t)
	mkdir(t, root+"/sticky")
	if err := os.Chmod(root+"/sticky", 0o770|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	params := []oci2lxc.FSParam{{Key: "size", Value: "64k"}, {Key: "mode", Value: "0711"}}
	r, in := mounted(t, options{}, root, func(b *Builder) {
		b.MountFS("proc", "proc", "/proc", nil, procAttr, 0)
		b.MountFS("tmpfs", "tmpfs", "/new/deep/dir", params, unix.MOUNT_ATTR_NOEXEC, 0)
		b.MountFS("tmpfs", "tmpfs", "/sticky", nil, 0, FSKeepMode)
		b.MountFS("devpts", "devpts", "/dev/pts", []oci2lxc.FSParam{{Key: "newinstance", Flag: true}, {Key: "ptmxmode", Value: "0666"}}, 0, 0)
		b.MountFS("mqueue", "mqueue", "/dev/mqueue", nil, 0, 0)
		b.MountFS("sysfs", "sysfs", "/sys", nil, unix.MOUNT_ATTR_RDONLY, 0)
	})
	for path, want := range map[string]string{
		"/proc":         "nosuid,nodev,noexec,relatime - proc proc",
		"/new/deep/dir": "noexec,relatime - tmpfs tmpfs rw,size=64k,mode=711",
		"/sticky":       "- tmpfs",
		"/dev/pts":      "- devpts devpts",
		"/dev/mqueue":   "- mqueue mqueue",
		"/sys":          "ro,relatime - sysfs",
	} {
		if line := mountinfo(t, r, root+path); !strings.Contains(line, want) {
			t.Errorf("%s: mountinfo is %q, want %q in it", path, line, want)
		}
	}
	for path, want := range map[string]os.FileMode{"/sticky": 0o770 | os.ModeSticky, "/new/deep": 0o755, "/new/deep/dir": 0o711} {
		st, err := os.Stat(in(path))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode()&^os.ModeDir != want {
			t.Errorf("%s has mode %v, want %v", path, st.Mode(), want)
		}
	}
}

func TestConfigure(t *testing.T) {
	for name, o := range map[string]options{"host": {}, "user namespace": {userns: true}} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			if o.userns {
				if err := os.Chown(root, 100000, 100000); err != nil {
					t.Fatal(err)
				}
			}
			r, _ := mounted(t, o, root, func(b *Builder) {
				b.MountFS("tmpfs", "tmpfs", "/new", []oci2lxc.FSParam{{Key: "size", Value: "64k"}}, 0, 0)
				b.Configure("/new", []oci2lxc.FSParam{{Key: "size", Value: "128k"}, {Key: "nr_inodes", Value: "77"}, {Key: "lazytime", Flag: true}})
			})
			if line := mountinfo(t, r, root+"/new"); !strings.Contains(line, "lazytime,size=128k,nr_inodes=77") {
				t.Errorf("mountinfo is %q", line)
			}
		})
	}
}

func TestMountFSErrors(t *testing.T) {
	root := newRoot(t)
	if err := os.Symlink("/proc/self", root+"/evil"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		setup func(*Builder)
		errno syscall.Errno
		text  string
	}{
		"unknown type":   {func(b *Builder) { b.MountFS("nofs", "x", "/tmp", nil, 0, 0) }, unix.ENODEV, "mount nofs on /tmp: open filesystem type nofs"},
		"unknown option": {func(b *Builder) { b.MountFS("tmpfs", "x", "/tmp", []oci2lxc.FSParam{{Key: "bogus", Value: "1"}}, 0, 0) }, unix.EINVAL, "Unknown parameter 'bogus'"},
		"bad value": {func(b *Builder) {
			b.MountFS("tmpfs", "x", "/tmp", []oci2lxc.FSParam{{Key: "size", Value: "much"}}, 0, 0)
		}, unix.EINVAL, "Bad value for 'size'"},
		"dest is a file": {func(b *Builder) { b.MountFS("tmpfs", "x", "/bin/busybox", nil, 0, 0) }, unix.ENOTDIR, "/bin/busybox is not a directory"},
		"dest in file":   {func(b *Builder) { b.MountFS("tmpfs", "x", "/bin/busybox/x", nil, 0, 0) }, unix.ENOTDIR, "/bin/busybox/x"},
		"into proc by link": {func(b *Builder) {
			b.MountFS("proc", "proc", "/proc", nil, 0, 0)
			b.MountFS("tmpfs", "x", "/evil/attr", nil, 0, 0)
		}, unix.EPERM, "into /proc"},
		"configure a bad value": {func(b *Builder) {
			b.MountFS("tmpfs", "x", "/tmp", nil, 0, 0)
			b.Configure("/tmp", []oci2lxc.FSParam{{Key: "size", Value: "much"}})
		}, unix.EINVAL, "Bad value for 'size'"},
		"configure what is not mounted": {func(b *Builder) { b.Configure("/tmp", nil) }, unix.EINVAL, "change the filesystem at /tmp"},
		"configure through a link": {func(b *Builder) {
			b.MountFS("proc", "proc", "/proc", nil, 0, 0)
			b.Configure("/evil", nil)
		}, unix.ELOOP, "/evil"},
		"no NUL or long names": {func(b *Builder) { b.MountFS("tmpfs", "x", "/"+strings.Repeat("n", 256), nil, 0, 0) }, unix.ENAMETOOLONG, ""},
		"path too long":        {func(b *Builder) { b.MountFS("tmpfs", "x", strings.Repeat("/n", 3000), nil, 0, 0) }, unix.ENAMETOOLONG, ""},
		"dotdot in new part":   {func(b *Builder) { b.MountFS("tmpfs", "x", "/new/../x", nil, 0, 0) }, unix.ENOENT, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := hookError(t, options{}, root, c.setup)
			if !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.errno, c.text)
			}
		})
	}
}

func TestProcThroughSymlinkIsRefused(t *testing.T) {
	root := newRoot(t)
	if err := os.Remove(root + "/proc"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/tmp", root+"/proc"); err != nil {
		t.Fatal(err)
	}
	err := hookError(t, options{}, root, func(b *Builder) { b.MountFS("proc", "proc", "/proc", nil, 0, 0) })
	if !errors.Is(err, unix.ELOOP) {
		t.Errorf("got %v, want ELOOP", err)
	}
}

func TestTmpCopyUp(t *testing.T) {
	root := newRoot(t)
	mkdir(t, root+"/data/sub")
	writeFile(t, root+"/data/sub/file", "content", 0o751|os.ModeSetuid)
	if err := os.Symlink("/etc/shadow", root+"/data/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(root+"/data/sub", 7, 8); err != nil {
		t.Fatal(err)
	}
	_, in := mounted(t, options{}, root, func(b *Builder) { b.MountFS("tmpfs", "tmpfs", "/data", nil, 0, FSCopyUp) })
	got, err := exec.Command("find", in("/data"), "-printf", `%P %y %#m %U:%G %l\n`).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(got)), "\n")[1:]
	want := map[string]bool{"sub d 0755 7:8 ": true, "sub/file f 04751 0:0 ": true, "link l 0777 0:0 /etc/shadow": true}
	for _, l := range lines {
		if !want[l] {
			t.Errorf("unexpected %q", l)
		}
		delete(want, l)
	}
	if len(want) > 0 {
		t.Errorf("missing %v in %q", want, lines)
	}
	if b, err := os.ReadFile(in("/data/sub/file")); err != nil || string(b) != "content" {
		t.Errorf("file holds %q, %v", b, err)
	}
	if err := os.WriteFile(in("/data/new"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(root + "/data/new"); err == nil {
		t.Error("the image was written to")
	}

	deep := root + "/deep" + strings.Repeat("/d", 60)
	mkdir(t, deep)
	if err := hookError(t, options{}, root, func(b *Builder) { b.MountFS("tmpfs", "tmpfs", "/deep", nil, 0, FSCopyUp) }); !errors.Is(err, unix.ELOOP) {
		t.Errorf("60 levels: got %v, want ELOOP", err)
	}
}

func TestMountTree(t *testing.T) {
	root, src := newRoot(t), t.TempDir()
	writeFile(t, src+"/hello", "hello", 0o644)
	writeFile(t, root+"/etc/target", "", 0o644)
	for link, target := range map[string]string{
		"/var/run":     "/run", // dangling: /run is made
		"/etc/resolv":  "../etc/./target",
		"/etc/missing": "../../../up/file", // dangling, may not leave the root
		"/etc/loop":    "loop",
	} {
		if err := os.Symlink(target, root+link); err != nil {
			t.Fatal(err)
		}
	}
	_, in := mounted(t, options{}, root, func(b *Builder) {
		b.MountTree(tree(t, src), src, "/var/run/secrets/a", unix.MS_PRIVATE, true)
		b.MountTree(tree(t, src+"/hello"), src, "/etc/resolv", unix.MS_PRIVATE, true)
		b.MountTree(tree(t, src+"/hello"), src, "/etc/missing", unix.MS_PRIVATE, true)
		b.MountTree(tree(t, src+"/hello"), src, "/a/b/c", unix.MS_PRIVATE, true)
	})
	for _, path := range []string{"/run/secrets/a/hello", "/etc/target", "/up/file", "/a/b/c"} {
		if b, err := os.ReadFile(in(path)); err != nil || string(b) != "hello" {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
	for name, c := range map[string]struct {
		tree, dest string
		errno      syscall.Errno
	}{
		"loop":         {src, "/etc/loop", unix.ELOOP},
		"dir on file":  {src, "/etc/target", unix.ENOTDIR},
		"file on dir":  {src + "/hello", "/usr", unix.EISDIR},
		"trailing dir": {src + "/hello", "/etc/target/x", unix.ENOTDIR},
	} {
		err := hookError(t, options{}, root, func(b *Builder) { b.MountTree(tree(t, c.tree), src, c.dest, 0, false) })
		if !errors.Is(err, c.errno) {
			t.Errorf("%s: got %v, want %v", name, err, c.errno)
		}
	}
	if _, err := os.Lstat("/up"); err == nil {
		t.Error("a mountpoint was made on the host")
	}
}

func TestTreePropagation(t *testing.T) {
	needRoot(t)
	// A shared mount of the host, as below systemd.
	src := t.TempDir()
	if err := unix.Mount("tmpfs", src, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(src, unix.MNT_DETACH) })
	if err := unix.Mount("", src, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	mkdir(t, src+"/sub")
	for flag, want := range map[uint64]string{
		unix.MS_PRIVATE: "", unix.MS_SLAVE: "master:", unix.MS_SHARED: "shared:", unix.MS_UNBINDABLE: "",
	} {
		root := newRoot(t)
		r, _ := mounted(t, options{}, root, func(b *Builder) {
			early, recursive := treePropagation(flag)
			b.MountTree(tree(t, src), src, "/v", early, recursive)
			b.MountFS("tmpfs", "tmpfs", "/v/sub", nil, 0, 0)
		})
		line := mountinfo(t, r, root+"/v")
		if tags := strings.Contains(line, "shared:") || strings.Contains(line, "master:"); tags != (want != "") || !strings.Contains(line, want) {
			t.Errorf("%#x: got %q, want %q", flag, line, want)
		}
		reached := strings.Contains(hostMounts(t), src+"/sub ")
		if reached != (flag == unix.MS_SHARED) {
			t.Errorf("%#x: a mount below reached the host: %v", flag, reached)
		}
		_ = unix.Unmount(src+"/sub", unix.MNT_DETACH)
	}
}

func hostMounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAttr(t *testing.T) {
	root := newRoot(t)
	r, _ := mounted(t, options{}, root, func(b *Builder) {
		b.MountFS("tmpfs", "a", "/a", nil, unix.MOUNT_ATTR_NOSUID, 0)
		b.MountFS("tmpfs", "b", "/a/b", nil, 0, 0)
		b.Attr("/a", unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, 0, false)
		b.MountFS("tmpfs", "c", "/c", nil, 0, 0)
		b.MountFS("tmpfs", "d", "/c/d", nil, 0, 0)
		b.Attr("/c", unix.MOUNT_ATTR_NODEV, 0, unix.MS_SHARED, true)
	})
	for path, want := range map[string]string{"/a": " ro,relatime", "/a/b": " rw,relatime", "/c": " rw,nodev,relatime shared:", "/c/d": " rw,nodev,relatime shared:"} {
		if line := mountinfo(t, r, root+path); !strings.Contains(line, want) {
			t.Errorf("%s: got %q, want %q", path, line, want)
		}
	}
	if err := hookError(t, options{}, root, func(b *Builder) { b.Attr("/usr", unix.MOUNT_ATTR_RDONLY, 0, 0, false) }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("not a mount: got %v, want EINVAL", err)
	}
	if err := hookError(t, options{}, root, func(b *Builder) { b.Attr("/none", unix.MOUNT_ATTR_RDONLY, 0, 0, false) }); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no such path: got %v, want ENOENT", err)
	}
}

func TestDevices(t *testing.T) {
	root := newRoot(t)
	setup := func(b *Builder) {
		b.Mknod("/dev/null", unix.S_IFCHR|0o666, 1, 3, 0, 0)
		b.Mknod("/dev/sub/fifo", unix.S_IFIFO|0o622, 0, 0, 12, 34)
		b.Mknod("/dev/block", unix.S_IFBLK|0o600, 7, 100, 0, 6)
		b.Symlink("/proc/self/fd", "/dev/fd")
		b.Symlink("elsewhere", "/etc/hostname")
		b.Mkdir("/srv/www", 0o1777)
	}
	writeFile(t, root+"/etc/hostname", "x", 0o644)
	_, in := mounted(t, options{}, root, func(b *Builder) {
		setup(b)
		setup(b) // what is there already is fine
	})
	for path, want := range map[string]string{
		"/dev/null": "character special file 666 1:3 0:0", "/dev/sub/fifo": "fifo 622 0:0 12:34",
		"/dev/block": "block special file 600 7:64 0:6", "/dev/fd": "symbolic link 777 0:0 0:0",
		"/etc/hostname": "regular file 644 0:0 0:0", "/srv/www": "directory 1777 0:0 0:0",
	} {
		got, err := exec.Command("stat", "-c", "%F %a %t:%T %u:%g", in(path)).Output()
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v, want %q", path, got, err, want)
		}
	}
	if target, _ := os.Readlink(in("/dev/fd")); target != "/proc/self/fd" {
		t.Errorf("/dev/fd leads to %q", target)
	}
	writeFile(t, root+"/dev/zero", "", 0o666)
	for name, c := range map[string]struct {
		setup func(*Builder)
		errno syscall.Errno
	}{
		"other file there": {func(b *Builder) { b.Mknod("/dev/zero", unix.S_IFCHR|0o666, 1, 5, 0, 0) }, unix.EEXIST},
		"other node there": {func(b *Builder) { b.Mknod("/dev/null", unix.S_IFCHR|0o666, 1, 5, 0, 0) }, unix.EEXIST},
		"below a file":     {func(b *Builder) { b.Mknod("/dev/zero/x", unix.S_IFIFO, 0, 0, 0, 0) }, unix.ENOTDIR},
		"no name":          {func(b *Builder) { b.Mknod("/dev/..", unix.S_IFIFO, 0, 0, 0, 0) }, unix.EINVAL},
		"link below file":  {func(b *Builder) { b.Symlink("x", "/dev/zero/x") }, unix.ENOTDIR},
		"dir below file":   {func(b *Builder) { b.Mkdir("/dev/zero/x", 0o755) }, unix.ENOTDIR},
	} {
		if err := hookError(t, options{}, root, c.setup); !errors.Is(err, c.errno) {
			t.Errorf("%s: got %v, want %v", name, err, c.errno)
		}
	}
	if err := opError(t, startHook(t, options{}), func(b *Builder) { b.Root(root + "/none") }); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no root: got %v, want ENOENT", err)
	}
}

func TestSymlinksStayInTheRoot(t *testing.T) {
	root := newRoot(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, root+"/out"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../.."+outside, root+"/up"); err != nil {
		t.Fatal(err)
	}
	mounted(t, options{}, root, func(b *Builder) {
		b.Mknod("/out/node", unix.S_IFIFO|0o600, 0, 0, 0, 0)
		b.Mkdir("/up/dir", 0o755)
		b.Symlink("x", "/out/link")
		b.MountFS("tmpfs", "x", "/up/mnt", nil, 0, 0)
	})
	if left, _ := filepath.Glob(outside + "/*"); len(left) > 0 {
		t.Errorf("made outside of the root: %v", left)
	}
	if _, err := os.Lstat(root + outside + "/node"); err != nil {
		t.Errorf("not made inside of the root: %v", err)
	}
}

func TestUserNamespaceMounts(t *testing.T) {
	root, src := newRoot(t), t.TempDir()
	if err := filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Lchown(path, 100000, 100000))
	}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, src+"/hello", "hello", 0o644)
	r, in := mounted(t, options{userns: true}, root, func(b *Builder) {
		b.MountFS("proc", "proc", "/proc", nil, procAttr, 0)
		b.MountFS("tmpfs", "tmpfs", "/dev", []oci2lxc.FSParam{{Key: "mode", Value: "755"}}, unix.MOUNT_ATTR_NOSUID, 0)
		b.MountTree(tree(t, "/dev/null"), "/dev/null", "/dev/null", unix.MS_PRIVATE, true)
		b.MountFS("devpts", "devpts", "/dev/pts", []oci2lxc.FSParam{{Key: "ptmxmode", Value: "0666"}}, 0, 0)
		b.MountFS("mqueue", "mqueue", "/dev/mqueue", nil, 0, 0)
		b.MountTree(tree(t, src), src, "/a/b", unix.MS_PRIVATE, true)
	})
	if line := mountinfo(t, r, root+"/dev/pts"); !strings.Contains(line, "devpts") {
		t.Errorf("mountinfo of /dev/pts: %q", line)
	}
	if b, err := os.ReadFile(in("/a/b/hello")); err != nil || string(b) != "hello" {
		t.Errorf("volume holds %q, %v", b, err)
	}
	if err := os.WriteFile(in("/dev/null"), []byte("x"), 0); err != nil {
		t.Errorf("write /dev/null: %v", err)
	}
	if err := hookError(t, options{userns: true}, root, func(b *Builder) { b.Mknod("/dev/zero", unix.S_IFCHR|0o666, 1, 5, 0, 0) }); !errors.Is(err, unix.EPERM) {
		t.Errorf("mknod: got %v, want EPERM", err)
	}
}
