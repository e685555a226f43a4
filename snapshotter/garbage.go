package snapshotter

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pvelxc/pvelxc/snapshotter/garbage"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

var _ garbage.Collector = (*Snapshotter)(nil)

// Garbage lists the tombstones, the datasets of ours that no row knows, and those whose container's name was lost with
// the database. What others put below the root is not garbage.
func (s *Snapshotter) Garbage(ctx context.Context) (items []garbage.Item, err error) {
	defer s.observe("garbage", time.Now(), &err)
	// ZFS first: every dataset is written down before it is made.
	children, err := s.b.Children(ctx, s.under)
	if err != nil {
		return nil, fmt.Errorf("garbage: %w", err)
	}
	var t tables
	err = s.view(ctx, func(_ context.Context, r rows) (err error) {
		t, err = r.tables()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("garbage: %w", err)
	}
	for name, tomb := range t.tombs {
		reason, err := s.whyBuried(ctx, name, tomb)
		if err != nil {
			return nil, fmt.Errorf("garbage: %w", err)
		}
		items = append(items, garbage.Item{Name: name, Reason: reason})
	}
	for _, c := range s.strangers(children, t) {
		items = append(items, garbage.Item{Name: c.Name, Reason: "no row of the database names it: an operation left it that did not end"})
	}
	for name, d := range t.datasets {
		if d.nameless() {
			items = append(items, garbage.Item{Name: name, Kept: true,
				Reason: "a container's, whose name was lost with metadata.db (hint: zfs destroy -r " + name + ", when nothing in it is wanted)"})
		}
	}
	slices.SortFunc(items, func(a, b garbage.Item) int { return cmp.Compare(a.Name, b.Name) })
	return items, nil
}

// whyBuried says what a tombstone waits for, as far as that can be found.
func (s *Snapshotter) whyBuried(ctx context.Context, name string, t tombstone) (string, error) {
	if t.Attempts == 0 {
		return "removed, and to be destroyed", nil
	}
	why := "removed, and cannot be destroyed: " + t.Why
	if h, ok := zfs.FindHolder("/proc", name); ok {
		why += "; it is mounted by " + h.String()
	}
	if zfs.IsSnapshot(name) {
		return why, nil
	}
	snaps, err := s.b.Snapshots(ctx, name)
	if err != nil && !zfs.IsNotExist(err) {
		return "", err
	}
	for _, i := range snaps {
		if i.Local[propertyCommit] == "" {
			return why + "; it has another's snapshot " + i.Name, nil
		}
	}
	return why, nil
}

// nameless says that a dataset is neither a layer's, nor written to, nor a spare: only Recover leaves such.
func (d datasetRow) nameless() bool {
	return d.State == ready && len(d.Chain) == 0 && d.Lease == "" && d.Spare == ""
}

// strangers are the datasets with names of ours that no row knows.
func (s *Snapshotter) strangers(children []zfs.Info, t tables) (found []zfs.Info) {
	for _, c := range children {
		_, row := t.datasets[c.Name]
		_, dead := t.tombs[c.Name]
		if !row && !dead && idForm.MatchString(strings.TrimPrefix(c.Name, s.under+"/")) {
			found = append(found, c)
		}
	}
	return found
}

// Reclaim buries what no row knows, as Open does, and destroys all that is buried. A dataset that was destroyed between
// the two looks is buried in vain, which does no harm: no name is used twice.
func (s *Snapshotter) Reclaim(ctx context.Context) (err error) {
	defer s.observe("reclaim", time.Now(), &err)
	children, err := s.b.Children(ctx, s.under)
	if err != nil {
		return fmt.Errorf("reclaim: %w", err)
	}
	err = s.update(ctx, func(_ context.Context, r rows) error {
		t, err := r.tables()
		if err != nil {
			return err
		}
		for _, c := range s.strangers(children, t) {
			if err := r.bury(c.Name, orphanSeq+c.CreateTXG); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reclaim: %w", err)
	}
	return s.Cleanup(ctx)
}
