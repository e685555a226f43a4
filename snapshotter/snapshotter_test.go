package snapshotter_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/fake"
)

const under = "tank/pvelxc/s"

// house is a snapshotter on the model.
type house struct {
	*snapshotter.Snapshotter
	t   *testing.T
	b   *fake.Backend
	dir string
}

func open(t *testing.T, b *fake.Backend, dir string, change ...func(*snapshotter.Options)) *house {
	t.Helper()
	if b == nil {
		var err error
		if b, err = fake.New(t.TempDir(), "tank"); err != nil {
			t.Fatal(err)
		}
	}
	if dir == "" {
		dir = t.TempDir()
	}
	o := snapshotter.Options{Root: "tank/pvelxc", Dir: dir, Backend: b}
	for _, c := range change {
		c(&o)
	}
	s, err := snapshotter.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &house{s, t, b, dir}
}

func warm(o *snapshotter.Options) { o.WarmLayers, o.WarmClones = 2, 1 }

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// objects are the datasets and snapshots below ours.
func (h *house) objects() []string {
	l := []string{}
	for _, n := range h.b.Names() {
		if rest, ok := strings.CutPrefix(n, under+"/"); ok {
			l = append(l, rest)
		}
	}
	return l
}

func (h *house) layer(name, parent string) {
	h.t.Helper()
	key := "k8s.io/7/extract-" + name + " sha256:" + name
	m, err := h.Prepare(h.t.Context(), key, parent)
	h.must(err)
	h.must(os.WriteFile(filepath.Join(m[0].Source, name), []byte(name), 0o644))
	h.must(h.Commit(h.t.Context(), name, key))
}

func (h *house) chain(names ...string) {
	h.t.Helper()
	parent := ""
	for _, n := range names {
		h.layer(n, parent)
		parent = n
	}
}

func (h *house) files(key string) []string {
	h.t.Helper()
	m, err := h.Mounts(h.t.Context(), key)
	h.must(err)
	entries, err := os.ReadDir(m[0].Source)
	h.must(err)
	l := []string{}
	for _, e := range entries {
		l = append(l, e.Name())
	}
	return l
}

func (h *house) same(what string, got, want any) {
	h.t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		h.t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// Two images that share layers: the second branches off.
func TestBranch(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a", "b")
	h.layer("c", "a")
	h.layer("d", "c")
	_, err := h.View(t.Context(), "vb", "b")
	h.must(err)
	_, err = h.View(t.Context(), "vd", "d")
	h.must(err)
	h.same("image 1", h.files("vb"), []string{"a", "b"})
	h.same("image 2", h.files("vd"), []string{"a", "c", "d"})
	if n := h.Stats().Leases.Load(); n != 2 {
		t.Errorf("%d leases, want b's and d's", n)
	}
}

// Two unpack the same layer: one has the head, the other a clone, and both are whole.
func TestLeaseIsExclusive(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	ctx := t.Context()
	one, err := h.Prepare(ctx, "n/1/extract-1 x", "a")
	h.must(err)
	two, err := h.Prepare(ctx, "n/2/extract-2 x", "a")
	h.must(err)
	if one[0].Source == two[0].Source {
		t.Fatal("two have the head")
	}
	h.must(os.WriteFile(one[0].Source+"/one", nil, 0o600))
	h.same("the other's", h.files("n/2/extract-2 x"), []string{"a"})
	h.must(h.Commit(ctx, "b", "n/1/extract-1 x"))
	if err := h.Commit(ctx, "b", "n/2/extract-2 x"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second commit: %v", err)
	}
	h.must(h.Remove(ctx, "n/2/extract-2 x"))
}

// An aborted layer leaves nothing on the head.
func TestAbortRollsBack(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a", "b")
	ctx := t.Context()
	key := "n/1/extract-9 x"
	m, err := h.Prepare(ctx, key, "b")
	h.must(err)
	h.must(os.WriteFile(m[0].Source+"/half", nil, 0o600))
	h.must(h.Remove(ctx, key))
	h.must(h.Cleanup(ctx))
	h.layer("c", "b")
	_, err = h.View(ctx, "v", "c")
	h.must(err)
	h.same("files", h.files("v"), []string{"a", "b", "c"})
	if n := len(slices.DeleteFunc(h.objects(), func(n string) bool { return strings.Contains(n, "@") })); n != 1 {
		t.Errorf("%d datasets: the head was not leased again", n)
	}
}

// A database of a version that had no index of dirty heads gets one: they are rolled back and leased again.
func TestDirtyHeadOfAnEarlierVersion(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	ctx := t.Context()
	h.b.Inject(func(op, name string) error {
		if op == "rollback" {
			return &zfs.Error{Op: op, Name: name, Kind: zfs.ErrBusy}
		}
		return nil
	})
	_, err := h.Prepare(ctx, "n/1/extract-9 x", "a")
	h.must(err)
	h.must(h.Remove(ctx, "n/1/extract-9 x"))
	h.must(h.Cleanup(ctx))
	h.must(h.Close())
	h.b.Inject(nil)
	db, err := bolt.Open(filepath.Join(h.dir, "metadata.db"), 0o600, nil)
	h.must(err)
	h.must(db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("pvelxc")).DeleteBucket([]byte("dirty")) }))
	h.must(db.Close())
	h = open(t, h.b, h.dir)
	h.must(h.Cleanup(ctx))
	h.layer("b", "a")
	if n := h.Stats().Leases.Load(); n != 1 {
		t.Errorf("%d leases: the head was not leased again", n)
	}
}

