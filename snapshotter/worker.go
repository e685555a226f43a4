package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

const (
	// retryEvery is how often tombstones that were busy are looked at.
	retryEvery = 15 * time.Second
	maxBackoff = 5 * time.Minute
	// What is removed is destroyed when nothing was asked of us for destroyAfter, and destroyLatest after the first of it
	// at the latest: a thousand containers that go one after the other are a few batches, however long that takes.
	destroyAfter  = time.Second
	destroyLatest = 10 * time.Second
)

// wake makes the worker look for something to do.
func (s *Snapshotter) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// work is the worker, until Close.
func (s *Snapshotter) work() {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	batch := time.NewTimer(destroyAfter)
	defer batch.Stop()
	// first is the oldest request that no batch has followed.
	var first time.Time
	for {
		destroy := true
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		case <-batch.C:
		case <-s.kick:
			destroy = false
			if first.IsZero() {
				first = time.Now()
			}
			batch.Reset(min(destroyAfter, time.Until(first.Add(destroyLatest))))
		}
		if destroy {
			first = time.Time{}
		}
		if err := s.pass(s.ctx, destroy, false); err != nil && s.ctx.Err() == nil {
			log.G(s.ctx).WithError(err).Warn("cleaning up is not complete and will be tried again")
		}
	}
}

// Cleanup destroys what was removed, and returns when that is done as far as it can be: what is still mounted stays
// for later. It is snapshots.Cleaner.
func (s *Snapshotter) Cleanup(ctx context.Context) (err error) {
	defer s.observe("cleanup", time.Now(), &err)
	done := make(chan error, 1)
	s.ops.Go(func() { done <- s.pass(ctx, true, true) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		// What the kernel does not end, as on a suspended pool, keeps the caller no longer.
		return fmt.Errorf("cleaning up goes on in the background: %w", context.Cause(ctx))
	}
}

// pass destroys tombstones when it is told to, rolls dirty heads back, and makes spare clones. With force it tries
// those that were busy a moment ago as well.
func (s *Snapshotter) pass(ctx context.Context, destroy, force bool) error {
	select {
	case <-s.passes:
	case <-ctx.Done():
		return fmt.Errorf("waiting for another pass: %w", context.Cause(ctx))
	}
	defer func() { s.passes <- struct{}{} }()
	var err error
	if destroy {
		err = s.destroyTombstones(ctx, force)
	}
	return errors.Join(err, s.rollbackHeads(ctx), s.makeSpares(ctx))
}

func (s *Snapshotter) destroyTombstones(ctx context.Context, force bool) error {
	due := map[string]tombstone{}
	err := s.view(ctx, func(_ context.Context, r rows) error {
		tombs, err := r.tombstones()
		for name, t := range tombs {
			if force || !time.Now().Before(t.NotBefore) {
				due[name] = t
			}
		}
		return err
	})
	if err != nil || len(due) == 0 {
		return err
	}
	names := newestFirst(due)
	for _, name := range names {
		s.opts.Release(name)
	}
	failed, err := s.b.Destroy(ctx, names)
	if err != nil {
		return err
	}
	for name := range failed {
		if err := s.explain(ctx, name, due); err != nil {
			return err
		}
	}
	// The result is written even when the context ended meanwhile.
	return s.update(context.WithoutCancel(ctx), func(_ context.Context, r rows) error {
		for _, name := range names {
			why, bad := failed[name]
			if !bad {
				s.stats.Destroyed.Add(1)
				if err := r.deleteTombstone(name); err != nil {
					return fmt.Errorf("write the metadata: %w", err)
				}
				continue
			}
			s.stats.Busy.Add(1)
			t := due[name]
			t.NotBefore = time.Now().Add(min(maxBackoff, time.Second<<min(t.Attempts, 10)))
			t.Attempts++
			t.Why = why.Error()
			if err := r.putTombstone(name, t); err != nil {
				return err
			}
		}
		return nil
	})
}

// explain says once why a tombstone stays, and deals with the snapshots of others.
func (s *Snapshotter) explain(ctx context.Context, name string, due map[string]tombstone) error {
	if !zfs.IsSnapshot(name) {
		snaps, err := s.b.Snapshots(ctx, name)
		if err != nil && !zfs.IsNotExist(err) {
			return err
		}
		var foreign []string
		for _, i := range snaps {
			if _, ours := due[i.Name]; !ours && i.Local[propertyCommit] == "" {
				foreign = append(foreign, i.Name)
			}
		}
		if len(foreign) > 0 && s.tuning.Load().ForeignSnapshots == DestroyForeign {
			log.G(ctx).WithField("dataset", name).WithField("snapshots", foreign).Info("destroying the snapshots of others on a removed dataset")
			_, err := s.b.Destroy(ctx, append(foreign, name))
			return err
		}
		if len(foreign) > 0 && due[name].Attempts == 0 {
			log.G(ctx).WithField("dataset", name).WithField("snapshots", foreign).
				Warn("a removed dataset stays, as others' snapshots are on it (hint: destroy them, or foreign_snapshots = \"destroy\")")
			return nil
		}
	}
	if due[name].Attempts == 0 {
		entry := log.G(ctx).WithField("dataset", name)
		if h, ok := zfs.FindHolder("/proc", name); ok {
			entry = entry.WithField("holder", h.String())
		}
		entry.Info("a removed dataset is still in use and will be destroyed later")
	}
	return nil
}

// rollbackHeads makes dirty heads fit for leases, and gives their space back.
func (s *Snapshotter) rollbackHeads(ctx context.Context) error {
	todo := map[string]string{}
	err := s.view(ctx, func(_ context.Context, r rows) error {
		for _, name := range r.dirty() {
			d, ok, err := r.dataset(name)
			if err != nil {
				return err
			}
			if !ok || d.Lease != "" || d.last() == "" || r.buried(name) || s.applied.busy(name) {
				continue
			}
			row, ok, err := r.snapshot(d.last())
			if err != nil {
				return err
			}
			if ok {
				todo[name] = row.zfsName()
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var result error
	for name, snap := range todo {
		s.opts.Release(name)
		// Others' snapshots are in the way for as long as they are there: then the head is simply not leased.
		if err := s.b.Rollback(ctx, snap); err != nil {
			if !errors.Is(err, zfs.ErrExist) && !zfs.IsNotExist(err) && !zfs.IsBusy(err) {
				result = errors.Join(result, err)
			}
			continue
		}
		err := s.update(context.WithoutCancel(ctx), func(_ context.Context, r rows) error {
			d, ok, err := r.dataset(name)
			if err != nil || !ok || !d.Dirty {
				return err
			}
			if row, _, err := r.snapshot(d.last()); err != nil || row.zfsName() != snap {
				return err
			}
			d.Dirty = false
			return r.putDataset(name, d)
		})
		result = errors.Join(result, err)
	}
	return result
}
