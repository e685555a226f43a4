package snapshotter

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// Remove makes tombstones of what stands behind a snapshot: no txg. A dataset that is not there any more is no error,
// and neither is one that is mounted: the worker waits for it.
func (s *Snapshotter) Remove(ctx context.Context, key string) (err error) {
	defer s.observe("remove", time.Now(), &err)
	err = s.update(ctx, func(ctx context.Context, r rows) error {
		id, _, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		row, ok, err := r.snapshot(id)
		if err != nil {
			return err
		}
		if ok && row.State != ready {
			return fmt.Errorf("an operation on it is under way: %w", errdefs.ErrFailedPrecondition)
		}
		_, kind, err := storage.Remove(ctx, key)
		if err != nil || !ok {
			return err
		}
		switch kind {
		case snapshots.KindActive:
			return s.forgetActive(r, id, row)
		case snapshots.KindCommitted:
			return s.forgetCommitted(r, id, row)
		}
		return r.deleteSnapshot(id)
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	s.wake()
	return nil
}

// forgetActive drops an active snapshot's row. Its dataset is buried, or, where committed layers live on it, the head
// is to be rolled back.
func (s *Snapshotter) forgetActive(r rows, id string, row snapshotRow) error {
	if err := r.deleteSnapshot(id); err != nil {
		return fmt.Errorf("write the metadata: %w", err)
	}
	d, ok, err := r.dataset(row.Dataset)
	if err != nil || !ok || d.Lease != id {
		return err
	}
	if len(d.Chain) == 0 {
		return r.bury(row.Dataset, d.Seq)
	}
	d.Lease, d.Dirty = "", true
	return r.putDataset(row.Dataset, d)
}

// forgetCommitted drops a committed snapshot's row; it has no children. Its spare clones go with it.
func (s *Snapshotter) forgetCommitted(r rows, id string, row snapshotRow) error {
	if err := r.deleteSnapshot(id); err != nil {
		return fmt.Errorf("write the metadata: %w", err)
	}
	for _, name := range r.spares(id)[id] {
		d, ok, err := r.dataset(name)
		if err != nil {
			return err
		}
		// One that is being made buries itself when it is done.
		if ok && d.State == ready {
			if err := r.bury(name, d.Seq); err != nil {
				return err
			}
		}
	}
	if err := r.bury(row.zfsName(), row.Seq); err != nil {
		return err
	}
	d, ok, err := r.dataset(row.Dataset)
	if err != nil || !ok {
		return err
	}
	d.Chain = d.without(id)
	if len(d.Chain) == 0 && d.Lease == "" {
		return r.bury(row.Dataset, d.Seq)
	}
	d.Dirty = d.Lease == ""
	return r.putDataset(row.Dataset, d)
}