// A pass that finds nothing to do writes nothing: each write is an fsync that requests wait for.
func TestIdlePassWritesNothing(t *testing.T) {
	writes := 0
	var mu sync.Mutex
	h := open(t, nil, "", warm, func(o *snapshotter.Options) {
		o.SetStep(func(point string) {
			mu.Lock()
			defer mu.Unlock()
			if point == "write: after" {
				writes++
			}
		})
	})
	h.chain("a")
	_, err := h.Prepare(t.Context(), "c", "a")
	h.must(err)
	h.must(h.Cleanup(t.Context()))
	h.must(h.Cleanup(t.Context()))
	mu.Lock()
	before := writes
	mu.Unlock()
	for range 5 {
		h.must(h.Cleanup(t.Context()))
	}
	mu.Lock()
	defer mu.Unlock()
	if writes != before {
		t.Errorf("cleaning up where nothing is to be done writes to the database, %d times in 5", writes-before)
	}
}

// What somebody writes to a head after its commit is in no layer.
func TestHeadWrittenAfterCommit(t *testing.T) {
	h := open(t, nil, "")
	key := "n/1/extract-1 x"
	m, err := h.Prepare(t.Context(), key, "")
	h.must(err)
	h.must(h.Commit(t.Context(), "a", key))
	h.must(os.WriteFile(m[0].Source+"/late", []byte("late"), 0o600))
	h.layer("b", "a")
	_, err = h.View(t.Context(), "v", "b")
	h.must(err)
	h.same("files", h.files("v"), []string{"b"})
}

func TestRemoveImageLayerByLayer(t *testing.T) {
	h := open(t, nil, "", warm)
	ctx := t.Context()
	h.chain("a", "b", "c")
	_, err := h.Prepare(ctx, "ct", "c")
	h.must(err)
	if err := h.Remove(ctx, "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove with a child: %v", err)
	}
	for _, k := range []string{"ct", "c", "b"} {
		h.must(h.Remove(ctx, k))
		h.must(h.Cleanup(ctx))
	}
	h.layer("d", "a")
	_, err = h.View(ctx, "v", "d")
	h.must(err)
	h.same("files", h.files("v"), []string{"a", "d"})
	for _, k := range []string{"v", "d", "a"} {
		h.must(h.Remove(ctx, k))
	}
	h.must(h.Cleanup(ctx))
	h.same("left", h.objects(), []string{})
}

func TestLabels(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	m, err := h.Prepare(t.Context(), "c", "a", snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotMaxSize: "1048576", snapshots.LabelSnapshotUIDMapping: "0:100000:65536", snapshots.LabelSnapshotGIDMapping: "0:200000:65536",
	}))
	h.must(err)
	h.same("options", m[0].Options, []string{"rbind", "rw", "uidmap=0:100000:65536", "gidmap=0:200000:65536"})
	again, err := h.Mounts(t.Context(), "c")
	h.must(err)
	h.same("mounts again", again, m)
	for _, name := range h.objects() {
		i, err := h.b.Stat(t.Context(), under+"/"+name)
		h.must(err)
		if i.Origin != "" && i.Refquota != 1<<20 {
			t.Errorf("refquota %d", i.Refquota)
		}
	}
	for _, bad := range []string{"", "-1", "0", "1G", "99999999999999999999"} {
		_, err := h.Prepare(t.Context(), "bad", "a", snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotMaxSize: bad}))
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("max-size %q: %v", bad, err)
		}
	}
}

