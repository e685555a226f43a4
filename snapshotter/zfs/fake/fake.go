// Package fake is a zfs.Backend in memory. Each dataset and each snapshot is a directory, so its mounts are bind mounts
// and tests that fill, compare and run from them work on a machine without ZFS. It models names, guids, txgs,
// clones and what is busy; sizes are those of the files.
package fake

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/continuity/fs"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

type object struct {
	dir           string
	guid, txg     uint64
	origin        string
	props         map[string]string
	size, written uint64 // of a snapshot
}

// Backend is the model.
type Backend struct {
	dir string

	mu      sync.Mutex
	objects map[string]*object // guarded by mu
	busy    map[string]bool    // guarded by mu
	txg     uint64             // guarded by mu
	next    int                // guarded by mu
	inject  func(op, name string) error
}

var _ zfs.Backend = (*Backend)(nil)

// New makes a model with one pool. Its directories are made below dir.
func New(dir, pool string) (*Backend, error) {
	b := &Backend{dir: dir, objects: map[string]*object{}, busy: map[string]bool{}}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.add(pool); err != nil {
		return nil, err
	}
	return b, nil
}

// TXG tells how many transaction groups operations have waited for.
func (b *Backend) TXG() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.txg
}

// Names are all datasets and snapshots.
func (b *Backend) Names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var l []string
	for name := range b.objects {
		l = append(l, name)
	}
	sort.Strings(l)
	return l
}

// SetBusy makes an object busy, as a mount does.
func (b *Backend) SetBusy(name string, busy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy[name] = busy
}

// SetGUID changes what only the pool's history can change: to model one that was rewound.
func (b *Backend) SetGUID(name string, guid uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[name].guid = guid
}

// Inject calls fn before each operation, with no lock held; its error ends the operation.
func (b *Backend) Inject(fn func(op, name string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inject = fn
}

// Name is "fake".
func (b *Backend) Name() string { return "fake" }

// Close does nothing.
func (b *Backend) Close() error { return nil }

func (b *Backend) begin(ctx context.Context, op, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("zfs %s %s: %w", op, name, err)
	}
	if err := zfs.CheckName(name); err != nil {
		return err
	}
	b.mu.Lock()
	inject := b.inject
	b.mu.Unlock()
	if inject != nil {
		return inject(op, name)
	}
	return nil
}

func fail(op, name string, kind error, detail string) error {
	return &zfs.Error{Op: op, Name: name, Kind: kind, Detail: detail}
}

func (b *Backend) add(name string) (*object, error) {
	b.next++
	o := &object{
		dir:   filepath.Join(b.dir, strconv.Itoa(b.next)),
		guid:  rand.Uint64() | 1,
		txg:   b.txg,
		props: map[string]string{},
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, fail("create", name, zfs.ErrFailed, err.Error())
	}
	b.objects[name] = o
	return o, nil
}

func (b *Backend) new(op, name string) (*object, error) {
	if _, ok := b.objects[name]; ok {
		return nil, fail(op, name, zfs.ErrExist, "")
	}
	if parent := zfs.Parent(name); !zfs.IsSnapshot(name) && b.objects[parent] == nil {
		return nil, fail(op, name, zfs.ErrNotExist, "its parent does not exist")
	}
	b.txg++
	return b.add(name)
}

// Create implements zfs.Backend.
func (b *Backend) Create(ctx context.Context, dataset string, props map[string]string) error {
	if err := b.begin(ctx, "create", dataset); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o, err := b.new("create", dataset)
	if err != nil {
		return err
	}
	if len(props) > 0 {
		b.txg++
		maps.Copy(o.props, props)
	}
	return nil
}

// Clone implements zfs.Backend.
func (b *Backend) Clone(ctx context.Context, snapshot, dataset string) error {
	if err := b.begin(ctx, "clone", dataset); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	from := b.objects[snapshot]
	if from == nil {
		return fail("clone", dataset, zfs.ErrNotExist, snapshot)
	}
	o, err := b.new("clone", dataset)
	if err != nil {
		return err
	}
	o.origin = snapshot
	return copyTree("clone", dataset, o.dir, from.dir)
}

func copyTree(op, name, to, from string) error {
	if err := fs.CopyDir(to, from); err != nil {
		return fail(op, name, zfs.ErrFailed, err.Error())
	}
	return nil
}

