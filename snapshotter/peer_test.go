package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// These are defects that a snapshotter on ZFS is known to have had, and the tests that they are not here. Those "on a
// pool" run in the VM, on real ZFS.
//
//	a failed Prepare keeps the database's transaction, and all wait for ever    TestFailedPrepareBlocksNobody
//	the mounts of a view are read-write                                         TestViewIsReadOnly
//	Remove fails where the dataset is gone, and garbage collection with it      TestRemoveWhatIsGone
//	a snapshot of a backup tool's blocks Remove                                 TestForeignSnapshots
//	Remove unmounts and destroys a live root file system                        TestRemoveWhatIsMounted, on a pool TestOnPool
//	Remove is not atomic; nothing reconciles after a crash                      TestCrash, TestOrphans, and every fault point: faults_test.go
//	no Cleaner                                                                  service: TestServe
//	ZFS works under the database's lock, and under containerd's                 TestNoLockAcrossZFS
//	Usage counts descendants, and is stale                                      TestUsageIsItsOwn, on a pool TestUsageOnPool
//	inodes are -1, which CRI makes 2^64-1                                       TestInodesAreNeverNegative
//	the context is ignored                                                      TestCallerGivesUp
//	no quota, no id maps, no capabilities                                       TestLabels, TestRemapIDs; integration/snapshotter: TestDropIns
//	no metrics                                                                  cmd/pvelxc-snapshotter: TestMetrics
//	Usage of 1,000 containers is 1,000 commands, every 10 s                     TestOperationsOfZFS, on a pool TestCountsOnPool
//	Prepare, Commit and Remove are 2 to 4 commands and 1 to 3 txgs each         TestTransactionGroups, on a pool TestCountsOnPool

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

// What is made of a snapshot is not counted as the snapshot's, and what is written to a container counts at once after
// ZFS has written it.
func TestUsageIsItsOwn(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a", "b")
	before, err := h.Usage(t.Context(), "b")
	h.must(err)
	for i := range 3 {
		m, err := h.Prepare(t.Context(), fmt.Sprint("c", i), "b")
		h.must(err)
		h.must(os.WriteFile(m[0].Source+"/much", make([]byte, 1<<20), 0o600))
	}
	after, err := h.Usage(t.Context(), "b")
	h.must(err)
	h.same("usage of a layer with containers", after, before)
	u, err := h.Usage(t.Context(), "c1")
	h.must(err)
	h.same("usage of a container", u, snapshots.Usage{Inodes: 1, Size: 1 << 20})
}

// A client that wants mapped ids where they cannot be had is told so, and what to do.
func TestRemapIDs(t *testing.T) {
	var why error
	h := open(t, nil, "", func(o *snapshotter.Options) { o.RemapIDs = func() error { return why } })
	h.chain("a")
	labels := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: "0:100000:65536", snapshots.LabelSnapshotGIDMapping: "0:100000:65536"})
	m, err := h.Prepare(t.Context(), "mapped", "a", labels)
	h.must(err)
	if !slices.Contains(m[0].Options, "uidmap=0:100000:65536") {
		t.Errorf("options %v", m[0].Options)
	}
	why = errors.New("an old kernel")
	for name, fn := range map[string]func(context.Context, string, string, ...snapshots.Opt) ([]mount.Mount, error){"prepare": h.Prepare, "view": h.View} {
		if _, err := fn(t.Context(), name, "a", labels); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "remap-ids") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := fn(t.Context(), name, "a"); err != nil {
			t.Errorf("%s without: %v", name, err)
		}
	}
}
