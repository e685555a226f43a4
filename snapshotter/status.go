package snapshotter

import (
	"context"
	"slices"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// Counts is how much there is of what a snapshotter keeps.
type Counts struct {
	// Snapshots are all of containerd's; Datasets are file systems of ours, of which Spares wait for a container.
	Snapshots, Datasets, Spares int
	// Tombstones wait to be destroyed; Busy are those of them that were found in use.
	Tombstones int
	Busy       []string
}

// Counts counts, in the database alone.
func (s *Snapshotter) Counts(ctx context.Context) (c Counts, err error) {
	err = s.view(ctx, func(_ context.Context, r rows) error {
		c.Snapshots = r.ours.Bucket(bucketSnapshots).Stats().KeyN
		c.Datasets = r.ours.Bucket(bucketDatasets).Stats().KeyN
		c.Spares = r.ours.Bucket(bucketSpares).Stats().KeyN
		tombs, err := r.tombstones()
		c.Tombstones = len(tombs)
		for name, t := range tombs {
			if t.Attempts > 0 {
				c.Busy = append(c.Busy, name)
			}
		}
		slices.Sort(c.Busy)
		return err
	})
	return c, err
}

// Holders says who keeps what cannot be destroyed: by the name of the dataset or snapshot, the first process that has it
// mounted. What nobody here has mounted, such as what has a clone, is left out. proc is /proc.
func (c Counts) Holders(proc string) map[string]zfs.Holder {
	holders := map[string]zfs.Holder{}
	for _, name := range c.Busy {
		if h, ok := zfs.FindHolder(proc, name); ok {
			holders[name] = h
		}
	}
	return holders
}
