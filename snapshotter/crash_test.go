package snapshotter_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// crash runs fn and gives a snapshotter that was opened on what the disk held when op reached ZFS: the intent in the
// database. With done, ZFS had done it; without, it had not.
func (h *house) crash(op string, done bool, fn func() error) *house {
	h.t.Helper()
	dir := h.t.TempDir()
	h.b.Inject(func(o, name string) error {
		if o != op {
			return nil
		}
		raw, err := os.ReadFile(filepath.Join(h.dir, "metadata.db"))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "metadata.db"), raw, 0o600)
		}
		if err != nil {
			h.t.Error(err)
		}
		if !done {
			return os.ErrProcessDone
		}
		return nil
	})
	err := fn()
	h.b.Inject(func(o, name string) error {
		// The dead process does nothing more.
		return nil
	})
	if (err == nil) != done {
		h.t.Errorf("%s: %v", op, err)
	}
	h.must(h.Snapshotter.Close())
	h.b.Inject(nil)
	return open(h.t, h.b, dir)
}

func TestCrash(t *testing.T) {
	for _, done := range []bool{false, true} {
		name := map[bool]string{false: "before ZFS", true: "after ZFS"}[done]
		t.Run("prepare/"+name, func(t *testing.T) {
			h := open(t, nil, "")
			h.chain("a")
			before := h.objects()
			h = h.crash("clone", done, func() error {
				_, err := h.Prepare(t.Context(), "c", "a")
				return err
			})
			h.must(h.Cleanup(t.Context()))
			h.same("objects", h.objects(), before)
			if _, err := h.Stat(t.Context(), "c"); !errdefs.IsNotFound(err) {
				t.Errorf("stat: %v", err)
			}
			_, err := h.Prepare(t.Context(), "c", "a")
			h.must(err)
		})
		t.Run("commit/"+name, func(t *testing.T) {
			h := open(t, nil, "")
			h.chain("a")
			const key = "n/1/extract-1 x"
			m, err := h.Prepare(t.Context(), key, "a")
			h.must(err)
			h.must(os.WriteFile(m[0].Source+"/kept", nil, 0o600))
			before := h.objects()
			h = h.crash("snapshot", done, func() error { return h.Commit(t.Context(), "b", key) })
			h.must(h.Cleanup(t.Context()))
			h.same("objects", h.objects(), before)
			i, err := h.Stat(t.Context(), key)
			h.must(err)
			h.same("kind", i.Kind, snapshots.KindActive)
			h.must(h.Commit(t.Context(), "b", key))
			_, err = h.View(t.Context(), "v", "b")
			h.must(err)
			h.same("files", h.files("v"), []string{"a", "kept"})
		})
		t.Run("remove/"+name, func(t *testing.T) {
			h := open(t, nil, "")
			h.chain("a")
			before := h.objects()
			_, err := h.Prepare(t.Context(), "c", "a")
			h.must(err)
			dir := t.TempDir()
			h.b.Inject(func(op, name string) error {
				if op != "destroy" {
					return nil
				}
				raw, err := os.ReadFile(filepath.Join(h.dir, "metadata.db"))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, "metadata.db"), raw, 0o600)
				}
				if err != nil {
					t.Error(err)
				}
				if !done {
					return os.ErrProcessDone
				}
				return nil
			})
			h.must(h.Remove(t.Context(), "c"))
			h.must(h.Cleanup(t.Context()))
			h.must(h.Close())
			h.b.Inject(nil)
			h = open(t, h.b, dir)
			h.must(h.Cleanup(t.Context()))
			h.same("objects", h.objects(), before)
		})
	}
}

// A database older than the pool: what it does not know of ours goes, what is not ours stays.
func TestOrphans(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	h.must(h.Close())
	raw, err := os.ReadFile(filepath.Join(h.dir, "metadata.db"))
	h.must(err)
	before := h.objects()
	h = open(t, h.b, h.dir)
	h.layer("b", "a")
	_, err = h.Prepare(t.Context(), "c", "b")
	h.must(err)
	h.must(h.b.Create(t.Context(), under+"/mine", nil))
	h.must(h.b.Snapshot(t.Context(), under+"/"+before[0]+"@autosnap", nil))
	h.must(h.Close())
	dir := t.TempDir()
	h.must(os.WriteFile(filepath.Join(dir, "metadata.db"), raw, 0o600))
	h = open(t, h.b, dir)
	// The head of a holds b's files, though ZFS says that nothing was written since its last snapshot.
	_, err = h.Prepare(t.Context(), "n/1/extract-9 x", "a")
	h.must(err)
	h.same("files of a layer on a", h.files("n/1/extract-9 x"), []string{"a"})
	h.must(h.Remove(t.Context(), "n/1/extract-9 x"))
	h.must(h.Cleanup(t.Context()))
	want := []string{before[0], before[1], before[0] + "@autosnap", "mine"}
	slices.Sort(want)
	h.same("objects", h.objects(), want)
}

// As long as a removed layer's snapshot is there, ZFS says of its head that nothing was written since the last one.
func TestHeadOfRemovedLayer(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a", "b")
	h.b.Inject(func(op, name string) error {
		if op == "destroy" {
			return &zfs.Error{Op: op, Name: name, Kind: zfs.ErrBusy}
		}
		return nil
	})
	h.must(h.Remove(t.Context(), "b"))
	_, err := h.Prepare(t.Context(), "n/1/extract-9 x", "a")
	h.must(err)
	h.same("files of a layer on a", h.files("n/1/extract-9 x"), []string{"a"})
}

func TestLostDatabase(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	h.must(h.Close())
	_, err := snapshotter.Open(t.Context(), snapshotter.Options{Root: "tank/pvelxc", Dir: t.TempDir(), Backend: h.b})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("open without the database: %v", err)
	}
	// The one it belongs to still opens.
	h = open(t, h.b, h.dir)
	_, err = h.Stat(t.Context(), "a")
	h.must(err)
}

func TestRewoundPool(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	_, err := h.Prepare(t.Context(), "c", "a")
	h.must(err)
	for _, name := range h.objects() {
		h.b.SetGUID(under+"/"+name, 4711)
	}
	if _, err := h.Mounts(t.Context(), "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("mounts of what was replaced: %v", err)
	}
	_, err = h.Stat(t.Context(), "c")
	h.must(err)
	// Nothing is made of it: neither a layer on its head nor a clone.
	for _, key := range []string{"n/1/extract-1 x", "d"} {
		if _, err := h.Prepare(t.Context(), key, "a"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "hint:") {
			t.Errorf("prepare %s on what was replaced: %v", key, err)
		}
		if _, err := h.Stat(t.Context(), key); !errdefs.IsNotFound(err) {
			t.Errorf("stat of what was refused: %v", err)
		}
	}
}
