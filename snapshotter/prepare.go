package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// Prepare makes an active snapshot: on the parent's own head for a layer that is unpacked onto it, else a clone.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) (m []mount.Mount, err error) {
	defer s.observe("prepare", time.Now(), &err)
	p, err := s.request(key, parent, opts)
	if err != nil {
		return nil, err
	}
	if err := s.known(ctx, p); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", key, err)
	}
	if err := s.plan(ctx, p); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", key, err)
	}
	if p.leased {
		if err := s.checkHead(ctx, p); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", key, err)
		}
	}
	if p.row.State == creating {
		if err := s.create(ctx, p); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", key, err)
		}
	}
	s.applied.take(p.row.Dataset)
	if parent != "" && !p.unpack {
		s.recent.use(p.parentID)
		s.wake()
	}
	return s.mounts(p.row, false), nil
}

// request is one Prepare.
type request struct {
	key, parent string
	opts        []snapshots.Opt
	quota       uint64
	unpack      bool
	// ref is the chain id of the layer that will be unpacked, where the client tells it.
	ref string

	id, parentID string
	from         snapshotRow // the parent's
	row          snapshotRow
	leased       bool
}

func (s *Snapshotter) request(key, parent string, opts []snapshots.Opt) (*request, error) {
	p := &request{key: key, parent: parent, opts: opts}
	var base snapshots.Info
	for _, o := range opts {
		if err := o(&base); err != nil {
			return nil, err
		}
	}
	if text, ok := base.Labels[snapshots.LabelSnapshotMaxSize]; ok {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("prepare %s: label %s=%q is no size in bytes: %w", key, snapshots.LabelSnapshotMaxSize, text, errdefs.ErrInvalidArgument)
		}
		p.quota = uint64(n)
	}
	p.ref = base.Labels[snapshots.LabelSnapshotRef]
	p.row.UIDMap = base.Labels[snapshots.LabelSnapshotUIDMapping]
	p.row.GIDMap = base.Labels[snapshots.LabelSnapshotGIDMapping]
	if (p.row.UIDMap == "") != (p.row.GIDMap == "") {
		return nil, fmt.Errorf("prepare %s: one of the labels for uid and gid mappings without the other: %w", key, errdefs.ErrInvalidArgument)
	}
	if p.row.UIDMap != "" && s.opts.RemapIDs != nil {
		if err := s.opts.RemapIDs(); err != nil {
			return nil, fmt.Errorf("prepare %s with mapped ids (hint: take remap-ids out of the capabilities of [proxy_plugins.pvelxc]; then containerd changes every file's owner): %w: %w",
				key, err, errdefs.ErrNotImplemented)
		}
	}
	// containerd's metadata puts "namespace/number/" before a client's key.
	p.unpack = strings.HasPrefix(key[strings.LastIndexByte(key, '/')+1:], snapshots.UnpackKeyPrefix+"-")
	return p, nil
}

// plan decides where the snapshot will be and writes that down, with the row in state creating when ZFS has to act.
func (s *Snapshotter) plan(ctx context.Context, p *request) error {
	return s.update(ctx, func(ctx context.Context, r rows) error {
		made, err := storage.CreateSnapshot(ctx, snapshots.KindActive, p.key, p.parent, p.opts...)
		if err != nil {
			return err
		}
		p.id = made.ID
		if len(made.ParentIDs) > 0 {
			p.parentID = made.ParentIDs[0]
			var ok bool
			if p.from, ok, err = r.snapshot(p.parentID); err != nil || !ok {
				return errors.Join(err, notFound(ok, "parent %s has lost its dataset", p.parent))
			}
			p.row.Objects = p.from.Objects
		}
		if done, err := s.lease(r, p); done || err != nil {
			return err
		}
		if done, err := s.takeSpare(r, p); done || err != nil {
			return err
		}
		return s.intend(r, p)
	})
}

func notFound(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrNotFound)...)
}

// lease gives the head of the parent's dataset to a layer, when the parent is the last of its chain.
func (s *Snapshotter) lease(r rows, p *request) (bool, error) {
	if !p.unpack || p.parentID == "" || p.quota != 0 {
		return false, nil
	}
	d, ok, err := r.dataset(p.from.Dataset)
	if err != nil || !ok || d.Lease != "" || d.Dirty || d.Quota || d.last() != p.parentID || s.applied.busy(p.from.Dataset) {
		return false, err
	}
	d.Lease = p.id
	p.leased = true
	p.row.State, p.row.Dataset, p.row.GUID = ready, p.from.Dataset, d.GUID
	return true, errors.Join(r.putDataset(p.from.Dataset, d), r.putSnapshot(p.id, p.row))
}

