package pvetest_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// two mounts a cluster of the nodes a and b.
func two(t *testing.T) (a, b *pvetest.Mount) {
	t.Helper()
	mounts := pvetest.Start(t, "a", "b")
	return mounts["a"], mounts["b"]
}

func in(m *pvetest.Mount, path string) string { return filepath.Join(m.Dir, path) }

func create(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, what string, err error, errno unix.Errno) {
	t.Helper()
	if !errors.Is(err, errno) {
		t.Errorf("%s: %v, want %v", what, err, errno)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func TestNodesShareOneDatabase(t *testing.T) {
	a, b := two(t)
	must(t, os.WriteFile(in(a, "nodes/a/lxc/100.conf"), []byte("memory: 16\n"), 0o640))
	if got := content(t, in(b, "nodes/a/lxc/100.conf")); got != "memory: 16\n" {
		t.Errorf("b reads %q", got)
	}
	must(t, os.WriteFile(in(b, "nodes/a/lxc/100.conf"), []byte("swap: 0\n"), 0o640))
	if got := content(t, in(a, "lxc/100.conf")); got != "swap: 0\n" {
		t.Errorf("a reads %q through its own link", got)
	}
	must(t, os.Remove(in(b, "nodes/a/lxc/100.conf")))
	if _, err := os.Stat(in(a, "lxc/100.conf")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("after b removed it: %v", err)
	}
}

func TestVMIDIsExclusiveInTheCluster(t *testing.T) {
	a, b := two(t)
	must(t, create(in(a, "nodes/a/lxc/100.conf")))
	must(t, create(in(a, "nodes/a/qemu-server/101.conf")))
	want(t, "same node", create(in(a, "nodes/a/lxc/100.conf")), unix.EEXIST)
	want(t, "another node", create(in(b, "nodes/b/lxc/100.conf")), unix.EEXIST)
	want(t, "a virtual machine's", create(in(b, "nodes/b/lxc/101.conf")), unix.EEXIST)
	must(t, create(in(b, "nodes/b/lxc/102.conf")))
	must(t, os.Remove(in(a, "nodes/a/lxc/100.conf")))
	must(t, create(in(b, "nodes/b/lxc/100.conf")))
}

func TestRename(t *testing.T) {
	a, _ := two(t)
	for _, id := range []string{"100", "101"} {
		must(t, os.WriteFile(in(a, "nodes/a/lxc/"+id+".conf"), []byte(id), 0o640))
	}
	must(t, os.WriteFile(in(a, "nodes/a/lxc/x.tmp"), []byte("new"), 0o640))
	want(t, "into a duplicate VMID", os.Rename(in(a, "nodes/a/lxc/x.tmp"), in(a, "nodes/b/lxc/101.conf")), unix.EEXIST)
	must(t, os.Rename(in(a, "nodes/a/lxc/x.tmp"), in(a, "nodes/a/lxc/100.conf")))
	if got := content(t, in(a, "lxc/100.conf")); got != "new" {
		t.Errorf("after a rename over it: %q", got)
	}
	must(t, os.Rename(in(a, "nodes/a/lxc/100.conf"), in(a, "nodes/b/lxc/100.conf")))
	must(t, os.Rename(in(a, "nodes/b/lxc/100.conf"), in(a, "nodes/a/lxc/100.conf")))
	err := unix.Renameat2(unix.AT_FDCWD, in(a, "nodes/a/lxc/100.conf"), unix.AT_FDCWD, in(a, "nodes/a/lxc/102.conf"), unix.RENAME_NOREPLACE)
	want(t, "RENAME_NOREPLACE to a new name", err, unix.EINVAL)
}

func TestWhatPmxcfsRefuses(t *testing.T) {
	a, _ := two(t)
	file := in(a, "nodes/a/lxc/100.conf")
	must(t, create(file))
	want(t, "link", os.Link(file, in(a, "nodes/a/lxc/l")), unix.EPERM)
	want(t, "symlink", os.Symlink("x", in(a, "nodes/a/lxc/s")), unix.ENOSYS)
	want(t, "mkfifo", unix.Mkfifo(in(a, "nodes/a/lxc/f"), 0o600), unix.ENOSYS)
	_, err := unix.Open(in(a, "nodes/a/lxc"), unix.O_TMPFILE|unix.O_WRONLY, 0o600)
	want(t, "O_TMPFILE", err, unix.ENOTSUP)
	want(t, "setxattr", unix.Setxattr(file, "user.x", []byte("y"), 0), unix.ENOTSUP)
	_, err = unix.Getxattr(file, "user.x", nil)
	want(t, "getxattr", err, unix.ENOTSUP)
	want(t, "chmod 0600", os.Chmod(file, 0o600), unix.EPERM)
	want(t, "chown to nobody", os.Chown(file, 65534, 33), unix.EPERM)
	want(t, "chown to group root", os.Chown(file, 0, 0), unix.EPERM)
	must(t, os.Chmod(file, 0o640))
	must(t, os.Chown(file, 0, 33))
}

func TestModesAndTimes(t *testing.T) {
	a, _ := two(t)
	file := in(a, "nodes/a/lxc/100.conf")
	must(t, os.WriteFile(file, nil, 0o666))
	var st unix.Stat_t
	must(t, unix.Stat(file, &st))
	if st.Mode&0o7777 != 0o640 || st.Uid != 0 || st.Gid != 33 {
		t.Errorf("mode %#o, owner %d:%d, want 0640 root:www-data whatever was asked for", st.Mode&0o7777, st.Uid, st.Gid)
	}
	if st.Mtim.Nsec != 0 {
		t.Errorf("mtime has %d ns, want whole seconds", st.Mtim.Nsec)
	}
}

func TestFsyncFlockAndTruncateWork(t *testing.T) {
	a, _ := two(t)
	file := in(a, "nodes/a/lxc/100.conf")
	must(t, os.WriteFile(file, []byte("long content"), 0o640))
	f, err := os.OpenFile(file, os.O_RDWR|os.O_TRUNC, 0)
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	other, err := os.Open(file)
	must(t, err)
	defer other.Close()
	want(t, "second flock", unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	if got := content(t, file); got != "" {
		t.Errorf("after O_TRUNC: %q", got)
	}
}

func TestFileSize(t *testing.T) {
	a, _ := two(t)
	file := in(a, "nodes/a/lxc/100.conf")
	must(t, os.WriteFile(file, make([]byte, 1<<20), 0o640))
	want(t, "1 MiB and a byte", os.WriteFile(file, make([]byte, 1<<20+1), 0o640), unix.EFBIG)
	want(t, "truncate beyond", os.Truncate(file, 1<<20+1), unix.EFBIG)
}

func TestDatabaseSize(t *testing.T) {
	a, b := two(t)
	free := func() uint64 {
		t.Helper()
		var st unix.Statfs_t
		must(t, unix.Statfs(a.Dir, &st))
		if total := st.Blocks * uint64(st.Bsize); total != 128<<20 {
			t.Errorf("the database has %d bytes", total)
		}
		return st.Bfree
	}
	before := free()
	must(t, os.WriteFile(in(b, "nodes/b/lxc/100.conf"), make([]byte, 10000), 0o640))
	if got := before - free(); got != 3 {
		t.Errorf("10,000 bytes take %d blocks, want 3", got)
	}
}

func TestNoQuorum(t *testing.T) {
	a, b := two(t)
	file := in(a, "nodes/a/lxc/100.conf")
	must(t, os.WriteFile(file, []byte("x"), 0o640))
	a.SetQuorum(false)
	info, err := os.Lstat(in(a, "local"))
	must(t, err)
	if info.Mode()&0o200 != 0 {
		t.Errorf("the link local has mode %v: PVE's test for quorum would pass", info.Mode())
	}
	want(t, "write", os.WriteFile(file, []byte("y"), 0o640), unix.EACCES)
	want(t, "create", create(in(a, "nodes/a/lxc/101.conf")), unix.EACCES)
	want(t, "remove", os.Remove(file), unix.EACCES)
	want(t, "rename", os.Rename(file, file+".x"), unix.EACCES)
	if got := content(t, file); got != "x" {
		t.Errorf("reading goes on, but gives %q", got)
	}
	must(t, create(in(b, "nodes/b/lxc/101.conf")))
	a.SetQuorum(true)
	must(t, os.WriteFile(file, []byte("y"), 0o640))
}

func TestRestart(t *testing.T) {
	a, _ := two(t)
	file := in(a, "nodes/a/lxc/100.conf")
	must(t, os.WriteFile(file, []byte("x"), 0o640))
	open, err := os.Open(file)
	must(t, err)
	defer open.Close()
	a.Stop()
	_, err = os.ReadFile(file)
	want(t, "open while it is down", err, unix.ENOTCONN)
	_, err = os.Lstat(in(a, "local"))
	want(t, "lstat while it is down", err, unix.ENOTCONN)
	a.Resume()
	_, err = open.Read(make([]byte, 1))
	want(t, "a handle of the old daemon", err, unix.ENOTCONN)
	if got := content(t, file); got != "x" {
		t.Errorf("after the restart: %q", got)
	}
}

func TestBrokenDatabase(t *testing.T) {
	a, b := two(t)
	file := in(a, "nodes/a/lxc/100.conf")
	must(t, os.WriteFile(file, []byte("x"), 0o640))
	a.SetBroken(true)
	want(t, "create", create(in(a, "nodes/a/lxc/101.conf")), unix.EIO)
	want(t, "write", os.WriteFile(file, []byte("y"), 0o640), unix.EIO)
	want(t, "remove", os.Remove(file), unix.EIO)
	if got := content(t, file); got != "x" {
		t.Errorf("reading goes on, but gives %q", got)
	}
	must(t, create(in(b, "nodes/b/lxc/101.conf")))
	a.SetBroken(false)
	must(t, os.Remove(file))
}

func TestInterrupts(t *testing.T) {
	a, _ := two(t)
	a.SetInterrupts(1)
	_, err := unix.Open(in(a, "nodes/a/lxc/100.conf"), unix.O_CREAT|unix.O_WRONLY, 0o640)
	want(t, "create", err, unix.EINTR)
	_, err = unix.Open(in(a, "nodes/a/lxc"), unix.O_RDONLY, 0)
	want(t, "open", err, unix.EINTR)
	a.SetInterrupts(0)
	must(t, create(in(a, "nodes/a/lxc/100.conf")))
}

// A daemon that hangs answers nothing, and then everything.
func TestHang(t *testing.T) {
	a, b := two(t)
	file := in(a, "nodes/a/lxc/100.conf")
	must(t, os.WriteFile(file, []byte("x"), 0o640))
	a.Looks()
	a.Hang()
	answers := make(chan error, 2)
	go func() { _, err := os.ReadFile(file); answers <- err }()
	go func() { answers <- os.WriteFile(in(a, "nodes/a/lxc/101.conf"), []byte("y"), 0o640) }()
	must(t, create(in(b, "nodes/b/lxc/102.conf"))) // by the other node's daemon
	for n := 0; n < 2; n += a.Looks()[pvetest.OpLookup] {
		time.Sleep(time.Millisecond)
	}
	if len(answers) > 0 {
		t.Errorf("while it hangs: %v", <-answers)
	}
	a.Unhang()
	for range 2 {
		must(t, <-answers)
	}
	if got := content(t, in(a, "lxc/101.conf")); got != "y" {
		t.Errorf("afterwards: %q", got)
	}
}

// A mount that somebody else's mount namespace has a copy of, with a file open, closes nevertheless.
func TestCloseWithACopyElsewhere(t *testing.T) {
	dir := t.TempDir()
	m, err := pvetest.NewCluster("a").Mount("a", dir)
	if err != nil {
		t.Skipf("needs /dev/fuse and root: %v", err)
	}
	must(t, os.WriteFile(in(m, "nodes/a/lxc/100.conf"), nil, 0o640))
	other := exec.Command("unshare", "--mount", "sh", "-c", `exec 3<"$0" && echo ready && exec cat`, in(m, "nodes/a/lxc/100.conf"))
	keep, err := other.StdinPipe()
	must(t, err)
	out, err := other.StdoutPipe()
	must(t, err)
	must(t, other.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Errorf("the other namespace says %q, %v", line, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("after it: %v, %v", left, err)
	}
	must(t, keep.Close())
	_ = other.Wait()
}

func TestLatency(t *testing.T) {
	a, b := two(t)
	const delay = 30 * time.Millisecond
	a.SetLatency(delay)
	start := time.Now()
	must(t, create(in(a, "nodes/a/lxc/100.conf")))
	if took := time.Since(start); took < delay {
		t.Errorf("a create took %v, less than the latency of %v", took, delay)
	}
	seen := make(chan string, 10)
	a.Before(func(op pvetest.Op, path string) { seen <- string(op) + " " + path })
	a.Counts()
	must(t, os.WriteFile(in(a, "nodes/a/lxc/101.conf"), []byte("x"), 0o640))
	must(t, create(in(b, "nodes/b/lxc/102.conf")))
	var list []string
	for len(seen) > 0 {
		list = append(list, <-seen)
	}
	if got, wanted := strings.Join(list, ", "), "create /nodes/a/lxc/101.conf, write /nodes/a/lxc/101.conf"; got != wanted {
		t.Errorf("changes seen: %s, want %s", got, wanted)
	}
	if c := a.Counts(); c[pvetest.OpCreate] != 1 || c[pvetest.OpWrite] != 1 {
		t.Errorf("changes counted: %v", c)
	}
}

func TestVMList(t *testing.T) {
	a, b := two(t)
	if got := content(t, in(a, ".vmlist")); strings.Contains(got, "ids") || !strings.Contains(got, `"version":`) {
		t.Errorf("without a guest: %s", got)
	}
	must(t, create(in(a, "nodes/a/lxc/100.conf")))
	must(t, create(in(b, "nodes/b/qemu-server/101.conf")))
	must(t, create(in(b, "nodes/b/lxc/102.conf.tmp")))
	var list struct {
		IDs map[string]struct{ Node, Type string }
	}
	must(t, json.Unmarshal([]byte(content(t, in(a, ".vmlist"))), &list))
	if len(list.IDs) != 2 || list.IDs["100"].Node != "a" || list.IDs["100"].Type != "lxc" || list.IDs["101"].Node != "b" || list.IDs["101"].Type != "qemu" {
		t.Errorf("got %+v", list.IDs)
	}
}

func TestLinks(t *testing.T) {
	a, b := two(t)
	for path, wanted := range map[string]string{in(a, "local"): "nodes/a", in(b, "local"): "nodes/b", in(b, "lxc"): "nodes/b/lxc", in(a, "qemu-server"): "nodes/a/qemu-server"} {
		if got, err := os.Readlink(path); err != nil || got != wanted {
			t.Errorf("%s is %q, %v; want %q", path, got, err, wanted)
		}
	}
}
