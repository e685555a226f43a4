package snapshotter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// propertyCommit is the user property of a committed snapshot: what the database knows of it, as JSON.
const propertyCommit = "pvelxc:commit"

// commitRecord is the value of propertyCommit.
type commitRecord struct {
	Name   string            `json:"name"`
	Parent string            `json:"parent,omitempty"`
	Chain  digest.Digest     `json:"chain,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// maxProperty is ZAP_MAXVALUELEN, less some room.
const maxProperty = 8000

func (c commitRecord) encode() (map[string]string, error) {
	raw, err := json.Marshal(c)
	if err == nil && len(raw) > maxProperty {
		c.Labels = nil
		raw, err = json.Marshal(c)
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", propertyCommit, err)
	}
	return map[string]string{propertyCommit: string(raw)}, nil
}

// commitment is one Commit.
type commitment struct {
	name, key string
	opts      []snapshots.Opt
	id        string
	row       snapshotRow
	seq       uint64
	record    commitRecord
	usage     snapshots.Usage
	tick      tick
}

// Commit makes a snapshot of an active one's dataset: one txg, in which the snapshot's properties are set as well.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) (err error) {
	defer s.observe("commit", time.Now(), &err)
	c := &commitment{name: name, key: key, opts: opts}
	if err := s.intendCommit(ctx, c); err != nil {
		return fmt.Errorf("commit %s as %s: %w", key, name, err)
	}
	snap := c.row.Dataset + "@" + c.row.Pending
	op := func(ctx context.Context) error {
		props, err := c.record.encode()
		if err != nil {
			return err
		}
		if err := s.b.Snapshot(ctx, snap, props); err != nil {
			return err
		}
		c.tick = now()
		i, err := s.b.Stat(ctx, snap)
		if err != nil {
			return err
		}
		before := c.row.Objects
		c.row.GUID, c.usage.Size = i.GUID, int64(i.Written)
		if n, err := s.b.Objects(ctx, snap); err == nil {
			c.row.Objects = n
		} else {
			log.G(ctx).WithError(err).WithField("dataset", snap).Warn("inodes of a commit are not counted")
		}
		c.usage.Inodes = max(0, int64(c.row.Objects)-int64(before))
		return nil
	}
	err = s.run(ctx, op, func(ctx context.Context, err error) error {
		if err == nil {
			err = s.finishCommit(ctx, c)
		}
		if err != nil {
			return s.undoCommit(ctx, c, err)
		}
		c.tick.pass()
		return nil
	})
	if err != nil {
		return fmt.Errorf("commit %s as %s: %w", key, name, err)
	}
	return nil
}

func (s *Snapshotter) intendCommit(ctx context.Context, c *commitment) error {
	for _, o := range c.opts {
		var base snapshots.Info
		if err := o(&base); err != nil {
			return err
		}
		if base.Labels != nil {
			c.record.Labels = base.Labels
		}
		if base.Parent != "" {
			c.record.Parent = base.Parent
		}
	}
	return s.update(ctx, func(ctx context.Context, r rows) error {
		id, info, _, err := storage.GetInfo(ctx, c.key)
		if err != nil {
			return err
		}
		if info.Kind != snapshots.KindActive {
			return fmt.Errorf("it is not active: %w", errdefs.ErrFailedPrecondition)
		}
		if c.record.Parent != "" && c.record.Parent != info.Parent {
			return fmt.Errorf("its parent cannot change: %w", errdefs.ErrInvalidArgument)
		}
		if _, _, _, err := storage.GetInfo(ctx, c.name); err == nil {
			return fmt.Errorf("snapshot %s: %w", c.name, errdefs.ErrAlreadyExists)
		}
		row, ok, err := r.snapshot(id)
		if err != nil || !ok {
			return errors.Join(err, notFound(ok, "it has lost its dataset"))
		}
		if row.State != ready {
			return fmt.Errorf("another operation on it is under way: %w", errdefs.ErrFailedPrecondition)
		}
		if c.seq, err = r.nextSeq(); err != nil {
			return fmt.Errorf("number the snapshot: %w", err)
		}
		if row.Chain, err = s.verified(ctx, r, row.Dataset, info.Parent); err != nil {
			return err
		}
		c.record.Name, c.record.Parent, c.record.Chain = c.name, info.Parent, row.Chain
		row.State, row.Pending, row.Seq = committing, newID(), c.seq
		c.id, c.row = id, row
		return r.putSnapshot(id, row)
	})
}

func (s *Snapshotter) finishCommit(ctx context.Context, c *commitment) error {
	return s.update(ctx, func(ctx context.Context, r rows) error {
		if _, err := storage.CommitActive(ctx, c.key, c.name, c.usage, c.opts...); err != nil {
			return err
		}
		d, ok, err := r.dataset(c.row.Dataset)
		if err != nil || !ok {
			return errors.Join(err, notFound(ok, "the row of %s is gone", c.row.Dataset))
		}
		row := c.row
		row.State, row.Snap, row.Pending, row.UIDMap, row.GIDMap = ready, row.Pending, "", "", ""
		d.Chain, d.Lease = append(d.Chain, c.id), ""
		return errors.Join(r.putDataset(row.Dataset, d), r.putSnapshot(c.id, row))
	})
}

func (s *Snapshotter) undoCommit(ctx context.Context, c *commitment, cause error) error {
	defer s.wake()
	return errors.Join(cause, s.update(ctx, func(_ context.Context, r rows) error {
		return s.revertCommit(r, c.id)
	}))
}

// revertCommit makes a row in state committing ready again, and buries the snapshot that there may be.
func (s *Snapshotter) revertCommit(r rows, id string) error {
	row, ok, err := r.snapshot(id)
	if err != nil || !ok || row.State != committing {
		return err
	}
	snap, seq := row.Dataset+"@"+row.Pending, row.Seq
	d, _, err := r.dataset(row.Dataset)
	if err != nil {
		return err
	}
	row.State, row.Pending, row.GUID, row.Seq, row.Chain = ready, "", d.GUID, 0, ""
	return errors.Join(r.putSnapshot(id, row), r.bury(snap, seq))
}

// Usage tells the space and inodes of a snapshot without its parents, at a cost that does not depend on its size.
// Of an active one it is what ZFS has written to disk; its inodes are counted while it is mounted.
func (s *Snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	defer s.observe("usage", time.Now(), &err)
	var row snapshotRow
	var info snapshots.Info
	err = s.view(ctx, func(ctx context.Context, r rows) error {
		var id string
		if id, info, usage, err = storage.GetInfo(ctx, key); err != nil {
			return err
		}
		row, _, err = r.snapshot(id)
		return err
	})
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage of %s: %w", key, err)
	}
	if info.Kind != snapshots.KindActive || row.Dataset == "" || row.State == creating {
		return usage, nil
	}
	i, err := s.b.Stat(ctx, row.Dataset)
	if zfs.IsNotExist(err) {
		return snapshots.Usage{}, nil
	}
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage of %s: %w", key, err)
	}
	usage.Size = int64(i.UsedByDataset)
	if n, err := s.b.Objects(ctx, row.Dataset); err == nil {
		usage.Inodes = max(0, int64(n)-int64(row.Objects))
	}
	return usage, nil
}
