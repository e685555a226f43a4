package snapshotter

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// The remote-snapshot protocol: a client names the layer that it is about to unpack (snapshots.LabelSnapshotRef), and a
// snapshotter that has it already answers ErrAlreadyExists; then the layer is neither fetched nor unpacked nor checked.
// So the answer is given only for a layer whose content was checked here: its blob went through our own differ onto a
// dataset that held its parent and nothing else, and its chain id follows from that blob's digest and the parent's chain
// id (image-spec, config.md). What a label says is never believed.

// applied is what the differ has written to datasets that are not committed yet.
type applied struct {
	mu       sync.Mutex
	datasets map[string]*writes // guarded by mu
}

// writes are those of the differ to one dataset, since it was last prepared.
type writes struct {
	// running are those that have not ended, begun all of them.
	running, begun int
	// diff is the digest of the last layer, "" when it failed.
	diff digest.Digest
}

// Applying is told by the differ that it begins to write a layer to a dataset. The result must be called at the end, with
// the digest of the uncompressed layer, or "" when it failed.
func (s *Snapshotter) Applying(dataset string) (done func(digest.Digest)) {
	a := &s.applied
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.datasets[dataset]
	if w == nil {
		w = &writes{}
		a.datasets[dataset] = w
	}
	w.running++
	w.begun++
	return func(diff digest.Digest) {
		a.mu.Lock()
		defer a.mu.Unlock()
		w.running--
		w.diff = diff
	}
}

// busy says whether somebody still writes to a dataset, be it for a snapshot that was removed meanwhile.
func (a *applied) busy(dataset string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.datasets[dataset]
	return w != nil && w.running > 0
}

// take gives the digest of the only layer that was applied to a dataset, or "", and forgets it.
func (a *applied) take(dataset string) digest.Digest {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.datasets[dataset]
	if w == nil {
		return ""
	}
	if w.running > 0 {
		// It may be remembered for long, but not for what it is.
		w.begun++
		return ""
	}
	delete(a.datasets, dataset)
	if w.begun != 1 {
		return ""
	}
	return w.diff
}

// chain gives the chain id of a layer on its parent's, "" when it is not known.
func chain(parent snapshotRow, hasParent bool, diff digest.Digest) digest.Digest {
	switch {
	case diff == "" || hasParent && parent.Chain == "":
		return ""
	case !hasParent:
		return diff
	}
	return identity.ChainID([]digest.Digest{parent.Chain, diff})
}

// verified gives the chain id of what is about to be committed, "" when it was not made by the differ alone.
func (s *Snapshotter) verified(ctx context.Context, r rows, dataset, parent string) (digest.Digest, error) {
	diff := s.applied.take(dataset)
	if diff == "" || parent == "" {
		return chain(snapshotRow{}, parent != "", diff), nil
	}
	id, _, _, err := storage.GetInfo(ctx, parent)
	if err != nil {
		return "", err
	}
	row, _, err := r.snapshot(id)
	return chain(row, true, diff), err
}

// known says ErrAlreadyExists when a layer that a client is about to unpack is here: committed, on the same parent, and
// verified. containerd takes the first snapshot that says it is the layer, so all that say so must be it.
func (s *Snapshotter) known(ctx context.Context, p *request) error {
	if !s.opts.ShareLayers || p.ref == "" || !p.unpack {
		return nil
	}
	return s.view(ctx, func(ctx context.Context, r rows) error {
		var names []string
		filter := fmt.Sprintf("kind==committed,labels.%q==%s,parent==%q", snapshots.LabelSnapshotRef, p.ref, p.parent)
		err := storage.WalkInfo(ctx, func(_ context.Context, i snapshots.Info) error {
			names = append(names, i.Name)
			return nil
		}, filter)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		for _, name := range names {
			id, _, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return err
			}
			row, ok, err := r.snapshot(id)
			if err != nil {
				return err
			}
			if !ok || row.Chain == "" || row.Chain.String() != p.ref {
				return nil
			}
		}
		if len(names) == 0 {
			return nil
		}
		s.stats.Shared.Add(1)
		return fmt.Errorf("layer %s is here: %w", p.ref, errdefs.ErrAlreadyExists)
	})
}
