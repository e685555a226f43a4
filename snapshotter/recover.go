package snapshotter

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// Recovery tells what Recover found.
type Recovery struct {
	// Layers are the names of the committed snapshots that are known again.
	Layers []string
	// Nameless are datasets without a layer: containers, whose names only the lost file had. They are left alone from
	// then on, until somebody destroys them.
	Nameless []string
	// Refused are snapshots that cannot be what they say they are, each with the reason.
	Refused []string
}

// Recover writes a new metadata.db from what ZFS knows: every layer's snapshot carries its name, parent and labels. It
// changes nothing in ZFS, and refuses to replace a file. Containers are not recovered: their datasets stay, and containerd
// is told that they are gone when it asks for them.
func Recover(ctx context.Context, opts Options) (*Recovery, error) {
	file := filepath.Join(opts.Dir, metadataFile)
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recover: %s is there (hint: move it away if it is damaged): %w", file, errors.Join(err, errdefs.ErrAlreadyExists))
	}
	draft := file + ".draft"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recover: %w", err)
	}
	// One that stays is removed by the next call.
	defer func() { _ = os.Remove(draft) }()
	ms, err := storage.NewMetaStore(draft)
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	s := &Snapshotter{opts: opts, b: opts.Backend, ms: ms, under: opts.Root + "/s"}
	r := &recovery{s: s, names: map[string]found{}}
	if err := errors.Join(r.run(ctx), ms.Close()); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	// A link, unlike a rename, replaces nothing.
	if err := os.Link(draft, file); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	return &r.result, nil
}

// metadataFile is the database's name in Options.Dir.
const metadataFile = "metadata.db"

type recovery struct {
	s        *Snapshotter
	instance string
	datasets []zfs.Info
	snaps    []found
	names    map[string]found // by the name of the layer
	result   Recovery
}

// found is a snapshot that says it is a layer.
type found struct {
	zfs.Info
	record commitRecord
	id     string
}

func (r *recovery) run(ctx context.Context) error {
	if err := r.read(ctx); err != nil {
		return err
	}
	// What is made of something was made after it.
	slices.SortStableFunc(r.snaps, func(a, b found) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
	return r.s.update(ctx, func(ctx context.Context, t rows) error {
		if err := t.ours.Put(keyInstance, []byte(r.instance)); err != nil {
			return err
		}
		if err := r.putDatasets(t); err != nil {
			return err
		}
		// Snapshots of one txg may be in any order.
		for todo := r.snaps; len(todo) > 0; {
			var later []found
			for _, f := range todo {
				if _, ok := r.names[f.record.Parent]; !ok && f.record.Parent != "" {
					later = append(later, f)
					continue
				}
				if err := r.add(ctx, t, f); err != nil {
					return err
				}
			}
			if len(later) == len(todo) {
				for _, f := range later {
					r.refuse(f, "its parent %s is not there", f.record.Parent)
				}
				return nil
			}
			todo = later
		}
		return nil
	})
}

func (r *recovery) refuse(f found, format string, args ...any) {
	r.result.Refused = append(r.result.Refused, fmt.Sprintf("%s (%s): ", f.Name, f.record.Name)+fmt.Sprintf(format, args...))
}

// read lists all that is below the root.
func (r *recovery) read(ctx context.Context) error {
	root, err := r.s.b.Stat(ctx, r.s.opts.Root)
	if err != nil {
		return err
	}
	if r.instance = root.Local[propertyInstance]; r.instance == "" {
		return fmt.Errorf("%s has no property %s: it was never a snapshotter's: %w", r.s.opts.Root, propertyInstance, errdefs.ErrFailedPrecondition)
	}
	children, err := r.s.b.Children(ctx, r.s.under)
	if err != nil {
		return err
	}
	for _, c := range children {
		if !idForm.MatchString(strings.TrimPrefix(c.Name, r.s.under+"/")) {
			continue
		}
		snaps, err := r.s.b.Snapshots(ctx, c.Name)
		if err != nil {
			return err
		}
		layers := 0
		for _, i := range snaps {
			raw := i.Local[propertyCommit]
			if raw == "" {
				continue
			}
			f := found{Info: i}
			if err := json.Unmarshal([]byte(raw), &f.record); err != nil || f.record.Name == "" {
				r.refuse(f, "its property %s says %q", propertyCommit, raw)
				continue
			}
			layers++
			r.snaps = append(r.snaps, f)
		}
		if layers == 0 {
			r.result.Nameless = append(r.result.Nameless, c.Name)
		}
		r.datasets = append(r.datasets, c)
	}
	return nil
}

// putDatasets numbers datasets before all snapshots but in their order of creation, and rolls every head back: what was
// being written to it nobody knows any more.
func (r *recovery) putDatasets(t rows) error {
	slices.SortStableFunc(r.datasets, func(a, b zfs.Info) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
	for _, d := range r.datasets {
		row := datasetRow{State: ready, GUID: d.GUID, Seq: d.CreateTXG, Quota: d.Refquota != 0, Dirty: true}
		if err := t.putDataset(d.Name, row); err != nil {
			return err
		}
	}
	return t.ours.SetSequence(orphanSeq >> 1)
}

// add makes the rows of one layer.
func (r *recovery) add(ctx context.Context, t rows, f found) error {
	dataset := zfs.Dataset(f.Name)
	d, _, err := t.dataset(dataset)
	if err != nil {
		return err
	}
	if other, ok := r.names[f.record.Name]; ok {
		r.refuse(f, "%s is the same layer", other.Name)
		return nil
	}
	// A layer goes on where its parent ends: on the same dataset, or on a clone of it.
	base := ""
	if last := d.last(); last != "" {
		row, _, err := t.snapshot(last)
		if err != nil {
			return err
		}
		base = row.zfsName()
	} else if i := slices.IndexFunc(r.datasets, func(i zfs.Info) bool { return i.Name == dataset }); i >= 0 {
		base = r.datasets[i].Origin
	}
	parent := r.names[f.record.Parent]
	if base != parent.Name {
		r.refuse(f, "it was made on %q, and its parent is %q", base, parent.Name)
		return nil
	}
	objects, err := r.s.b.Objects(ctx, f.Name)
	if err != nil {
		return err
	}
	before := uint64(0)
	if parent.id != "" {
		row, _, err := t.snapshot(parent.id)
		if err != nil {
			return err
		}
		before = row.Objects
	}
	usage := snapshots.Usage{Size: int64(f.Written), Inodes: max(0, int64(objects)-int64(before))}
	key := "recovering " + f.record.Name
	made, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, f.record.Parent)
	if err != nil {
		return err
	}
	if _, err := storage.CommitActive(ctx, key, f.record.Name, usage, snapshots.WithLabels(f.record.Labels)); err != nil {
		return err
	}
	_, snap, _ := strings.Cut(f.Name, "@")
	f.id = made.ID
	r.names[f.record.Name] = f
	r.result.Layers = append(r.result.Layers, f.record.Name)
	d.Chain = append(d.Chain, made.ID)
	row := snapshotRow{State: ready, Dataset: dataset, Snap: snap, GUID: f.GUID, Seq: f.CreateTXG, Objects: objects, Chain: f.record.Chain}
	return errors.Join(t.putDataset(dataset, d), t.putSnapshot(made.ID, row))
}