// takeSpare takes a clone that waits.
func (s *Snapshotter) takeSpare(r rows, p *request) (bool, error) {
	if p.unpack || p.parentID == "" || p.quota != 0 || s.tuning.Load().WarmClones == 0 {
		return false, nil
	}
	for _, name := range r.spares(p.parentID)[p.parentID] {
		d, ok, err := r.dataset(name)
		if err != nil {
			return false, err
		}
		if !ok || d.State != ready {
			continue
		}
		d.Spare, d.Lease = "", p.id
		p.row.State, p.row.Dataset, p.row.GUID = ready, name, d.GUID
		s.stats.WarmHits.Add(1)
		return true, errors.Join(r.dropSpare(p.parentID, name), r.putDataset(name, d), r.putSnapshot(p.id, p.row))
	}
	s.stats.WarmMisses.Add(1)
	return false, nil
}

// intend writes down a dataset that will be made.
func (s *Snapshotter) intend(r rows, p *request) error {
	seq, err := r.nextSeq()
	if err != nil {
		return fmt.Errorf("number the dataset: %w", err)
	}
	p.row.State, p.row.Dataset, p.row.GUID = creating, s.under+"/"+newID(), 0
	d := datasetRow{State: creating, Seq: seq, Lease: p.id, Quota: p.quota != 0}
	return errors.Join(r.putDataset(p.row.Dataset, d), r.putSnapshot(p.id, p.row))
}

// checkHead sees that a leased head is what the parent is: somebody may have written after the commit, or rewound the
// pool to a time before it. If it is not, the lease becomes a clone. It reads, and changes nothing in ZFS.
func (s *Snapshotter) checkHead(ctx context.Context, p *request) error {
	if err := s.verify(ctx, p.from); err != nil {
		return s.undo(context.WithoutCancel(ctx), p, err)
	}
	i, err := s.b.Stat(ctx, p.row.Dataset)
	if err == nil && i.Written == 0 && i.GUID == p.row.GUID {
		s.stats.Leases.Add(1)
		return nil
	}
	if err != nil && !zfs.IsNotExist(err) {
		return s.undo(context.WithoutCancel(ctx), p, err)
	}
	p.leased = false
	old := p.row.Dataset
	defer s.wake()
	return s.update(context.WithoutCancel(ctx), func(_ context.Context, r rows) error {
		d, ok, err := r.dataset(old)
		if err != nil {
			return err
		}
		if ok {
			d.Lease, d.Dirty = "", true
			if err := r.putDataset(old, d); err != nil {
				return err
			}
		}
		return s.intend(r, p)
	})
}

// create makes the dataset of an intent.
func (s *Snapshotter) create(ctx context.Context, p *request) error {
	op := func(ctx context.Context) error {
		var err error
		if p.parentID == "" {
			err = s.b.Create(ctx, p.row.Dataset, nil)
		} else if err = s.verify(ctx, p.from); err == nil {
			err = s.b.Clone(ctx, p.from.zfsName(), p.row.Dataset)
		}
		if err != nil {
			return err
		}
		if p.quota != 0 {
			if err := s.b.SetProperty(ctx, p.row.Dataset, "refquota", strconv.FormatUint(p.quota, 10)); err != nil {
				return err
			}
		}
		i, err := s.b.Stat(ctx, p.row.Dataset)
		p.row.GUID = i.GUID
		return err
	}
	return s.run(ctx, op, func(ctx context.Context, err error) error {
		if err == nil {
			err = s.update(ctx, func(_ context.Context, r rows) error {
				d, ok, err := r.dataset(p.row.Dataset)
				if err != nil || !ok {
					return errors.Join(err, notFound(ok, "the intent of %s is gone", p.row.Dataset))
				}
				d.State, d.GUID = ready, p.row.GUID
				p.row.State = ready
				return errors.Join(r.putDataset(p.row.Dataset, d), r.putSnapshot(p.id, p.row))
			})
		}
		if err != nil {
			return s.undo(ctx, p, err)
		}
		return nil
	})
}

// undo takes back what plan wrote, and buries what ZFS may have made. It gives the cause, and what failed besides.
func (s *Snapshotter) undo(ctx context.Context, p *request, cause error) error {
	defer s.wake()
	err := s.update(ctx, func(ctx context.Context, r rows) error {
		if _, _, err := storage.Remove(ctx, p.key); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return s.forgetActive(r, p.id, p.row)
	})
	return errors.Join(cause, err)
}

