package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

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
	// That is what the health check and the metrics say, which ask nothing that may wait.
	if err := zfs.CheckPool("/proc", "thin"); !errors.Is(err, zfs.ErrSuspended) {
		t.Errorf("the health of a suspended pool: %v", err)
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

// brim makes a pool full for one change at a time: what is left of it is reserved, so that ZFS itself refuses what takes
// space, and does what it does from its own last bytes.
type brim struct {
	e       *site
	ballast string

	mu sync.Mutex
	// spared are the kinds of changes that found no space since arm.
	spared map[string]bool // guarded by mu
	// refused and done count the changes that found no space, by their kind.
	refused, done map[string]int // guarded by mu
}

// arm has the next change of each kind find no space.
func (b *brim) arm() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spared = map[string]bool{}
}

// hold sets the reservation.
func (b *brim) hold(size uint64) error {
	if out, err := exec.Command("zfs", "set", fmt.Sprintf("refreservation=%d", size), b.ballast).CombinedOutput(); err != nil {
		return fmt.Errorf("reserve %d bytes: %w: %s", size, err, out)
	}
	return nil
}

// reserve leaves less than a transaction takes. What the reservation itself takes comes and goes, hence a few rounds.
func (b *brim) reserve() error {
	reserved := uint64(0)
	for range 5 {
		i, err := b.e.b.Stat(b.e.ctx, zfs.Parent(b.ballast))
		if err != nil {
			return err
		}
		if i.Available < 4<<10 {
			return nil
		}
		reserved += i.Available
		if err := b.hold(reserved); err != nil {
			return err
		}
	}
	return errors.New("the pool does not get full")
}

// change does one.
func (b *brim) change(op string, fn func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spared[op] {
		return fn()
	}
	b.spared[op] = true
	if err := b.reserve(); err != nil {
		b.e.t.Error(err)
		return err
	}
	err := fn()
	if err := b.hold(0); err != nil {
		b.e.t.Error(err)
	}
	if errors.Is(err, zfs.ErrNoSpace) {
		b.refused[op]++
	} else {
		b.done[op]++
	}
	return err
}

// TestNoSpaceOnPool has each change of ZFS in the whole history find a real pool full. The request says so and has
// changed nothing, and made again it succeeds; what gives space back succeeds at once.
func TestNoSpaceOnPool(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 512<<20)); err != nil {
		t.Fatal(err)
	}
	small(t, "brim", disk)
	raw := backend(t, "ioctl")
	e := &site{history: &history{quiet(t.Context()), nil, t.TempDir()}, t: t, b: raw, root: "brim/pvelxc", dir: t.TempDir()}
	e.run("zfs", "create", "-o", "mountpoint=none", "brim/ballast")
	b := &brim{e: e, ballast: "brim/ballast", refused: map[string]int{}, done: map[string]int{}}
	o := faultOptions(raw, e.root, e.dir, &points{brim: b.change})
	// again calls fn until it succeeds: one change after the other finds no space, and finds it the next time.
	again := func(what string, fn func() error) {
		t.Helper()
		b.arm()
		for at := 1; ; at++ {
			err := fn()
			if err == nil {
				return
			}
			if at > 6 || !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "hint:") {
				t.Fatalf("%s on a full pool, the %dth time: %v", what, at, err)
			}
		}
	}
	again("open", func() (err error) {
		e.s, err = snapshotter.Open(e.ctx, o)
		return err
	})
	var told []string
	want := state{}
	for _, a := range acts() {
		told = append(told, "begin "+a.name)
		again(a.name, func() error {
			err := a.do(e.history)
			if err != nil {
				if d := cmp.Diff(want.names(), e.names()); d != "" {
					t.Errorf("%s failed (%v) and changed (-want +got):\n%s", a.name, err, d)
				}
			}
			return err
		})
		a.apply(want)
		told = append(told, "done "+a.name)
	}
	e.must(e.s.Close())
	b.mu.Lock()
	t.Logf("refused: %v; done on a full pool: %v", b.refused, b.done)
	for op, count := range map[string]map[string]int{
		"create": b.refused, "clone": b.refused, "snapshot": b.refused, "destroy": b.done, "rollback": b.done, "set": b.done,
	} {
		if count[op] == 0 {
			t.Errorf("%s found no full pool, or had another end there: refused %v, done %v", op, b.refused, b.done)
		}
	}
	b.mu.Unlock()
	autopsy(t, &killed{raw, t.TempDir()}, e.root, e.dir, told)
}
