package pve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// Entry is a conf with our marker.
type Entry struct {
	VMID VMID
	// Node is the node in whose directory the conf is; Owner.Node is the one it
	// belongs to.
	Node  string
	Owner Owner
	// Lock is PVE's lock, empty for none.
	Lock string
	// Digest is PVE's digest of the file.
	Digest string
	// Conf is the file.
	Conf *conf.Conf

	unwritten bool // the file is empty, and its intent says this
}

// Find returns the conf of a VMID, on whichever node the cluster has it. Entry.Owner is
// the zero value for a conf without our marker. Errors: ErrNotRegistered,
// ErrUnreachable, and what conf.Parse fails with.
func (r *Registrar) Find(ctx context.Context, vmid VMID) (e Entry, err error) {
	defer r.observe("find", &err)()
	type found struct {
		node string
		data []byte
	}
	results := make(chan found, 1)
	err = r.reach(ctx, "find", vmid, func(ctx context.Context) error {
		return r.store.retry(ctx, func() error {
			node, data, err := r.locate(vmid)
			if err == nil {
				results <- found{node, data}
			}
			return err
		})
	})
	if err != nil {
		return Entry{}, err
	}
	at := <-results
	c, err := conf.Parse(at.data)
	if err != nil {
		return Entry{}, fmt.Errorf("conf of %d: %w", vmid, err)
	}
	owner, _ := ownerOf(c)
	lock, _ := c.Get("lock")
	return Entry{VMID: vmid, Node: at.node, Owner: owner, Lock: lock, Digest: conf.Digest(at.data), Conf: c}, nil
}

// listing is what a look at the cluster found.
type listing struct {
	entries []Entry
	empty   []VMID // confs of this node with no byte in them
	temps   []VMID // confs of this node that were being replaced
	quorate bool
}

// List returns the confs with our marker in this node's directory, and with cluster
// also those in other nodes' directories, by VMID. Confs that vanish meanwhile
// are left out. Errors: ErrUnreachable.
func (r *Registrar) List(ctx context.Context, cluster bool) (_ []Entry, err error) {
	defer r.observe("list", &err)()
	l, err := r.list(ctx, cluster)
	return l.entries, err
}

func (r *Registrar) list(ctx context.Context, cluster bool) (listing, error) {
	results := make(chan listing, 1)
	err := r.reach(ctx, "list registrations", 0, func(ctx context.Context) error {
		return r.store.retry(ctx, func() error {
			l, err := r.scan(ctx, cluster)
			if err == nil {
				l.quorate = r.store.quorate()
				results <- l
			}
			return err
		})
	})
	if err != nil {
		return listing{}, err
	}
	return <-results, nil
}

func (r *Registrar) scan(ctx context.Context, cluster bool) (listing, error) {
	var l listing
	nodes := []string{r.Node}
	if cluster && !r.Local {
		var err error
		if nodes, err = r.store.nodes(); err != nil {
			return l, err
		}
	}
	for _, node := range nodes {
		confs, temps, err := r.store.names(node)
		if (node != r.Node || r.Local) && errors.Is(err, unix.ENOENT) {
			continue // a node that never had a container, or a directory that is not made yet
		}
		if err != nil {
			return l, err
		}
		entries, empty, err := r.readAll(ctx, node, confs)
		if err != nil {
			return l, err
		}
		l.entries = append(l.entries, entries...)
		if node == r.Node {
			l.temps = temps
			for _, vmid := range empty {
				if e, ok := entryOf(node, vmid, r.orMeant(vmid, nil)); ok {
					e.unwritten = true
					l.entries = append(l.entries, e)
				} else {
					l.empty = append(l.empty, vmid)
				}
			}
		}
	}
	slices.SortFunc(l.entries, func(a, b Entry) int { return int(a.VMID) - int(b.VMID) })
	return l, nil
}

// readAll reads the confs of a node, several at a time whatever the number of CPUs:
// each waits for a few answers of the daemon.
func (r *Registrar) readAll(ctx context.Context, node string, vmids []VMID) (entries []Entry, empty []VMID, err error) {
	dir, err := open(r.store.dir(node), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(dir)
	found := make([]*Entry, len(vmids))
	none := make([]bool, len(vmids))
	var next atomic.Int64
	var wg sync.WaitGroup
	const workers = 8
	var errs [workers]error
	for w := range workers {
		wg.Go(func() {
			quietly(func() {
				buf := make([]byte, 64<<10)
				for errs[w] == nil {
					i := int(next.Add(1)) - 1
					if i >= len(vmids) {
						return
					}
					if errs[w] = ctx.Err(); errs[w] == nil {
						found[i], none[i], errs[w] = readEntry(dir, node, vmids[i], buf)
					}
				}
			})
		})
	}
	wg.Wait()
	for i, e := range found {
		if e != nil {
			entries = append(entries, *e)
		} else if none[i] {
			empty = append(empty, vmids[i])
		}
	}
	return entries, empty, errors.Join(errs[:]...)
}

// readEntry returns nil for a conf that is not ours.
func readEntry(dir int, node string, vmid VMID, buf []byte) (e *Entry, empty bool, err error) {
	data, err := readFile(dir, vmid.String()+".conf", buf)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EFBIG) {
		return nil, false, nil // gone, or no conf
	}
	if err != nil {
		return nil, false, err
	}
	if len(data) == 0 {
		return nil, true, nil
	}
	if e, ok := entryOf(node, vmid, data); ok {
		return &e, false, nil
	}
	return nil, false, nil
}

// entryOf reads a conf; ok is false for one that is not ours.
func entryOf(node string, vmid VMID, data []byte) (e Entry, ok bool) {
	if !bytes.Contains(data, []byte(markerPrefix)) {
		return Entry{}, false
	}
	c, err := conf.Parse(data)
	if err != nil {
		return Entry{}, false // nothing of ours has a NUL
	}
	owner, ok := ownerOf(c)
	if !ok {
		return Entry{}, false
	}
	lock, _ := c.Get("lock")
	return Entry{VMID: vmid, Node: node, Owner: owner, Lock: lock, Digest: conf.Digest(data), Conf: c}, true
}
