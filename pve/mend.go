package pve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// errDeleted ends an action on behalf of a task that is being deleted.
var errDeleted = errors.New("the container is being deleted")

// do runs an action, unless this is a rehearsal, and reports it.
func (p *reconciliation) do(action Action, vmid VMID, owner Owner, f func() error) {
	var err error
	if !p.view.DryRun {
		if err = p.wrap(string(action), vmid, f()); errors.Is(err, errDeleted) {
			return
		}
	}
	p.report.Changes = append(p.report.Changes, Change{action, vmid, owner, err})
}

// look is t.Look with errDeleted for a task that is being deleted.
func look(ctx context.Context, t Task) (Guest, bool, error) {
	g, running, err := t.Look(ctx)
	if errdefs.IsNotFound(err) {
		return Guest{}, false, errDeleted
	}
	if err != nil {
		return Guest{}, false, fmt.Errorf("look at the container: %w", err)
	}
	g.Namespace, g.ID = t.Namespace, t.ID
	return g, running, nil
}

// keep holds on to a task's conf: on this node, written, with the lock of its state.
func (p *reconciliation) keep(ctx context.Context, e Entry, t Task) {
	if e.Node != p.Node {
		if g, ok := p.elsewhereRuns(ctx, e); ok {
			p.conflict(e.VMID, e.Owner, fmt.Errorf("node %s has its conf and %s", g.Node, g))
			return
		}
		p.do(Returned, e.VMID, e.Owner, func() error { return p.bringBack(ctx, e) })
	}
	p.keepHere(ctx, e, t)
}

// elsewhereRuns reports whether the cluster says that a moved conf's container runs where
// the conf is: then it is that node's, and nothing of it is taken.
func (p *reconciliation) elsewhereRuns(ctx context.Context, e Entry) (Remote, bool) {
	if p.view.Elsewhere == nil || e.Node == p.Node {
		return Remote{}, false
	}
	g, ok := p.view.Elsewhere(ctx, e.VMID)
	return g, ok && g.Node == e.Node && g.Status == "running"
}

// keepHere is keep for a conf on this node.
func (p *reconciliation) keepHere(ctx context.Context, e Entry, t Task) {
	reg := Registration{VMID: e.VMID, Namespace: t.Namespace, ID: t.ID}
	p.describe(ctx, e, t)
	var action Action
	switch {
	case e.unwritten && !p.old(ctx, p.store.path(e.Node, e.VMID)):
		return // it is being written
	case e.unwritten:
		action = Restored
	case t.Running && e.Lock == conf.LockCreate:
		action = Unlocked
	case !t.Running && e.Lock == "":
		action = Locked
	default:
		return
	}
	p.do(action, e.VMID, e.Owner, func() error {
		return p.edit(ctx, string(action), reg, func(c *conf.Conf) error {
			_, running, err := look(ctx, t)
			if err != nil {
				return err
			}
			if running {
				return unlock(c)
			}
			return lockCreate(c)
		})
	})
}

// describe gives the image to a note that is as it was written without one.
func (p *reconciliation) describe(ctx context.Context, e Entry, t Task) {
	if t.Image == nil || e.unwritten {
		return
	}
	known := Guest{Namespace: t.Namespace, ID: t.ID}
	plain := note(known)
	if e.Conf.Description() != plain {
		return
	}
	if known.Image = t.Image(ctx); known.Image == "" {
		return
	}
	reg := Registration{VMID: e.VMID, Namespace: t.Namespace, ID: t.ID}
	p.do(Described, e.VMID, e.Owner, func() error {
		return p.edit(ctx, string(Described), reg, func(c *conf.Conf) error {
			if c.Description() == plain { // else an admin was faster
				c.SetDescription(note(known))
			}
			return nil
		})
	})
}

// bringBack moves a conf from the node to which PVE moved it. pmxcfs refuses the
// rename where somebody made another of its VMID meanwhile.
func (p *reconciliation) bringBack(ctx context.Context, e Entry) error {
	return p.locked(ctx, "return", e.VMID, func(ctx context.Context) error {
		return p.store.retry(ctx, func() error {
			node, data, err := p.locate(e.VMID)
			if err != nil || node == p.Node {
				return err
			}
			if conf.Digest(data) != e.Digest {
				return &Error{Kind: ErrConflict}
			}
			return ignoreEINTR(func() error { return unix.Rename(p.store.path(node, e.VMID), p.store.path(p.Node, e.VMID)) })
		})
	})
}

// drop removes a conf without a task.
func (p *reconciliation) drop(ctx context.Context, e Entry, running bool) {
	switch {
	case !p.old(ctx, p.store.path(e.Node, e.VMID)):
		// Its task may be on its way into the list.
	case running:
		p.report.Changes = append(p.report.Changes, Change{Action: Orphan, VMID: e.VMID, Owner: e.Owner})
	default:
		if g, ok := p.elsewhereRuns(ctx, e); ok {
			p.report.Changes = append(p.report.Changes, Change{Orphan, e.VMID, e.Owner, fmt.Errorf("node %s has %s", g.Node, g)})
			return
		}
		reg := Registration{VMID: e.VMID, Namespace: e.Owner.Namespace, ID: e.Owner.ID}
		p.do(Removed, e.VMID, e.Owner, func() error { return p.unregister(ctx, reg, e.Digest) })
	}
}

