// Package mounts gives access to the file trees of snapshots where no path leads: through detached mounts, which no
// process sees in any mount namespace and which end with their descriptor.
//
// A tree that was written to stays mounted for a while. The last unmount of a dirty dataset waits for two txgs; the
// commit that follows an unpacked layer makes it clean anyway, and the next layer of the chain is written to the same
// dataset. So ten layers are one mount, and no txg is spent on it.
package mounts

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/mounttree"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// idle is how long a tree that was written to stays mounted.
const idle = 5 * time.Second

// Pool opens trees. The zero value is not usable.
type Pool struct {
	owns func(mount.Mount) bool

	mu   sync.Mutex
	held map[string]*held // guarded by mu; by source
}

// held is a mount that stays.
type held struct {
	tree  *os.File
	users int
	timer *time.Timer
	// gone: out of the pool; the last user closes it.
	gone bool
}

// New makes a pool for the mounts that owns says are ours. Close ends it.
func New(owns func(mount.Mount) bool) *Pool { return &Pool{owns: owns, held: map[string]*held{}} }

// Datasets says of a mount whether it is one of a ZFS dataset, or of a snapshot of one, directly below a dataset.
func Datasets(under string) func(mount.Mount) bool {
	return func(m mount.Mount) bool {
		return m.Type == "zfs" && zfs.CheckName(m.Source) == nil && zfs.Parent(zfs.Dataset(m.Source)) == under
	}
}

// one gives the only mount of a list, if it is ours. Others' are not implemented here, so that containerd asks its next
// differ.
func (p *Pool) one(list []mount.Mount) (mount.Mount, error) {
	if len(list) != 1 || list[0].Target != "" || !p.owns(list[0]) {
		return mount.Mount{}, fmt.Errorf("the mounts are not of this snapshotter: %w", errdefs.ErrNotImplemented)
	}
	return list[0], nil
}

// Read opens a tree for reading. No mounts at all are an empty tree.
func (p *Pool) Read(list []mount.Mount) (*os.File, error) {
	if len(list) == 0 {
		return mounttree.New("tmpfs", "", nil, unix.MOUNT_ATTR_RDONLY)
	}
	m, err := p.one(list)
	if err != nil {
		return nil, err
	}
	return detach(m, unix.MOUNT_ATTR_RDONLY)
}

// Write opens a tree for writing. The result must be called when it is not used any more; the tree is not the caller's
// to close.
func (p *Pool) Write(list []mount.Mount) (*os.File, func(), error) {
	m, err := p.one(list)
	if err != nil {
		return nil, nil, err
	}
	if readonly(m) {
		return nil, nil, fmt.Errorf("%s is mounted read-only: %w", m.Source, errdefs.ErrInvalidArgument)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.held[m.Source]
	if h == nil {
		tree, err := detach(m, 0)
		if err != nil {
			return nil, nil, err
		}
		h = &held{tree: tree}
		p.held[m.Source] = h
	}
	h.users++
	if h.timer != nil {
		h.timer.Stop()
	}
	return h.tree, sync.OnceFunc(func() { p.done(m.Source, h) }), nil
}

func (p *Pool) done(source string, h *held) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.users--
	switch {
	case h.users > 0:
	case h.gone:
		h.tree.Close()
	default:
		h.timer = time.AfterFunc(idle, func() { p.expire(source, h) })
	}
}

func (p *Pool) expire(source string, h *held) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.users == 0 && !h.gone {
		p.drop(source, h)
	}
}

// drop takes a mount out of the pool. p.mu is held.
func (p *Pool) drop(source string, h *held) {
	delete(p.held, source)
	h.gone = true
	if h.timer != nil {
		h.timer.Stop()
	}
	if h.users == 0 {
		h.tree.Close()
	}
}

// Release lets go of a dataset that is to be destroyed or rolled back.
func (p *Pool) Release(dataset string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.held[dataset]; h != nil {
		p.drop(dataset, h)
	}
}

// Close lets go of all.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for source, h := range p.held {
		p.drop(source, h)
	}
}

// CheckIDMap says why a ZFS dataset, which exists, cannot be mounted with mapped ids here; nil when it can.
func CheckIDMap(dataset string) error {
	tree, err := mounttree.New("zfs", dataset, nil, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer tree.Close()
	const ids = "0:100000:65536"
	userns, err := mount.GetUsernsFD(ids, ids)
	if err != nil {
		return fmt.Errorf("make a user namespace: %w", err)
	}
	defer userns.Close()
	return mounttree.SetAttr(tree, mounttree.Attr{UserNS: userns})
}

func readonly(m mount.Mount) bool {
	for _, o := range m.Options {
		if o == "ro" {
			return true
		}
	}
	return false
}

// detach makes a detached mount. Id maps are left out: what is in a dataset is what a layer has to say.
func detach(m mount.Mount, attr uint64) (*os.File, error) {
	attr |= unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if m.Type != "bind" {
		// The superblock of a dataset is read-write even where this mount is not: a container may have it mounted.
		return mounttree.New(m.Type, m.Source, nil, attr)
	}
	if !strings.HasPrefix(m.Source, "/") {
		return nil, fmt.Errorf("mount source %q is no absolute path: %w", m.Source, errdefs.ErrInvalidArgument)
	}
	tree, err := mounttree.Clone(m.Source, false)
	if err != nil {
		return nil, err
	}
	if err := mounttree.SetAttr(tree, mounttree.Attr{Set: attr}); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}
