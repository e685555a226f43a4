package snapshotter_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// site is a snapshotter on a real pool, with an image of two layers and what an administrator has at hand.
type site struct {
	*history
	t    *testing.T
	b    zfs.Backend
	root string
	dir  string
}

func (e *site) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// run runs an administrator's command.
func (e *site) run(name string, args ...string) string {
	e.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		e.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (e *site) do(acts ...act) {
	e.t.Helper()
	for _, a := range acts {
		if err := a.do(e.history); err != nil {
			e.t.Fatalf("%s: %v", a.name, err)
		}
	}
}

func (e *site) open() {
	e.t.Helper()
	s, err := snapshotter.Open(e.ctx, snapshotter.Options{Root: e.root, Dir: e.dir, Backend: e.b})
	e.must(err)
	e.s = s
	e.t.Cleanup(func() { s.Close() })
}

func newSite(t *testing.T, b zfs.Backend, root string) *site {
	t.Helper()
	e := &site{&history{quiet(t.Context()), nil, t.TempDir()}, t, b, root, t.TempDir()}
	e.open()
	e.do(prepare("extract-1 a", ""), write("extract-1 a", "a"), commit("a", "extract-1 a"),
		prepare("extract-2 b", "a"), write("extract-2 b", "b"), commit("b", "extract-2 b"))
	return e
}

// datasets are those of ours.
func (e *site) datasets() []string {
	e.t.Helper()
	l, err := e.b.Children(e.ctx, e.root+"/s")
	e.must(err)
	names := []string{}
	for _, i := range l {
		names = append(names, i.Name)
	}
	return names
}

// source is the dataset that an active snapshot is mounted from.
func (e *site) source(key string) string {
	e.t.Helper()
	m, err := e.s.Mounts(e.ctx, key)
	e.must(err)
	return m[0].Source
}

// empty removes everything and sees that nothing stays.
func (e *site) empty(keys ...string) {
	e.t.Helper()
	for _, k := range keys {
		e.must(e.s.Remove(e.ctx, k))
	}
	e.must(e.s.Cleanup(e.ctx))
	e.must(e.s.Cleanup(e.ctx))
	if l := e.datasets(); len(l) != 0 {
		e.t.Errorf("left: %v", l)
	}
}

// TestMishaps is what befalls a pool.
func TestMishaps(t *testing.T) {
	pool(t)
	b := backend(t, "ioctl")
	for name, fn := range map[string]func(*site){
		"foreign snapshots": foreignSnapshots, "a mount in another namespace": heldElsewhere,
		"export and import": exported, "rewound to a checkpoint": rewound, "no space for the database": fullState,
	} {
		t.Run(name, func(t *testing.T) { fn(newSite(t, b, "suite/"+strings.ReplaceAll(name, " ", "-"))) })
	}
}

func foreignSnapshots(e *site) {
	e.do(prepare("c", "b"))
	ct := e.source("c")
	head := e.datasets()[0]
	if head == ct {
		head = e.datasets()[1]
	}
	e.run("zfs", "snapshot", head+"@autosnap", ct+"@autosnap")
	// A layer goes on beside the snapshot, and a container is removed in spite of it.
	e.do(prepare("extract-3 d", "b"), write("extract-3 d", "d"), commit("d", "extract-3 d"))
	for _, k := range []string{"c", "d", "b", "a"} {
		e.must(e.s.Remove(e.ctx, k))
	}
	e.must(e.s.Cleanup(e.ctx))
	for _, name := range []string{head, ct} {
		if _, err := e.b.Stat(e.ctx, name+"@autosnap"); err != nil {
			e.t.Errorf("a foreign snapshot: %v", err)
		}
	}
	e.run("zfs", "destroy", ct+"@autosnap")
	e.run("zfs", "destroy", head+"@autosnap")
	e.empty()
}

func heldElsewhere(e *site) {
	e.do(prepare("c", "b"))
	ct := e.source("c")
	dir := e.t.TempDir()
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t zfs "$0" "$1" && echo held && exec cat`, ct, dir)
	in, err := cmd.StdinPipe()
	e.must(err)
	out, err := cmd.StdoutPipe()
	e.must(err)
	e.must(cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		e.t.Fatalf("%q, %v", line, err)
	}
	if _, err := os.Stat(dir + "/a"); err == nil {
		e.t.Error("the mount is in this namespace too")
	}
	e.must(e.s.Remove(e.ctx, "c"))
	e.must(e.s.Cleanup(e.ctx))
	if _, err := e.b.Stat(e.ctx, ct); err != nil {
		e.t.Errorf("a live root file system in another namespace: %v", err)
	}
	h, ok := zfs.FindHolder("/proc", ct)
	if !ok || h.PID != cmd.Process.Pid || h.Path != dir {
		e.t.Errorf("holder %v, want pid %d at %s", h, cmd.Process.Pid, dir)
	}
	e.must(in.Close())
	e.must(cmd.Wait())
	e.empty("b", "a")
}

func exported(e *site) {
	e.do(prepare("c", "b"), write("c", "own"))
	e.run("zpool", "export", "suite")
	start := time.Now()
	for _, key := range []string{"d", "extract-3 d"} {
		if _, err := e.s.Prepare(e.ctx, key, "b"); err == nil {
			e.t.Errorf("prepare %s on an exported pool", key)
		}
		if _, err := e.s.Stat(e.ctx, key); !errdefs.IsNotFound(err) {
			e.t.Errorf("what failed stays: %v", err)
		}
	}
	if _, err := e.s.Mounts(e.ctx, "c"); err == nil {
		e.t.Error("mounts on an exported pool")
	}
	// The names are all there: containerd must not think that its images are gone.
	if _, err := e.s.Stat(e.ctx, "b"); err != nil {
		e.t.Error(err)
	}
	e.t.Logf("%v without the pool", time.Since(start))
	// A daemon that starts now says so, and loses nothing.
	e.must(e.s.Close())
	if _, err := snapshotter.Open(e.ctx, snapshotter.Options{Root: e.root, Dir: e.dir, Backend: e.b}); err == nil {
		e.t.Error("it opens without its pool")
	}
	e.run("zpool", "import", "-d", "/dev", "suite")
	e.open()
	e.do(prepare("extract-4 d", "b"), write("extract-4 d", "d"), commit("d", "extract-4 d"), prepare("e", "d"))
	m, err := e.s.Mounts(e.ctx, "c")
	e.must(err)
	e.must(e.at(m, func(dir string) error {
		_, err := os.Stat(dir + "/own")
		return err
	}))
	e.empty("c", "e", "d", "b", "a")
}

func rewound(e *site) {
	e.run("zpool", "checkpoint", "suite")
	e.do(prepare("extract-3 d", "b"), write("extract-3 d", "d"), commit("d", "extract-3 d"), prepare("c", "d"))
	e.run("zpool", "export", "suite")
	e.run("zpool", "import", "-d", "/dev", "--rewind-to-checkpoint", "suite")
	for range 2 {
		// The head is what b is, and d has never been. Nothing may be made of d.
		for _, key := range []string{"extract-4 x", "x"} {
			if _, err := e.s.Prepare(e.ctx, key, "d"); !errdefs.IsNotFound(err) {
				e.t.Errorf("prepare %s on what the pool has forgotten: %v", key, err)
			}
		}
		if _, err := e.s.Mounts(e.ctx, "c"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "hint:") {
			e.t.Errorf("mounts of what the pool has forgotten: %v", err)
		}
		// After a restart as well.
		e.must(e.s.Close())
		e.open()
	}
	e.do(prepare("extract-5 f", "b"), write("extract-5 f", "f"))
	m, err := e.s.Mounts(e.ctx, "extract-5 f")
	e.must(err)
	e.must(e.at(m, func(dir string) error {
		if _, err := os.Stat(dir + "/d"); err == nil {
			e.t.Error("a layer on b shows d's files")
		}
		_, err := os.Stat(dir + "/b")
		return err
	}))
	e.empty("extract-5 f", "c", "d", "b", "a")
}

// fullState is a disk of the database's without space: requests say so and change nothing.
func fullState(e *site) {
	e.must(e.s.Close())
	state := e.t.TempDir()
	e.run("mount", "-t", "tmpfs", "-o", "size=1m", "state", state)
	e.t.Cleanup(func() { e.run("umount", state) })
	e.run("cp", e.dir+"/metadata.db", state)
	e.dir = state
	e.open()
	e.t.Cleanup(func() { e.s.Close() })
	if err := fill(state+"/ballast", nil); !errors.Is(err, syscall.ENOSPC) {
		e.t.Fatal(err)
	}
	failed := 0
	for i := range 100 {
		key := fmt.Sprintf("c%d", i)
		if _, err := e.s.Prepare(e.ctx, key, "b"); err != nil {
			failed++
			if !strings.Contains(err.Error(), "write the metadata") || !strings.Contains(err.Error(), "no space") {
				e.t.Errorf("prepare: %v", err)
			}
			if _, err := e.s.Stat(e.ctx, key); !errdefs.IsNotFound(err) {
				e.t.Errorf("what failed stays: %v", err)
			}
			break
		}
	}
	if failed == 0 {
		e.t.Fatal("the database finds space where there is none")
	}
	e.must(os.Remove(state + "/ballast"))
	e.do(prepare("d", "b"), remove("d"))
	var left []string
	e.must(e.s.Walk(e.ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindActive {
			left = append(left, i.Name)
		}
		return nil
	}))
	e.empty(append(left, "b", "a")...)
}

// small makes a pool of its own on a file.
func small(t *testing.T, name, device string) {
	t.Helper()
	if os.Getenv("VM_POOL_DEVICE") == "" {
		t.Skip("needs VM_POOL_DEVICE: this machine's pools are none of ours")
	}
	if out, err := exec.Command("zpool", "create", "-f", "-O", "mountpoint=none", name, device).CombinedOutput(); err != nil {
		t.Fatalf("zpool create: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("zpool", "destroy", "-f", name).CombinedOutput(); err != nil {
			t.Errorf("zpool destroy: %v\n%s", err, out)
		}
	})
}

// fill writes noise to a file until that fails, and gives the failure; or until it is stopped.
func fill(file string, stop <-chan struct{}) error {
	noise, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer noise.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for err == nil {
		select {
		case <-stop:
			return nil
		default:
		}
		if _, err = io.CopyN(f, noise, 4<<20); err == nil {
			err = f.Sync()
		}
	}
	return err
}

// A full pool gives a clear error, leaves nothing half done, and lets one remove things.
func TestFullPool(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 96<<20); err != nil {
		t.Fatal(err)
	}
	small(t, "full", disk)
	e := newSite(t, backend(t, "ioctl"), "full/pvelxc")
	e.do(prepare("extract-3 d", "b"), write("extract-3 d", "d"), prepare("c", "b"))
	e.run("zfs", "create", "-o", "mountpoint=legacy", "full/ballast")
	ballast := []mount.Mount{{Type: "zfs", Source: "full/ballast"}}
	e.must(e.at(ballast, func(dir string) error {
		if err := fill(dir+"/x", nil); !strings.Contains(err.Error(), "no space") {
			return err
		}
		return nil
	}))
	before := e.datasets()
	check := func(what string, err error) {
		t.Helper()
		// The last bytes of a pool are ZFS's own, so that some requests still succeed.
		if err == nil {
			return
		}
		t.Logf("%s: %v", what, err)
		if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "hint:") {
			t.Errorf("%s on a full pool: %v", what, err)
		}
	}
	_, err := e.s.Prepare(e.ctx, "f", "b")
	check("prepare", err)
	if err != nil {
		if _, err := e.s.Stat(e.ctx, "f"); !errdefs.IsNotFound(err) {
			t.Errorf("what failed stays: %v", err)
		}
		e.must(e.s.Cleanup(e.ctx))
		if now := e.datasets(); len(now) != len(before) {
			t.Errorf("datasets %v, before %v", now, before)
		}
	} else {
		e.must(e.s.Remove(e.ctx, "f"))
	}
	err = e.s.Commit(e.ctx, "d", "extract-3 d")
	check("commit", err)
	e.must(e.s.Remove(e.ctx, "c"))
	check("cleanup", e.s.Cleanup(e.ctx))
	e.run("zfs", "destroy", "full/ballast")
	if err != nil {
		e.do(commit("d", "extract-3 d"))
	}
	e.do(prepare("g", "d"))
	e.empty("g", "d", "b", "a")
}

// A pool that has lost its disk answers at once, and everything goes on when the disk is back.
func TestSuspendedPool(t *testing.T) {
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if os.Getenv("VM_POOL_DEVICE") == "" {
		t.Skip("needs VM_POOL_DEVICE: this machine's pools are none of ours")
	}
	// A disk that promises more than is behind it.
	run("mount", "-t", "tmpfs", "-o", "size=64m", "thin", dir)
	t.Cleanup(func() { run("umount", dir) })
	run("truncate", "-s", "256M", dir+"/disk")
	run("modprobe", "loop")
	loop := run("losetup", "-f", "--show", dir+"/disk")
	t.Cleanup(func() { run("losetup", "-d", loop) })
	small(t, "thin", loop)
	e := newSite(t, backend(t, "ioctl"), "thin/pvelxc")
	e.do(prepare("c", "b"))
	e.run("zfs", "create", "-o", "mountpoint=legacy", "thin/ballast")
	mnt := t.TempDir()
	run("mount", "-t", "zfs", "thin/ballast", mnt)
	t.Cleanup(func() { run("umount", mnt) })
	filled, stop := make(chan error, 1), make(chan struct{})
	go func() { filled <- fill(mnt+"/x", stop) }()
	suspended := func() bool {
		raw, _ := os.ReadFile("/proc/spl/kstat/zfs/thin/state")
		return strings.TrimSpace(string(raw)) == "SUSPENDED"
	}
	for end := time.Now().Add(2 * time.Minute); !suspended(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the pool does not suspend")
		}
	}
	for what, fn := range map[string]func(context.Context) error{
		"prepare": func(ctx context.Context) error { _, err := e.s.Prepare(ctx, "d", "b"); return err },
		"unpack":  func(ctx context.Context) error { _, err := e.s.Prepare(ctx, "extract-3 d", "b"); return err },
		"commit":  func(ctx context.Context) error { return e.s.Commit(ctx, "x", "c") },
	} {
		ctx, cancel := context.WithTimeout(e.ctx, 10*time.Second)
		err := fn(ctx)
		if err == nil && what != "unpack" {
			t.Errorf("%s on a suspended pool succeeds", what)
		}
		t.Logf("%s: %v", what, err)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s hangs", what)
		}
		cancel()
	}
	// The database is not on the pool: names are served.
	if _, err := e.s.Stat(e.ctx, "b"); err != nil {
		t.Error(err)
	}
	close(stop)
	run("mount", "-o", "remount,size=400m", dir)
	run("zpool", "clear", "thin")
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		_, err := e.s.Prepare(e.ctx, "g", "b")
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the pool is back, and prepare: %v", err)
		}
	}
	if err := <-filled; err != nil {
		t.Logf("filling ended with: %v", err)
	}
	left := []string{"g", "c", "b", "a"}
	if _, err := e.s.Stat(e.ctx, "extract-3 d"); err == nil {
		left = append([]string{"extract-3 d"}, left...)
	}
	e.empty(left...)
}