// old reports whether a file was left alone for as long as Grace. A time in the
// future, which a clock that was set back leaves, is old; a file that is gone, or
// cannot be asked, is not.
func (p *reconciliation) old(ctx context.Context, path string) bool {
	var modified time.Time
	err := p.reach(ctx, "reconcile", 0, func(context.Context) error {
		info, err := os.Lstat(path)
		if err == nil {
			modified = info.ModTime()
		}
		return err
	})
	if err != nil {
		return false
	}
	age := time.Since(modified)
	return age > p.Grace || age < -p.Grace
}

// restore registers a task again whose conf was not found.
func (p *reconciliation) restore(ctx context.Context, t Task) {
	owner := p.owner(t.Namespace, t.ID)
	node, data, err := p.find(ctx, t.VMID)
	switch {
	case err == nil:
		e, ok := entryOf(node, t.VMID, data)
		if ok && e.Owner == owner {
			p.keep(ctx, e, t)
			return
		}
		p.conflict(t.VMID, owner, fmt.Errorf("there is another conf of it on node %s", node))
	case !errors.Is(err, unix.ENOENT):
		p.report.Changes = append(p.report.Changes, Change{Restored, t.VMID, owner, err})
	case node != "":
		p.conflict(t.VMID, owner, fmt.Errorf("node %s has %s of that VMID", node, p.whatIs(ctx, t.VMID)))
	default:
		p.do(Restored, t.VMID, owner, func() error { return p.writeAgain(ctx, t) })
	}
}

func (p *reconciliation) conflict(vmid VMID, owner Owner, cause error) {
	err := &Error{Op: "register again", VMID: vmid, Kind: ErrForeign, Err: cause, Hint: "the container runs on, unseen by PVE; start it anew for another VMID"}
	p.report.Changes = append(p.report.Changes, Change{Conflict, vmid, owner, err})
}

// whatIs describes somebody else's guest as far as anybody knows it.
func (p *reconciliation) whatIs(ctx context.Context, vmid VMID) string {
	if p.view.Elsewhere != nil {
		if g, ok := p.view.Elsewhere(ctx, vmid); ok {
			return g.String()
		}
	}
	return "a guest"
}

// find is locate with one reading of the cluster's list for the whole pass. With
// ENOENT a node is the one that has the VMID as something else than a container.
func (p *reconciliation) find(ctx context.Context, vmid VMID) (node string, data []byte, err error) {
	type found struct {
		node   string
		data   []byte
		guests map[VMID]string
	}
	known := p.guests
	results := make(chan found, 1)
	err = p.reach(ctx, "restore", vmid, func(ctx context.Context) error {
		f := found{node: p.Node, guests: known}
		err := p.store.retry(ctx, func() (err error) { f.data, err = p.store.read(p.Node, vmid); return err })
		f.data = p.orMeant(vmid, f.data)
		if errors.Is(err, unix.ENOENT) && !p.Local {
			f.node, f.data, err = p.elsewhere(ctx, vmid, &f.guests)
		} else if err != nil {
			f.node = ""
		}
		results <- f
		return err
	})
	select {
	case f := <-results:
		p.guests = f.guests
		return f.node, f.data, err
	default: // nobody waited for it
		return "", nil, err
	}
}

// elsewhere is find for another node than this one.
func (p *reconciliation) elsewhere(ctx context.Context, vmid VMID, guests *map[VMID]string) (node string, data []byte, err error) {
	err = p.store.retry(ctx, func() (err error) {
		if *guests == nil {
			*guests, err = p.store.guests()
		}
		return err
	})
	if err != nil {
		return "", nil, err
	}
	node, ok := (*guests)[vmid]
	if !ok || !nodeName.MatchString(node) {
		return "", nil, unix.ENOENT
	}
	data, err = p.store.read(node, vmid)
	return node, data, err
}

// writeAgain creates a task's conf under its own VMID. The lock keeps a deletion out,
// and the look that follows sees one that came before it: what is written here cannot
// outlive its container.
func (p *reconciliation) writeAgain(ctx context.Context, t Task) error {
	if err := p.checkOutage(ctx, "restore", t.VMID); err != nil {
		return err
	}
	lock, err := p.lockVMID(ctx, t.VMID, p.LockTimeout)
	if err != nil {
		return err
	}
	data, err := p.renderAgain(ctx, t)
	if err != nil {
		lock.release()
		return err
	}
	c, err := p.claimLocked(ctx, t.VMID, data, lock)
	if err != nil {
		return err
	}
	if c == nil {
		return &Error{Op: "restore", VMID: t.VMID, Kind: ErrConflict, Hint: "it is tried again at the next reconciliation"}
	}
	return c.write(ctx)
}

func (p *reconciliation) renderAgain(ctx context.Context, t Task) ([]byte, error) {
	g, running, err := look(ctx, t)
	if err != nil {
		return nil, err
	}
	if g.Image == "" && t.Image != nil {
		g.Image = t.Image(ctx)
	}
	c, err := p.render(g)
	if err != nil {
		return nil, err
	}
	if running {
		c.Delete("lock")
	}
	return c.Bytes(), nil
}
