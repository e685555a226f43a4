package snapshotter

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// propertyInstance is the user property of the root that says which database it belongs to. All below inherit it.
const propertyInstance = "pvelxc:instance"

// layoutProperties are the root's; everything inherits them, so that nothing else needs a property of its own.
var layoutProperties = map[string]string{
	"canmount": "off", "mountpoint": "legacy", "atime": "off", "compression": "lz4", "xattr": "sa",
	"acltype": "posixacl", "dnodesize": "auto", "com.sun:auto-snapshot": "false",
}

// layout makes the root and the file system under it, and sees that database and root belong together.
func (s *Snapshotter) layout(ctx context.Context) error {
	var instance string
	err := s.update(ctx, func(_ context.Context, r rows) error {
		instance = string(r.ours.Get(keyInstance))
		return nil
	})
	if err != nil {
		return err
	}
	root, err := s.b.Stat(ctx, s.opts.Root)
	if zfs.IsNotExist(err) {
		if err := s.b.Create(ctx, s.opts.Root, layoutProperties); err != nil {
			return fmt.Errorf("make the root dataset: %w", err)
		}
		root, err = s.b.Stat(ctx, s.opts.Root)
	}
	if err != nil {
		return fmt.Errorf("root dataset: %w", err)
	}
	if root.Mountpoint != "legacy" {
		return fmt.Errorf("root dataset %s has mountpoint %s (hint: zfs set mountpoint=legacy %s, if it is meant for the snapshotter alone): %w",
			s.opts.Root, root.Mountpoint, s.opts.Root, errdefs.ErrFailedPrecondition)
	}
	if _, err := s.b.Stat(ctx, s.under); zfs.IsNotExist(err) {
		err = s.b.Create(ctx, s.under, nil)
		if err != nil {
			return fmt.Errorf("make the dataset %s: %w", s.under, err)
		}
	} else if err != nil {
		return fmt.Errorf("dataset %s: %w", s.under, err)
	}
	marked := root.Local[propertyInstance]
	if marked != "" && marked == instance {
		return nil
	}
	children, err := s.b.Children(ctx, s.under)
	if err != nil {
		return fmt.Errorf("datasets below %s: %w", s.under, err)
	}
	if len(children) > 0 && (marked != "" || instance == "") {
		return fmt.Errorf("%s has %d datasets that %s/metadata.db does not know: it is another's, or the file was lost "+
			"(hint: restore the file, run pvelxc-snapshotter -recover, or give the snapshotter another root): %w", s.under, len(children), s.opts.Dir, errdefs.ErrFailedPrecondition)
	}
	if instance == "" {
		instance = newID()
		err := s.update(ctx, func(_ context.Context, r rows) error { return r.ours.Put(keyInstance, []byte(instance)) })
		if err != nil {
			return fmt.Errorf("write the metadata: %w", err)
		}
	}
	if err := s.b.SetProperty(ctx, s.opts.Root, propertyInstance, instance); err != nil {
		return fmt.Errorf("mark the root dataset: %w", err)
	}
	return nil
}

// reconcile undoes the intents of a process that was killed, and buries datasets and snapshots of ours that no row knows:
// both are what an operation left that containerd was told has failed. What is missing or replaced in ZFS is
// found when it is used (verify); here it is only reported.
func (s *Snapshotter) reconcile(ctx context.Context) error {
	if err := s.undoIntents(ctx); err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	children, err := s.b.Children(ctx, s.under)
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	snaps := map[string][]zfs.Info{}
	for _, c := range children {
		l, err := s.b.Snapshots(ctx, c.Name)
		if err != nil && !zfs.IsNotExist(err) {
			return fmt.Errorf("reconcile: %w", err)
		}
		snaps[c.Name] = l
	}
	err = s.update(ctx, func(ctx context.Context, r rows) error { return s.compare(ctx, r, children, snaps) })
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	s.wake()
	return nil
}

func (s *Snapshotter) undoIntents(ctx context.Context) error {
	return s.update(ctx, func(ctx context.Context, r rows) error {
		t, err := r.tables()
		if err != nil {
			return err
		}
		names, err := storage.IDMap(ctx)
		// Before the first snapshot there is no bucket for them.
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		err = nil
		for id, row := range t.snapshots {
			switch row.State {
			case creating:
				if key, ok := names[id]; ok {
					if _, _, err := storage.Remove(ctx, key); err != nil {
						return err
					}
				}
				err = s.forgetActive(r, id, row)
			case committing:
				err = s.revertCommit(r, id)
			}
			if err != nil {
				return err
			}
		}
		for name, d := range t.datasets {
			if d.State == creating || d.Spare != "" {
				err = r.bury(name, d.Seq)
			} else if d.Dirty {
				// A database of an earlier version has no index of these.
				err = r.markDirty(name)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// compare looks for what only one side knows.
func (s *Snapshotter) compare(ctx context.Context, r rows, children []zfs.Info, snaps map[string][]zfs.Info) error {
	t, err := r.tables()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, row := range t.snapshots {
		known[row.zfsName()] = true
	}
	seen := map[string]uint64{}
	for _, c := range children {
		seen[c.Name] = c.GUID
		for _, i := range snaps[c.Name] {
			seen[i.Name] = i.GUID
		}
		base := strings.TrimPrefix(c.Name, s.under+"/")
		if base == emptyName {
			continue
		}
		_, ours := t.datasets[c.Name]
		_, dead := t.tombs[c.Name]
		if !ours && !dead {
			if !idForm.MatchString(base) {
				log.G(ctx).WithField("dataset", c.Name).Warn("a dataset that is not ours lies below our root and is left alone")
				continue
			}
			// What was made last must go first.
			if err := r.bury(c.Name, orphanSeq+c.CreateTXG); err != nil {
				return err
			}
		}
		for _, i := range snaps[c.Name] {
			_, dead := t.tombs[i.Name]
			if known[i.Name] || dead || i.Local[propertyCommit] == "" {
				continue
			}
			if err := r.bury(i.Name, orphanSeq+i.CreateTXG); err != nil {
				return err
			}
			// The head is what the orphan is, and not what the last of the chain is.
			if d, ok, err := r.dataset(c.Name); err != nil {
				return err
			} else if ok && d.Lease == "" {
				d.Dirty = true
				if err := r.putDataset(c.Name, d); err != nil {
					return err
				}
			}
		}
	}
	for id, row := range t.snapshots {
		if guid, ok := seen[row.zfsName()]; !ok || guid != row.GUID {
			log.G(ctx).WithField("id", id).WithField("dataset", row.zfsName()).Warn("a snapshot's dataset was destroyed or replaced by somebody else")
		}
	}
	return nil
}

// orphanSeq is above every seq that is counted from 1, so that orphans, which nothing of ours is a clone of, go first.
const orphanSeq = 1 << 62