// Snapshot implements zfs.Backend.
func (b *Backend) Snapshot(ctx context.Context, snapshot string, user map[string]string) error {
	if err := b.begin(ctx, "snapshot", snapshot); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	head := b.objects[zfs.Dataset(snapshot)]
	if head == nil {
		return fail("snapshot", snapshot, zfs.ErrNotExist, "")
	}
	before := b.newest(zfs.Dataset(snapshot))
	o, err := b.new("snapshot", snapshot)
	if err != nil {
		return err
	}
	maps.Copy(o.props, user)
	if err := copyTree("snapshot", snapshot, o.dir, head.dir); err != nil {
		return err
	}
	o.size, _ = usage(o.dir)
	o.written = o.size
	if before != nil {
		o.written = o.size - min(before.size, o.size)
	}
	return nil
}

func (b *Backend) newest(dataset string) *object {
	var newest *object
	for name, o := range b.objects {
		if strings.HasPrefix(name, dataset+"@") && (newest == nil || o.txg > newest.txg) {
			newest = o
		}
	}
	return newest
}

// Destroy implements zfs.Backend.
func (b *Backend) Destroy(ctx context.Context, names []string) (map[string]error, error) {
	failed := map[string]error{}
	for _, name := range names {
		if err := b.begin(ctx, "destroy", name); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			failed[name] = err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.txg++
	for _, name := range names {
		o := b.objects[name]
		if o == nil || failed[name] != nil {
			continue
		}
		if why := b.inUse(name); why != "" {
			failed[name] = fail("destroy", name, zfs.ErrBusy, why)
			continue
		}
		delete(b.objects, name)
		if err := os.RemoveAll(o.dir); err != nil {
			return failed, fail("destroy", name, zfs.ErrFailed, err.Error())
		}
	}
	return failed, nil
}

func (b *Backend) inUse(name string) string {
	if b.busy[name] {
		return "it is mounted"
	}
	for other, o := range b.objects {
		switch {
		case o.origin == name:
			return "it has clones"
		case !zfs.IsSnapshot(name) && strings.HasPrefix(other, name+"@"):
			return "it has snapshots"
		case strings.HasPrefix(other, name+"/"):
			return "it has children"
		}
	}
	return ""
}

// Rollback implements zfs.Backend. The directory stays, so that bind mounts of it see the change.
func (b *Backend) Rollback(ctx context.Context, snapshot string) error {
	if err := b.begin(ctx, "rollback", snapshot); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	head, snap := b.objects[zfs.Dataset(snapshot)], b.objects[snapshot]
	if head == nil || snap == nil {
		return fail("rollback", snapshot, zfs.ErrNotExist, "")
	}
	if b.newest(zfs.Dataset(snapshot)) != snap {
		return fail("rollback", snapshot, zfs.ErrExist, "more recent snapshots")
	}
	b.txg++
	entries, err := os.ReadDir(head.dir)
	if err != nil {
		return fail("rollback", snapshot, zfs.ErrFailed, err.Error())
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(head.dir, e.Name())); err != nil {
			return fail("rollback", snapshot, zfs.ErrFailed, err.Error())
		}
	}
	return copyTree("rollback", snapshot, head.dir, snap.dir)
}

// SetProperty implements zfs.Backend.
func (b *Backend) SetProperty(ctx context.Context, dataset, property, value string) error {
	if err := b.begin(ctx, "set "+property+" of", dataset); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.objects[dataset]
	if o == nil {
		return fail("set "+property+" of", dataset, zfs.ErrNotExist, "")
	}
	b.txg++
	o.props[property] = value
	return nil
}

// Sync implements zfs.Backend.
func (b *Backend) Sync(ctx context.Context, pool string) error { return b.begin(ctx, "sync", pool) }

// Mount implements zfs.Backend with a bind mount; of what does not exist, it is one that fails.
func (b *Backend) Mount(name string, readonly bool) zfs.Mount {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := zfs.Mount{Type: "bind", Source: filepath.Join(b.dir, "missing"), Options: []string{"rbind", "rw"}}
	if readonly || zfs.IsSnapshot(name) {
		m.Options[1] = "ro"
	}
	if o := b.objects[name]; o != nil {
		m.Source = o.dir
	}
	return m
}
