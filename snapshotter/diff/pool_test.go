package diff_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/snapshotter"
	ourdiff "github.com/pvelxc/pvelxc/snapshotter/diff"
	"github.com/pvelxc/pvelxc/snapshotter/mounts"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/probe"
)

// poolBench is a snapshotter and its Differ on a real pool.
type poolBench struct {
	*bench
	b  zfs.Backend
	sn *snapshotter.Snapshotter
}

func newPoolBench(t *testing.T) *poolBench {
	device := os.Getenv("VM_POOL_DEVICE")
	if device == "" {
		t.Skip("needs VM_POOL_DEVICE: an empty device for a real pool")
	}
	run := func(args ...string) {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	run("zpool", "create", "-f", "-O", "mountpoint=none", "diff", device)
	t.Cleanup(func() { run("zpool", "destroy", "-f", "diff") })
	b, err := probe.Open(t.Context(), "ioctl")
	must(t, err)
	t.Cleanup(func() { b.Close() })
	base := newBench(t)
	pool := mounts.New(mounts.Datasets("diff/pvelxc/s"))
	t.Cleanup(pool.Close)
	sn, err := snapshotter.Open(t.Context(), snapshotter.Options{Root: "diff/pvelxc", Dir: t.TempDir(), Backend: b, Release: pool.Release})
	must(t, err)
	t.Cleanup(func() { must(t, sn.Close()) })
	base.pool = pool
	base.Differ = ourdiff.New(ourdiff.Options{
		Mounts: pool, Content: base.store, Leases: leaseManager{leaseStore: base.store},
		Descends: func(ctx context.Context, lower, upper mount.Mount) bool {
			return zfs.Descends(ctx, b, lower.Source, upper.Source)
		},
	})
	return &poolBench{base, b, sn}
}

// txg is the last one of the pool that was synced.
func (b *poolBench) txg() int {
	out, err := os.ReadFile("/proc/spl/kstat/zfs/diff/txgs")
	must(b.t, err)
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

func (b *poolBench) unpack(name, parent string, raw []byte) {
	b.t.Helper()
	key := "moon/1/extract-1 " + name
	m, err := b.sn.Prepare(b.ctx, key, parent)
	must(b.t, err)
	_, err = b.Apply(b.ctx, b.blob(ocispec.MediaTypeImageLayer, raw), m)
	must(b.t, err)
	must(b.t, b.sn.Commit(b.ctx, name, key))
}

// mounted calls fn with a path to mounts.
func mounted(t *testing.T, m []mount.Mount, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	must(t, mount.All(m, dir))
	defer func() { must(t, mount.UnmountAll(dir, 0)) }()
	fn(dir)
}

// Ten layers are one mount that nobody sees, and little more than one txg each.
func TestUnpackOnPool(t *testing.T) {
	b := newPoolBench(t)
	// Only what is waited for makes a txg.
	const timeout = "/sys/module/zfs/parameters/zfs_txg_timeout"
	old, err := os.ReadFile(timeout)
	must(t, err)
	must(t, os.WriteFile(timeout, []byte("3600"), 0o600))
	t.Cleanup(func() { os.WriteFile(timeout, old, 0o600) })
	before, mounts := b.txg(), mountsOf(t, "diff/pvelxc")
	parent := ""
	start := time.Now()
	for i := range 10 {
		name := fmt.Sprint("layer", i)
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for f := range 30 {
			must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("l%d/f%d", i, f), Mode: 0o644, Size: 5, ModTime: time.Unix(1e9, 0)}))
			_, err := w.Write([]byte("hello"))
			must(t, err)
		}
		must(t, w.Close())
		b.unpack(name, parent, buf.Bytes())
		if n := mountsOf(t, "diff/pvelxc"); n != mounts {
			t.Errorf("%d mounts are visible", n-mounts)
		}
		parent = name
	}
	// One for each snapshot, and one for the dataset.
	n := b.txg() - before
	if n > 12 {
		t.Errorf("10 layers took %d txgs, want at most 12", n)
	}
	t.Logf("10 layers: %d txgs in %s", n, time.Since(start))
	children, err := b.b.Children(b.ctx, "diff/pvelxc/s")
	must(t, err)
	if len(children) != 1 {
		t.Errorf("10 layers are %d datasets", len(children))
	}
	v, err := b.sn.View(b.ctx, "v", parent)
	must(t, err)
	mounted(t, v, func(dir string) {
		if l, err := filepath.Glob(dir + "/*/*"); err != nil || len(l) != 300 {
			t.Errorf("%d files, %v", len(l), err)
		}
	})
	// What was removed is destroyed though it was just written to.
	must(t, b.sn.Remove(b.ctx, "v"))
	m, err := b.sn.Prepare(b.ctx, "moon/1/extract-1 gone", parent)
	must(t, err)
	_, err = b.Apply(b.ctx, b.blob(ocispec.MediaTypeImageLayer, layer(t, 5)), m)
	must(t, err)
	must(t, b.sn.Remove(b.ctx, "moon/1/extract-1 gone"))
	for i := range 10 {
		must(t, b.sn.Remove(b.ctx, fmt.Sprint("layer", 9-i)))
	}
	must(t, b.sn.Cleanup(b.ctx))
	if children, err = b.b.Children(b.ctx, "diff/pvelxc/s"); err != nil || len(children) != 0 {
		t.Errorf("%d datasets stay, %v", len(children), err)
	}
}

