package snapshotter_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// These are defects that a snapshotter on ZFS is known to have had. Each test is one.

// A failed Prepare must not keep the database's transaction.
func TestFailedPrepareBlocksNobody(t *testing.T) {
	h := open(t, nil, "")
	if _, err := h.Prepare(t.Context(), "c", "none"); !errdefs.IsNotFound(err) {
		t.Errorf("prepare on a missing parent: %v", err)
	}
	h.b.Inject(func(op, name string) error {
		if op == "create" {
			return &zfs.Error{Op: op, Name: name, Kind: zfs.ErrFailed}
		}
		return nil
	})
	for range 3 {
		if _, err := h.Prepare(t.Context(), "c", ""); !errors.Is(err, zfs.ErrFailed) {
			t.Errorf("prepare: %v", err)
		}
	}
	h.b.Inject(nil)
	h.chain("a")
}

// The mounts of a view are read-only, those of View as well as those of Mounts.
func TestViewIsReadOnly(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	for _, parent := range []string{"a", ""} {
		m, err := h.View(t.Context(), "v"+parent, parent)
		h.must(err)
		again, err := h.Mounts(t.Context(), "v"+parent)
		h.must(err)
		h.same("mounts", again, m)
		if !slices.Contains(m[0].Options, "ro") {
			t.Errorf("options %v", m[0].Options)
		}
		if err := h.Commit(t.Context(), "x", "v"+parent); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("commit of a view: %v", err)
		}
	}
}

// One dataset that somebody destroyed must not stop containerd's garbage collection.
func TestRemoveWhatIsGone(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	_, err := h.Prepare(t.Context(), "c", "a")
	h.must(err)
	names := h.objects()
	slices.Reverse(names)
	for range 3 {
		for _, n := range names {
			_, err := h.b.Destroy(t.Context(), []string{under + "/" + n})
			h.must(err)
		}
	}
	h.same("objects", h.objects(), []string{})
	if _, err := h.Mounts(t.Context(), "c"); !errdefs.IsNotFound(err) {
		t.Errorf("mounts: %v", err)
	}
	if _, err := h.Prepare(t.Context(), "d", "a"); !errdefs.IsNotFound(err) {
		t.Errorf("prepare: %v", err)
	}
	_, err = h.Usage(t.Context(), "c")
	h.must(err)
	h.must(h.Remove(t.Context(), "c"))
	h.must(h.Remove(t.Context(), "a"))
	h.must(h.Cleanup(t.Context()))
}

// A snapshot that a backup tool made must not stop Remove. It is kept, or destroyed when that is asked for.
func TestForeignSnapshots(t *testing.T) {
	for policy, left := range map[snapshotter.Foreign]int{snapshotter.KeepForeign: 2, snapshotter.DestroyForeign: 0} {
		h := open(t, nil, "", func(o *snapshotter.Options) { o.ForeignSnapshots = policy })
		h.chain("a")
		h.must(h.b.Snapshot(t.Context(), under+"/"+h.objects()[0]+"@autosnap_daily", nil))
		h.must(h.Remove(t.Context(), "a"))
		h.must(h.Cleanup(t.Context()))
		h.must(h.Cleanup(t.Context()))
		if got := h.objects(); len(got) != left || left > 0 && !strings.HasSuffix(got[1], "@autosnap_daily") {
			t.Errorf("%s: left %v", policy, got)
		}
	}
}

// A container's live root file system is not destroyed under it, and goes once it is unmounted.
func TestRemoveWhatIsMounted(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	before := h.objects()
	_, err := h.Prepare(t.Context(), "c", "a")
	h.must(err)
	var ct string
	for _, n := range h.objects() {
		if !slices.Contains(before, n) {
			ct = under + "/" + n
		}
	}
	h.b.SetBusy(ct, true)
	h.must(h.Remove(t.Context(), "c"))
	h.must(h.Cleanup(t.Context()))
	if _, err := h.b.Stat(t.Context(), ct); err != nil {
		t.Fatalf("the live root file system is gone: %v", err)
	}
	// The key is free at once, and the image can be removed as well.
	_, err = h.Prepare(t.Context(), "c", "a")
	h.must(err)
	h.must(h.Remove(t.Context(), "c"))
	h.must(h.Remove(t.Context(), "a"))
	h.must(h.Cleanup(t.Context()))
	h.b.SetBusy(ct, false)
	h.must(h.Cleanup(t.Context()))
	h.must(h.Cleanup(t.Context()))
	h.same("left", h.objects(), []string{})
}

// While ZFS works for one, others read and write the metadata.
func TestNoLockAcrossZFS(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	gate, entered := make(chan struct{}), make(chan struct{})
	h.b.Inject(func(op, name string) error {
		if op == "snapshot" {
			close(entered)
			<-gate
		}
		return nil
	})
	_, err := h.Prepare(t.Context(), "n/1/extract-1 x", "a")
	h.must(err)
	done := make(chan error)
	go func() { done <- h.Commit(t.Context(), "b", "n/1/extract-1 x") }()
	<-entered
	_, err = h.Prepare(t.Context(), "c", "a")
	h.must(err)
	_, err = h.Update(t.Context(), snapshots.Info{Name: "c", Labels: map[string]string{"x": "y"}})
	h.must(err)
	_, err = h.Stat(t.Context(), "n/1/extract-1 x")
	h.must(err)
	h.must(h.Remove(t.Context(), "c"))
	if err := h.Remove(t.Context(), "n/1/extract-1 x"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove what is being committed: %v", err)
	}
	close(gate)
	h.must(<-done)
}

// Inodes are counted, and never less than none.
func TestInodesAreNeverNegative(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a", "b")
	for _, key := range []string{"a", "b"} {
		u, err := h.Usage(t.Context(), key)
		h.must(err)
		if u.Inodes < 0 || u.Size < 0 {
			t.Errorf("%s: %+v", key, u)
		}
	}
}
