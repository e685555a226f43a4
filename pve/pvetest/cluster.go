package pvetest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Cluster is nodes that share one database.
type Cluster struct{ db *database }

// NewCluster makes a cluster with the directories of its nodes.
func NewCluster(nodes ...string) *Cluster { return &Cluster{newDatabase(nodes)} }

// Op is a change of the file system that a node asks the cluster for: each is a
// round trip through corosync.
type Op string

// The operations that change the database.
const (
	OpCreate Op = "create"
	OpWrite  Op = "write"
	OpRename Op = "rename"
	OpRemove Op = "remove"
	OpSet    Op = "set"
	OpMkdir  Op = "mkdir"
)

// The requests that the node's daemon answers by itself.
const (
	OpLookup   Op = "lookup"
	OpGetattr  Op = "getattr"
	OpReadlink Op = "readlink"
	OpReaddir  Op = "readdir"
	OpOpen     Op = "open"
	OpRead     Op = "read"
	OpStatfs   Op = "statfs"
)

// Mount is one node's /etc/pve.
type Mount struct {
	// Dir is where it is mounted.
	Dir  string
	node string
	db   *database

	server     *fuse.Server
	quorum     atomic.Bool
	stale      atomic.Bool
	down       atomic.Bool
	broken     atomic.Bool
	generation atomic.Int64 // of the daemon: handles of an earlier one are dead
	latency    atomic.Int64 // nanoseconds
	interrupts atomic.Int64 // one in so many requests; 0 for none
	requests   atomic.Int64

	mu     sync.Mutex // guards what follows
	counts map[Op]int
	looks  map[Op]int
	before func(op Op, path string)
	hang   chan struct{} // closed when a hang ends; nil for none
}

// Mount shows the cluster at dir as node sees it. Close must follow.
func (c *Cluster) Mount(node, dir string) (*Mount, error) {
	m := &Mount{Dir: dir, node: node, db: c.db, counts: map[Op]int{}, looks: map[Op]int{}}
	m.quorum.Store(true)
	var none time.Duration
	server, err := fs.Mount(dir, &inode{m: m, e: c.db.root}, &fs.Options{
		MountOptions:    fuse.MountOptions{FsName: "pmxcfs", Name: "pmxcfs", DirectMount: true, MaxWrite: maxFile},
		EntryTimeout:    &none,
		AttrTimeout:     &none,
		NegativeTimeout: &none,
		RootStableAttr:  &fs.StableAttr{Mode: syscall.S_IFDIR, Ino: c.db.root.ino},
	})
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	m.server = server
	return m, nil
}

// closing bounds what Close waits for.
const closing = 30 * time.Second

// Close ends a hang and unmounts, whoever still has a file open or, in another mount namespace, the
// mount itself: go-fuse's Unmount would wait for all of them.
func (m *Mount) Close() error {
	m.Unhang()
	// This ends the connection with the kernel even where it cannot unmount (fuse_umount_begin).
	if syscall.Unmount(m.Dir, syscall.MNT_FORCE) != nil {
		if err := syscall.Unmount(m.Dir, syscall.MNT_DETACH); err != nil {
			return &os.PathError{Op: "unmount", Path: m.Dir, Err: err}
		}
	}
	served := make(chan struct{})
	go func() { m.server.Wait(); close(served) }()
	select {
	case <-served:
		return nil
	case <-time.After(closing):
		return fmt.Errorf("%s: a request is not answered: does a function of Before wait?", m.Dir)
	}
}

// Start mounts a cluster for a test, each node in a directory of its own, and
// skips where FUSE cannot be mounted.
func Start(t testing.TB, nodes ...string) map[string]*Mount {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skipf("needs /dev/fuse and root: %v, uid %d", err, os.Geteuid())
	}
	c := NewCluster(nodes...)
	mounts := map[string]*Mount{}
	for _, n := range nodes {
		dir := filepath.Join(t.TempDir(), n)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		m, err := c.Mount(n, dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Errorf("unmount: %v", err)
			}
		})
		mounts[n] = m
	}
	return mounts
}

// SetQuorum gives or takes the node's quorum.
func (m *Mount) SetQuorum(quorate bool) { m.quorum.Store(quorate) }

// ShowStale has modes show the quorum that was: the kernel keeps what it knows of a file of
// pmxcfs for a second.
func (m *Mount) ShowStale(stale bool) { m.stale.Store(stale) }

// SetLatency delays every change, as corosync does.
func (m *Mount) SetLatency(d time.Duration) { m.latency.Store(int64(d)) }

// SetBroken has every change fail with EIO: the daemon could not write its database.
func (m *Mount) SetBroken(broken bool) { m.broken.Store(broken) }

// SetInterrupts has one in so many requests fail with EINTR, as when a signal meets a request that waits; 0
// ends it.
func (m *Mount) SetInterrupts(oneIn int) { m.interrupts.Store(int64(oneIn)) }

func (m *Mount) interrupted() bool {
	oneIn := m.interrupts.Load()
	return oneIn > 0 && m.requests.Add(1)%oneIn == 0
}

// Stop ends the daemon without unmounting: everything answers ENOTCONN.
func (m *Mount) Stop() { m.down.Store(true) }

// Resume starts a new daemon. What was open stays dead.
func (m *Mount) Resume() {
	m.generation.Add(1)
	m.down.Store(false)
}

// Hang makes the daemon answer nothing at all, changes and looks, until Unhang.
func (m *Mount) Hang() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hang == nil {
		m.hang = make(chan struct{})
	}
}

// Unhang has everything answered that came meanwhile.
func (m *Mount) Unhang() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hang != nil {
		close(m.hang)
		m.hang = nil
	}
}

// arrive counts a request, and keeps it for as long as the daemon hangs.
func (m *Mount) arrive(op Op, counts map[Op]int) {
	m.mu.Lock()
	counts[op]++
	hang := m.hang
	m.mu.Unlock()
	if hang != nil {
		<-hang
	}
}

// Before has f called before each change, with no lock held; f may use the mount.
// Nil ends it.
func (m *Mount) Before(f func(op Op, path string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = f
}

// Counts returns the changes asked for since the last call.
func (m *Mount) Counts() map[Op]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer clear(m.counts)
	return maps.Clone(m.counts)
}

// Looks returns the other requests since the last call.
func (m *Mount) Looks() map[Op]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer clear(m.looks)
	return maps.Clone(m.looks)
}

// change runs f on the database as one change, unless the node's state forbids it.
func (m *Mount) change(op Op, path func() string, f func() syscall.Errno) syscall.Errno {
	m.arrive(op, m.counts)
	if m.interrupted() {
		return syscall.EINTR
	}
	m.db.mu.Lock()
	name := path()
	m.db.mu.Unlock()
	m.mu.Lock()
	before := m.before
	m.mu.Unlock()
	if before != nil {
		before(op, name)
	}
	if m.down.Load() {
		return syscall.ENOTCONN
	}
	if !m.quorum.Load() {
		return syscall.EACCES
	}
	if m.broken.Load() {
		return syscall.EIO
	}
	time.Sleep(time.Duration(m.latency.Load()))
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	return f()
}

// look runs f on the database without changing it.
func (m *Mount) look(op Op, f func() syscall.Errno) syscall.Errno {
	m.arrive(op, m.looks)
	if m.interrupted() {
		return syscall.EINTR
	}
	if m.down.Load() {
		return syscall.ENOTCONN
	}
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	return f()
}