// One changed file among many: the layer is containerd's, and no other file is read.
func TestCompareOnPool(t *testing.T) {
	b := newPoolBench(t)
	const files = 300
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range files {
		data := bytes.Repeat([]byte{byte(i)}, 2000)
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i%50, i), Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1e9, 0)}))
		_, err := w.Write(data)
		must(t, err)
	}
	must(t, w.Close())
	b.unpack("image", "", buf.Bytes())
	upper, err := b.sn.Prepare(b.ctx, "container", "image")
	must(t, err)
	mounted(t, upper, func(dir string) {
		f, err := os.OpenFile(dir+"/d7/f7", os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("!"), 1000)
		must(t, err)
		must(t, f.Close())
		// Size and time as they were: only the content tells.
		must(t, os.Chtimes(dir+"/d7/f7", time.Unix(1e9, 0), time.Unix(1e9, 0)))
	})
	lower, err := b.sn.View(b.ctx, "lower", "image")
	must(t, err)
	if !zfs.Descends(b.ctx, b.b, lower[0].Source, upper[0].Source) {
		t.Fatal("a container does not descend from its image")
	}
	theirs := walking.NewWalkingDiff(b.store)
	opt := diff.WithMediaType(ocispec.MediaTypeImageLayer)
	ctx := leases.WithLease(b.ctx, "test")
	before := reads(t)
	got, err := b.Compare(ctx, lower, upper, opt)
	must(t, err)
	// The one file on both sides, and what else a process reads.
	if n := reads(t) - before; n > files/3 {
		t.Errorf("%d reads to compare %d files of which one was changed", n, files)
	}
	want, err := theirs.Compare(ctx, lower, upper, opt)
	must(t, err)
	if got.Digest != want.Digest || got.Size > 10000 {
		t.Fatalf("%+v, want %+v", got, want)
	}
}

// reads is how often this process has called read(2) and the like.
func reads(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/io")
	must(t, err)
	var n int
	_, rest, ok := strings.Cut(string(raw), "syscr: ")
	if _, err := fmt.Sscan(rest, &n); err != nil || !ok {
		t.Fatalf("no syscr in %q", raw)
	}
	return n
}

// Random changes to a container: the short cut by inode and time of change misses none.
func TestCompareRandomOnPool(t *testing.T) {
	b := newPoolBench(t)
	b.unpack("image", "", layer(t, 150))
	theirs := walking.NewWalkingDiff(b.store)
	ctx := leases.WithLease(b.ctx, "test")
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 2))
		key := fmt.Sprint("container", seed)
		upper, err := b.sn.Prepare(ctx, key, "image")
		must(t, err)
		mounted(t, upper, func(dir string) {
			all, err := filepath.Glob(dir + "/*/*")
			must(t, err)
			for range 40 {
				p := all[r.IntN(len(all))]
				st, err := os.Lstat(p)
				if err != nil {
					continue
				}
				switch r.IntN(7) {
				case 0:
					must(t, os.Remove(p))
				case 1:
					must(t, os.Chmod(p, 0o600))
				case 2:
					// Made anew, with all that it had; it may get the inode number that another had.
					raw, err := os.ReadFile(p)
					must(t, err)
					must(t, os.Remove(p))
					must(t, os.WriteFile(p, raw, st.Mode()))
					must(t, os.Chtimes(p, st.ModTime(), st.ModTime()))
				case 3:
					if st.Size() > 0 {
						f, err := os.OpenFile(p, os.O_WRONLY, 0)
						must(t, err)
						_, err = f.WriteAt([]byte{byte(r.Uint32())}, r.Int64N(st.Size()))
						must(t, err)
						must(t, f.Close())
						must(t, os.Chtimes(p, st.ModTime(), st.ModTime()))
					}
				case 4:
					must(t, os.Rename(p, all[r.IntN(len(all))]))
				case 6:
					capability := []byte{1, 0, 0, 2, 0, byte(1 << r.IntN(8)), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
					must(t, unix.Setxattr(p, "security.capability", capability, 0))
				case 5:
					must(t, os.Link(p, fmt.Sprintf("%s-%d", p, r.Uint32())))
				}
			}
		})
		lower, err := b.sn.View(ctx, "lower"+key, "image")
		must(t, err)
		opt := diff.WithMediaType(ocispec.MediaTypeImageLayer)
		got, err := b.Compare(ctx, lower, upper, opt)
		must(t, err)
		want, err := theirs.Compare(ctx, lower, upper, opt)
		must(t, err)
		if got.Digest != want.Digest {
			t.Errorf("seed %d: %+v, want %+v", seed, got, want)
		}
	}
}
