package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// spare is a clone that is to be made.
type spare struct {
	dataset, of string
	from        snapshotRow
}

// spares compares the clones that wait with those that should: it gives those that are of no use, and of which layers
// how many are missing.
func (s *Snapshotter) spares(r rows) (useless []string, missing map[string]int, err error) {
	tuning := s.tuning.Load()
	wanted := s.recent.list(tuning.WarmLayers)
	if tuning.WarmClones == 0 {
		wanted = nil
	}
	have := r.spares("")
	for id, names := range have {
		if slices.Contains(wanted, id) {
			continue
		}
		for _, name := range names {
			d, ok, err := r.dataset(name)
			if err != nil {
				return nil, nil, err
			}
			if ok && d.State == ready {
				useless = append(useless, name)
			}
		}
	}
	missing = map[string]int{}
	for _, id := range wanted {
		from, ok, err := r.snapshot(id)
		if err != nil {
			return nil, nil, err
		}
		if n := tuning.WarmClones - len(have[id]); n > 0 && ok && from.Snap != "" {
			missing[id] = n
		}
	}
	return useless, missing, nil
}

// makeSpares clones the recently used layers ahead of the next container, and buries spares of others.
func (s *Snapshotter) makeSpares(ctx context.Context) error {
	// As a rule there is nothing to do, and nothing is written.
	idle := false
	err := s.view(ctx, func(_ context.Context, r rows) error {
		useless, missing, err := s.spares(r)
		idle = len(useless) == 0 && len(missing) == 0
		return err
	})
	if err != nil || idle {
		return err
	}
	var todo []spare
	err = s.update(ctx, func(_ context.Context, r rows) error {
		useless, missing, err := s.spares(r)
		if err != nil {
			return err
		}
		for _, name := range useless {
			d, _, err := r.dataset(name)
			if err != nil {
				return err
			}
			if err := r.bury(name, d.Seq); err != nil {
				return err
			}
		}
		for id, n := range missing {
			from, _, err := r.snapshot(id)
			if err != nil {
				return err
			}
			for range n {
				seq, err := r.nextSeq()
				if err != nil {
					return fmt.Errorf("number the dataset: %w", err)
				}
				n := spare{s.under + "/" + newID(), id, from}
				if err := errors.Join(r.putDataset(n.dataset, datasetRow{State: creating, Seq: seq, Spare: id}), r.putSpare(id, n.dataset)); err != nil {
					return err
				}
				todo = append(todo, n)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var result error
	for _, n := range todo {
		bg := context.WithoutCancel(ctx)
		err := s.b.Clone(bg, n.from.zfsName(), n.dataset)
		var guid uint64
		if err == nil {
			var i zfs.Info
			i, err = s.b.Stat(bg, n.dataset)
			guid = i.GUID
		}
		result = errors.Join(result, err, s.update(bg, func(_ context.Context, r rows) error {
			d, ok, e := r.dataset(n.dataset)
			if e != nil || !ok {
				return e
			}
			if _, still, e := r.snapshot(n.of); e != nil || !still || err != nil {
				return errors.Join(e, r.bury(n.dataset, d.Seq))
			}
			d.State, d.GUID = ready, guid
			return r.putDataset(n.dataset, d)
		}))
	}
	return result
}

// recent are the committed snapshots that containers were made of last, newest first.
type recent struct {
	mu  sync.Mutex
	ids []string // guarded by mu
}

// maxRecent bounds what is remembered, whatever the tuning will be.
const maxRecent = 1000

func (r *recent) use(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := append([]string{id}, slices.DeleteFunc(r.ids, func(o string) bool { return o == id })...)
	r.ids = ids[:min(len(ids), maxRecent)]
}

func (r *recent) list(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids[:min(len(r.ids), n)])
}