// View makes a read-only view: the parent's ZFS snapshot itself, so nothing is made.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (m []mount.Mount, err error) {
	defer s.observe("view", time.Now(), &err)
	p, err := s.request(key, parent, opts)
	if err != nil {
		return nil, err
	}
	p.row.State = ready
	if parent == "" {
		p.row.Dataset, p.row.Snap = s.under+"/"+emptyName, emptyName
		if p.row.GUID, err = s.ensureEmpty(ctx); err != nil {
			return nil, fmt.Errorf("view %s: %w", key, err)
		}
	}
	err = s.update(ctx, func(ctx context.Context, r rows) error {
		made, err := storage.CreateSnapshot(ctx, snapshots.KindView, key, parent, opts...)
		if err != nil {
			return err
		}
		if len(made.ParentIDs) > 0 {
			from, ok, err := r.snapshot(made.ParentIDs[0])
			if err != nil || !ok {
				return errors.Join(err, notFound(ok, "parent %s has lost its dataset", parent))
			}
			p.row.Dataset, p.row.Snap, p.row.GUID = from.Dataset, from.Snap, from.GUID
		}
		return r.putSnapshot(made.ID, p.row)
	})
	if err != nil {
		return nil, fmt.Errorf("view %s: %w", key, err)
	}
	return s.mounts(p.row, true), nil
}

// emptyName is the dataset, and its snapshot, that views without a parent show.
const emptyName = "empty"

// ensureEmpty makes the empty snapshot once. Two who make it at the same time both succeed.
func (s *Snapshotter) ensureEmpty(ctx context.Context) (uint64, error) {
	dataset := s.under + "/" + emptyName
	snap := dataset + "@" + emptyName
	i, err := s.b.Stat(ctx, snap)
	if err == nil || !zfs.IsNotExist(err) {
		return i.GUID, err
	}
	err = s.run(ctx, func(ctx context.Context) error {
		if err := s.b.Create(ctx, dataset, nil); err != nil && !errors.Is(err, zfs.ErrExist) {
			return err
		}
		if err := s.b.Snapshot(ctx, snap, nil); err != nil && !errors.Is(err, zfs.ErrExist) {
			return err
		}
		return nil
	}, func(_ context.Context, err error) error { return err })
	if err != nil {
		return 0, err
	}
	i, err = s.b.Stat(ctx, snap)
	return i.GUID, err
}

// Mounts tells how to mount an active snapshot or view, after a look whether it is still what it was.
func (s *Snapshotter) Mounts(ctx context.Context, key string) (m []mount.Mount, err error) {
	defer s.observe("mounts", time.Now(), &err)
	var row snapshotRow
	var kind snapshots.Kind
	err = s.view(ctx, func(ctx context.Context, r rows) error {
		snap, err := storage.GetSnapshot(ctx, key)
		if err != nil {
			return err
		}
		kind = snap.Kind
		var ok bool
		row, ok, err = r.snapshot(snap.ID)
		return errors.Join(err, notFound(ok, "it has lost its dataset"))
	})
	if err == nil {
		err = s.verify(ctx, row)
	}
	if err != nil {
		return nil, fmt.Errorf("mounts of %s: %w", key, err)
	}
	return s.mounts(row, kind == snapshots.KindView), nil
}

// verify compares a row with ZFS.
func (s *Snapshotter) verify(ctx context.Context, row snapshotRow) error {
	if row.State == creating {
		return fmt.Errorf("it is still being made: %w", errdefs.ErrUnavailable)
	}
	i, err := s.b.Stat(ctx, row.zfsName())
	if zfs.IsNotExist(err) {
		return fmt.Errorf("%s was destroyed by somebody else (hint: remove this container or image and make it again): %w", row.zfsName(), errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if i.GUID != row.GUID {
		return fmt.Errorf("%s is not the one that was made here: its pool was rewound, or it was replaced (hint: remove this container or image and make it again): %w",
			row.zfsName(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (s *Snapshotter) mounts(row snapshotRow, readonly bool) []mount.Mount {
	m := s.b.Mount(row.zfsName(), readonly)
	options := append([]string(nil), m.Options...)
	if row.UIDMap != "" {
		options = append(options, "uidmap="+row.UIDMap, "gidmap="+row.GIDMap)
	}
	return []mount.Mount{{Type: m.Type, Source: m.Source, Options: options}}
}
