package snapshotter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// Foreign says what becomes of snapshots on our datasets that others made, once they are all that keeps a dataset
// from being destroyed.
type Foreign string

const (
	// KeepForeign leaves them, and with them the dataset, and reports it.
	KeepForeign Foreign = "keep"
	// DestroyForeign destroys them.
	DestroyForeign Foreign = "destroy"
)

// Tuning is what Tune changes of the options.
type Tuning struct {
	// WarmLayers is the number of recently used layers of which spare clones wait for the next container, and
	// WarmClones how many of each. 0 of either: none.
	WarmLayers, WarmClones int
	// ForeignSnapshots is KeepForeign when empty.
	ForeignSnapshots Foreign
}

func (t *Tuning) check() error {
	if t.ForeignSnapshots == "" {
		t.ForeignSnapshots = KeepForeign
	}
	if t.ForeignSnapshots != KeepForeign && t.ForeignSnapshots != DestroyForeign {
		return fmt.Errorf("foreign snapshots %q: want keep or destroy: %w", t.ForeignSnapshots, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Options of a Snapshotter.
type Options struct {
	// Root is the dataset that is ours; it is made when its parent exists.
	Root string
	// Dir is the directory of metadata.db. It must not lie on Root's pool when that pool may be rewound.
	Dir string
	// Backend is how ZFS is reached. Close does not close it.
	Backend zfs.Backend
	// WarmLayers, WarmClones and ForeignSnapshots are the Tuning to begin with.
	WarmLayers, WarmClones int
	ForeignSnapshots       Foreign
	// ShareLayers answers a client that is about to unpack a layer that another of containerd's namespaces has unpacked with
	// ErrAlreadyExists. The namespace then has the snapshot without the blob: it runs containers, and cannot push or
	// save the image.
	ShareLayers bool
	// RemapIDs, when not nil, says why datasets cannot be mounted with mapped ids, which is asked when a client wants it.
	RemapIDs func() error
	// Release, when not nil, is told of a dataset that is about to be destroyed or rolled back, so that whoever of us has it
	// mounted lets go of it.
	Release func(dataset string)
	// Observe, when not nil, is told of every operation: its name, duration and result.
	Observe func(op string, took time.Duration, err error)

	// step, when not nil, is called before and after each write of the database becomes durable: where tests end the
	// process.
	step func(point string)
}

// Snapshotter implements snapshots.Snapshotter and snapshots.Cleaner.
type Snapshotter struct {
	opts Options
	b    zfs.Backend
	ms   *storage.MetaStore
	// under is the file system directly above all of ours.
	under string

	// ctx ends with Close.
	ctx    context.Context //nolint:containedctx // the worker's life, not a request's
	cancel context.CancelFunc
	kick   chan struct{}
	ops    sync.WaitGroup
	closed atomic.Bool

	// passes holds a token while no pass of the worker or Cleanup runs. Requests never take it.
	passes  chan struct{}
	recent  recent
	tuning  atomic.Pointer[Tuning]
	applied applied

	stats Stats
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// Stats are counters since Open.
type Stats struct {
	// WarmHits and WarmMisses count containers' Prepares with and without a waiting clone; Leases those of layers
	// that went on a head.
	WarmHits, WarmMisses, Leases atomic.Uint64
	// Shared counts layers that were there already.
	Shared atomic.Uint64
	// Destroyed counts datasets and snapshots, Busy attempts that found them in use.
	Destroyed, Busy atomic.Uint64
}

// Stats gives the counters.
func (s *Snapshotter) Stats() *Stats { return &s.stats }

// Open opens the metadata, makes the root dataset where it is missing, and undoes what an earlier process left
// half done. ctx is for the opening.
func Open(ctx context.Context, opts Options) (*Snapshotter, error) {
	if err := zfs.CheckName(opts.Root); err != nil {
		return nil, err
	}
	if zfs.IsSnapshot(opts.Root) || zfs.Parent(opts.Root) == "" {
		return nil, fmt.Errorf("root %s is not a dataset below a pool: %w", opts.Root, errdefs.ErrInvalidArgument)
	}
	tuning := Tuning{opts.WarmLayers, opts.WarmClones, opts.ForeignSnapshots}
	if err := tuning.check(); err != nil {
		return nil, err
	}
	ms, err := storage.NewMetaStore(filepath.Join(opts.Dir, metadataFile), func(o *bolt.Options) error {
		// Another process that has it open would keep it for ever.
		o.Timeout = 10 * time.Second
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open the metadata: %w", err)
	}
	s := &Snapshotter{
		opts:    opts,
		b:       opts.Backend,
		ms:      ms,
		under:   opts.Root + "/s",
		kick:    make(chan struct{}, 1),
		passes:  make(chan struct{}, 1),
		applied: applied{datasets: map[string]*writes{}},
	}
	s.passes <- struct{}{}
	s.tuning.Store(&tuning)
	if s.opts.Release == nil {
		s.opts.Release = func(string) {}
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.open(ctx); err != nil {
		s.cancel()
		return nil, errors.Join(err, ms.Close())
	}
	s.ops.Go(s.work)
	return s, nil
}

// Tune changes the tuning from now on.
func (s *Snapshotter) Tune(t Tuning) error {
	if err := t.check(); err != nil {
		return err
	}
	s.tuning.Store(&t)
	s.wake()
	return nil
}

func (s *Snapshotter) open(ctx context.Context) error {
	if err := s.layout(ctx); err != nil {
		return err
	}
	return s.reconcile(ctx)
}

// closeTimeout bounds the wait for operations that the kernel does not end, as on a suspended pool.
const closeTimeout = 30 * time.Second

// Close ends the worker and waits for operations under way. A second call does nothing.
func (s *Snapshotter) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.cancel()
	ended := make(chan struct{})
	go func() {
		s.ops.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(closeTimeout):
		return fmt.Errorf("close: operations of ZFS do not end: %w", errdefs.ErrUnavailable)
	}
	if err := s.ms.Close(); err != nil {
		return fmt.Errorf("close the metadata: %w", err)
	}
	return nil
}

func (s *Snapshotter) step(point string) {
	if s.opts.step != nil {
		s.opts.step(point)
	}
}

func (s *Snapshotter) observe(op string, start time.Time, err *error) {
	if s.opts.Observe != nil {
		s.opts.Observe(op, time.Since(start), *err)
	}
}

// run does an operation of ZFS and its finish, which is called in any case, with the operation's error. The caller
// waits no longer than its context allows; then the operation, which cannot be taken back, ends in the background,
// and finish is given an error too, since the caller was told of one.
func (s *Snapshotter) run(ctx context.Context, op func(context.Context) error, finish func(context.Context, error) error) error {
	const (
		running = iota
		ended
		abandoned
	)
	var state atomic.Int32
	bg := context.WithoutCancel(ctx)
	done := make(chan error, 1)
	s.ops.Go(func() {
		err := op(bg)
		if !state.CompareAndSwap(running, ended) {
			err = errors.Join(err, fmt.Errorf("the caller gave up: %w", context.Cause(ctx)))
		}
		done <- finish(bg, err)
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if state.CompareAndSwap(running, abandoned) {
			return fmt.Errorf("waiting for ZFS: %w", context.Cause(ctx))
		}
		return <-done
	}
}

// idForm are the names of our datasets and snapshots.
var idForm = regexp.MustCompile(`^[a-z2-7]{13}$`)

// newID is a name that was never used before: 65 random bits.
func newID() string { return strings.ToLower(rand.Text()[:13]) }

// Stat tells of one snapshot.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	defer s.observe("stat", time.Now(), &err)
	err = s.view(ctx, func(ctx context.Context, _ rows) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update changes a snapshot's labels.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	defer s.observe("update", time.Now(), &err)
	err = s.update(ctx, func(ctx context.Context, _ rows) error {
		updated, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return updated, err
}

// Walk calls fn for each snapshot that matches. No transaction is open meanwhile: fn may call us.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) (err error) {
	defer s.observe("walk", time.Now(), &err)
	var infos []snapshots.Info
	err = s.view(ctx, func(ctx context.Context, _ rows) error {
		err := storage.WalkInfo(ctx, func(_ context.Context, i snapshots.Info) error {
			infos = append(infos, i)
			return nil
		}, filters...)
		// Before the first snapshot there is no bucket for them.
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, i := range infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(ctx, i); err != nil {
			return err
		}
	}
	return nil
}