func TestUsage(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a", "b")
	u, err := h.Usage(t.Context(), "b")
	h.must(err)
	h.same("a layer of one file of one byte", u, snapshots.Usage{Inodes: 1, Size: 1})
	m, err := h.Prepare(t.Context(), "c", "b")
	h.must(err)
	h.must(os.WriteFile(m[0].Source+"/x", make([]byte, 100), 0o600))
	h.must(os.WriteFile(m[0].Source+"/y", make([]byte, 100), 0o600))
	u, err = h.Usage(t.Context(), "c")
	h.must(err)
	h.same("a container", u, snapshots.Usage{Inodes: 2, Size: 200})
	_, err = h.View(t.Context(), "v", "b")
	h.must(err)
	u, err = h.Usage(t.Context(), "v")
	h.must(err)
	h.same("a view", u, snapshots.Usage{})
}

// An operation that the kernel does not end: the caller is told in time, nobody else waits, and when it ends after all,
// nothing of it stays.
func TestCallerGivesUp(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	before := h.objects()
	gate := make(chan struct{})
	h.b.Inject(func(op, _ string) error {
		if op == "clone" {
			<-gate
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := h.Prepare(ctx, "slow", "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("prepare: %v", err)
	}
	h.layer("b", "a")
	if err := h.Remove(t.Context(), "slow"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove what is being made: %v", err)
	}
	close(gate)
	h.must(h.Remove(t.Context(), "b"))
	poll(t, "the clone to be gone", func() bool {
		h.must(h.Cleanup(t.Context()))
		return cmp.Equal(h.objects(), before)
	})
	if _, err := h.Stat(t.Context(), "slow"); !errdefs.IsNotFound(err) {
		t.Errorf("stat: %v", err)
	}
}

// The same for cleaning up: it keeps nobody beyond the context, and does not end with it either.
func TestCleanupGivesUp(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	before := h.objects()
	gate, entered := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.b.Inject(func(op, _ string) error {
		if op == "destroy" {
			once.Do(func() { close(entered) })
			<-gate
		}
		return nil
	})
	_, err := h.Prepare(t.Context(), "c", "a")
	h.must(err)
	h.must(h.Remove(t.Context(), "c"))
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := h.Cleanup(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the worker waits: %v", err)
	}
	// Requests do not wait for it.
	_, err = h.Prepare(t.Context(), "d", "a")
	h.must(err)
	h.must(h.Remove(t.Context(), "d"))
	close(gate)
	poll(t, "the clones to be gone", func() bool {
		h.must(h.Cleanup(t.Context()))
		return cmp.Equal(h.objects(), before)
	})
}

func poll(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for wait, total := time.Millisecond, time.Duration(0); total < 30*time.Second; total, wait = total+wait, min(2*wait, 100*time.Millisecond) {
		if fn() {
			return
		}
		time.Sleep(wait)
	}
	t.Fatalf("waited for %s", what)
}

func TestErrorsOfZFS(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	before := h.objects()
	for kind, is := range map[error]func(error) bool{
		zfs.ErrNoSpace:   errdefs.IsResourceExhausted,
		zfs.ErrSuspended: errdefs.IsUnavailable,
		zfs.ErrReadOnly:  errdefs.IsFailedPrecondition,
	} {
		h.b.Inject(func(op, name string) error {
			if op == "clone" || op == "snapshot" || op == "create" {
				return &zfs.Error{Op: op, Name: name, Kind: kind}
			}
			return nil
		})
		_, err := h.Prepare(t.Context(), "c", "a")
		if !is(err) {
			t.Errorf("prepare with %v: %v", kind, err)
		}
		_, err = h.Prepare(t.Context(), "n/1/extract-1 x", "a")
		h.must(err)
		if err := h.Commit(t.Context(), "b", "n/1/extract-1 x"); !is(err) {
			t.Errorf("commit with %v: %v", kind, err)
		}
		h.b.Inject(nil)
		// It is as before: it can be committed, or removed, and the key is free.
		h.must(h.Remove(t.Context(), "n/1/extract-1 x"))
		_, err = h.Prepare(t.Context(), "c", "a")
		h.must(err)
		h.must(h.Remove(t.Context(), "c"))
		h.must(h.Cleanup(t.Context()))
		h.same("objects", h.objects(), before)
	}
}
