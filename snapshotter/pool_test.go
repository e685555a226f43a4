package snapshotter_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/probe"
)

// pool makes a pool on $VM_POOL_DEVICE for the time of the test.
func pool(t *testing.T) {
	t.Helper()
	device := os.Getenv("VM_POOL_DEVICE")
	if device == "" {
		t.Skip("needs VM_POOL_DEVICE: an empty device for a real pool")
	}
	if out, err := exec.Command("zpool", "create", "-f", "-O", "mountpoint=none", "suite", device).CombinedOutput(); err != nil {
		t.Fatalf("zpool create: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("zpool", "destroy", "-f", "suite").CombinedOutput(); err != nil {
			t.Errorf("zpool destroy: %v\n%s", err, out)
		}
	})
}

func backend(t *testing.T, name string) zfs.Backend {
	t.Helper()
	b, err := probe.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// TestSuiteOnPool is containerd's own suite on real ZFS.
func TestSuiteOnPool(t *testing.T) {
	pool(t)
	var n atomic.Int32
	for _, name := range []string{"ioctl", "cli"} {
		t.Run(name, func(t *testing.T) {
			if name == "cli" && os.Getenv("VM_CI") != "" {
				t.Skip("VM_CI is set: half an hour of zfs commands has no place there")
			}
			b := backend(t, name)
			testsuite.SnapshotterSuite(t, name, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				s, err := snapshotter.Open(ctx, snapshotter.Options{Root: fmt.Sprintf("suite/r%d", n.Add(1)), Dir: root, Backend: b})
				if err != nil {
					return nil, nil, err
				}
				return s, func() error { return errors.Join(s.Close()) }, nil
			})
		})
	}
}

// txg is the pool's current transaction group that was synced.
func txg(t *testing.T) int {
	t.Helper()
	out, err := os.ReadFile("/proc/spl/kstat/zfs/suite/txgs")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.SplitSeq(string(out), "\n") {
		var id, birth int
		var state string
		if _, err := fmt.Sscan(line, &id, &birth, &state); err == nil && state == "C" {
			n = id
		}
	}
	return n
}

