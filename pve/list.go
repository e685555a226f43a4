package pve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
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
}

// Find returns the conf of a VMID, on whichever node the cluster has it. Entry.Owner is
// the zero value for a conf without our marker. Errors: ErrNotRegistered,
// ErrUnreachable, and what conf.Parse fails with.
func (r *Registrar) Find(ctx context.Context, vmid VMID) (e Entry, err error) {
	defer r.observe("find", &err)()
	var data []byte
	var node string
	err = r.store.retry(ctx, func() error {
		node, data, err = r.locate(vmid)
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return Entry{}, &Error{Op: "find", VMID: vmid, Kind: ErrNotRegistered}
	}
	if err != nil {
		return Entry{}, wrap("find", vmid, err, r.store.quorate)
	}
	c, err := conf.Parse(data)
	if err != nil {
		return Entry{}, fmt.Errorf("conf of %d: %w", vmid, err)
	}
	owner, _ := ownerOf(c)
	lock, _ := c.Get("lock")
	return Entry{VMID: vmid, Node: node, Owner: owner, Lock: lock, Digest: conf.Digest(data), Conf: c}, nil
}

// listing is what a look at the cluster found.
type listing struct {
	entries []Entry
	empty   []VMID // confs of this node with no byte in them
	temps   []VMID // confs of this node that were being replaced
}

// List returns the confs with our marker in this node's directory, and with cluster
// also those in other nodes' directories, by VMID. Confs that vanish meanwhile
// are left out. Errors: ErrUnreachable.
func (r *Registrar) List(ctx context.Context, cluster bool) (_ []Entry, err error) {
	defer r.observe("list", &err)()
	l, err := r.list(ctx, cluster)
	return l.entries, err
}

func (r *Registrar) list(ctx context.Context, cluster bool) (l listing, err error) {
	err = r.store.retry(ctx, func() error {
		l, err = r.scan(ctx, cluster)
		return err
	})
	return l, wrap("list registrations", 0, err, r.store.quorate)
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
		if node != r.Node && errors.Is(err, unix.ENOENT) {
			continue // a node that never had a container
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
			l.empty, l.temps = empty, temps
		}
	}
	slices.SortFunc(l.entries, func(a, b Entry) int { return int(a.VMID) - int(b.VMID) })
	return l, nil
}

// readAll reads the confs of a node, as many at a time as there are CPUs: each is a
// few round trips through the kernel.
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
	workers := min(runtime.GOMAXPROCS(0), 8)
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
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
	}
	wg.Wait()
	for i, e := range found {
		if e != nil {
			entries = append(entries, *e)
		} else if none[i] {
			empty = append(empty, vmids[i])
		}
	}
	return entries, empty, errors.Join(errs...)
}

// readEntry returns nil for a conf that is not ours.
func readEntry(dir int, node string, vmid VMID, buf []byte) (e *Entry, empty bool, err error) {
	data, err := readFile(dir, vmid.String()+".conf", buf)
	if errors.Is(err, unix.ENOENT) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if len(data) == 0 {
		return nil, true, nil
	}
	if !bytes.Contains(data, []byte(markerPrefix)) {
		return nil, false, nil
	}
	c, err := conf.Parse(data)
	if err != nil {
		return nil, false, nil //nolint:nilerr // nothing of ours has a NUL
	}
	owner, ok := ownerOf(c)
	if !ok {
		return nil, false, nil
	}
	lock, _ := c.Get("lock")
	return &Entry{VMID: vmid, Node: node, Owner: owner, Lock: lock, Digest: conf.Digest(data), Conf: c}, false, nil
}