// TestOnPool unpacks layers and runs a container on real ZFS: heads are leased, a live root file system is never
// destroyed, a quota holds.
func TestOnPool(t *testing.T) {
	pool(t)
	b := backend(t, "ioctl")
	s, err := snapshotter.Open(t.Context(), snapshotter.Options{Root: "suite/pvelxc", Dir: t.TempDir(), Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	at := func(m []mount.Mount, fn func(dir string)) {
		t.Helper()
		dir := t.TempDir()
		if err := mount.All(m, dir); err != nil {
			t.Fatal(err)
		}
		defer mount.UnmountAll(dir, 0)
		fn(dir)
	}
	before := txg(t)
	parent := ""
	for i := range 10 {
		key := fmt.Sprintf("default/%d/extract-%d sha256:%d", i, i, i)
		m, err := s.Prepare(ctx, key, parent)
		if err != nil {
			t.Fatal(err)
		}
		at(m, func(dir string) {
			if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), []byte("layer"), 0o644); err != nil {
				t.Fatal(err)
			}
		})
		parent = fmt.Sprintf("layer%d", i)
		if err := s.Commit(ctx, parent, key); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("10 layers: %d txgs synced, unmounts among them", txg(t)-before)
	if n := s.Stats().Leases.Load(); n != 9 {
		t.Errorf("%d leases for 9 layers on a head", n)
	}
	children, err := b.Children(ctx, "suite/pvelxc/s")
	if err != nil || len(children) != 1 {
		t.Errorf("10 layers are %d datasets, %v; want 1", len(children), err)
	}
	u, err := s.Usage(ctx, parent)
	if err != nil || u.Inodes != 1 || u.Size <= 0 {
		t.Errorf("usage of a layer with one file: %+v, %v", u, err)
	}

	m, err := s.Prepare(ctx, "container", parent, snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotMaxSize: "8388608"}))
	if err != nil {
		t.Fatal(err)
	}
	at(m, func(dir string) {
		if err := os.WriteFile(dir+"/big", make([]byte, 1), 0o644); err != nil {
			t.Error(err)
		}
		noise, err := os.Open("/dev/urandom")
		if err != nil {
			t.Fatal(err)
		}
		defer noise.Close()
		data := make([]byte, 32<<20)
		if _, err := noise.Read(data); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/big", data, 0o644); err == nil {
			f, _ := os.Open(dir + "/big")
			if err := f.Sync(); err == nil {
				t.Error("32 MiB fit into a quota of 8")
			}
			f.Close()
		}
		// Removed while it is mounted: it stays until it is not.
		if err := s.Remove(ctx, "container"); err != nil {
			t.Errorf("remove what is mounted: %v", err)
		}
		if err := s.Cleanup(ctx); err != nil {
			t.Errorf("cleanup: %v", err)
		}
		if _, err := os.Stat(dir + "/f9"); err != nil {
			t.Errorf("a live root file system was destroyed: %v", err)
		}
	})
	if err := s.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if children, err := b.Children(ctx, "suite/pvelxc/s"); err != nil || len(children) != 1 {
		t.Errorf("%d datasets after the container, %v; want 1", len(children), err)
	}
	// A dataset that somebody destroys by hand blocks nothing.
	if _, err := s.Prepare(ctx, "lost", parent); err != nil {
		t.Fatal(err)
	}
	children, err = b.Children(ctx, "suite/pvelxc/s")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range children {
		if c.Origin != "" {
			if out, err := exec.Command("zfs", "destroy", c.Name).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	if _, err := s.Mounts(ctx, "lost"); !errdefs.IsNotFound(err) {
		t.Errorf("mounts of what was destroyed by hand: %v", err)
	}
	if err := s.Remove(ctx, "lost"); err != nil {
		t.Error(err)
	}
	for i := range 10 {
		if err := s.Remove(ctx, fmt.Sprintf("layer%d", 9-i)); err != nil {
			t.Error(err)
		}
	}
	if err := s.Cleanup(ctx); err != nil {
		t.Error(err)
	}
	if children, err := b.Children(ctx, "suite/pvelxc/s"); err != nil || len(children) != 0 {
		t.Errorf("%d datasets stay, %v", len(children), err)
	}
}

// TestRecoverOnPool loses the database and rebuilds it from a real pool's properties.
func TestRecoverOnPool(t *testing.T) {
	pool(t)
	b := backend(t, "ioctl")
	o := snapshotter.Options{Root: "suite/pvelxc", Dir: t.TempDir(), Backend: b}
	s, err := snapshotter.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, l := range [][2]string{{"a", ""}, {"b", "a"}, {"c", "b"}, {"branch", "a"}} {
		key := "default/1/extract-1 " + l[0]
		if _, err := s.Prepare(ctx, key, l[1]); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx, l[0], key, snapshots.WithLabels(map[string]string{"layer": l[0]})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Prepare(ctx, "container", "c"); err != nil {
		t.Fatal(err)
	}
	list := func() map[string]string {
		m := map[string]string{}
		err := s.Walk(ctx, func(ctx context.Context, i snapshots.Info) error {
			u, err := s.Usage(ctx, i.Name)
			m[i.Name] = fmt.Sprint(i.Kind, i.Parent, i.Labels, u)
			return err
		}, "kind==committed")
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	want := list()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.Dir = t.TempDir()
	r, err := snapshotter.Recover(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Layers) != 4 || len(r.Nameless) != 1 || len(r.Refused) != 0 {
		t.Errorf("%+v", r)
	}
	if s, err = snapshotter.Open(ctx, o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := list(); len(got) != 4 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("recovered %v, want %v", got, want)
	}
	if err := s.Cleanup(ctx); err != nil {
		t.Error(err)
	}
	if children, err := b.Children(ctx, "suite/pvelxc/s"); err != nil || len(children) != 3 {
		t.Errorf("%d datasets, %v; want the chain, the branch and the container", len(children), err)
	}
	if _, err := s.Prepare(ctx, "again", "branch"); err != nil {
		t.Error(err)
	}
}

// TestUsageOnPool: what was written counts when it is on disk, and not twice.
func TestUsageOnPool(t *testing.T) {
	pool(t)
	b := backend(t, "ioctl")
	s, err := snapshotter.Open(t.Context(), snapshotter.Options{Root: "suite/pvelxc", Dir: t.TempDir(), Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	fill := func(key, parent string) {
		t.Helper()
		m, err := s.Prepare(ctx, key, parent)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := mount.All(m, dir); err != nil {
			t.Fatal(err)
		}
		defer mount.UnmountAll(dir, 0)
		data := make([]byte, 1<<20)
		if _, err := rand.Read(data); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if err := os.WriteFile(fmt.Sprintf("%s/%s%d", dir, strings.ReplaceAll(key, "/", "_"), i), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Sync(ctx, "suite"); err != nil {
			t.Fatal(err)
		}
		u, err := s.Usage(ctx, key)
		// ZFS's own objects count with those of a container that is mounted.
		if err != nil || u.Inodes < 5 || u.Inodes > 40 || u.Size < 5<<20 || u.Size > 20<<20 {
			t.Errorf("%s: %+v, %v", key, u, err)
		}
	}
	fill("default/1/extract-1 a", "")
	if err := s.Commit(ctx, "a", "default/1/extract-1 a"); err != nil {
		t.Fatal(err)
	}
	before, err := s.Usage(ctx, "a")
	// The root directory is the first layer's.
	if err != nil || before.Inodes < 5 || before.Inodes > 6 {
		t.Errorf("%+v, %v", before, err)
	}
	fill("c1", "a")
	fill("c2", "a")
	if after, err := s.Usage(ctx, "a"); err != nil || after != before {
		t.Errorf("a layer's usage with containers is %+v, %v; was %+v", after, err, before)
	}
}
