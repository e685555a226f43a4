package pve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// Task is a container that exists in containerd's eyes.
type Task struct {
	Namespace, ID string
	// VMID is its LXC name; zero for one that was started unregistered and stays so:
	// PVE would look for it under another LXC name than it has.
	VMID VMID
	// Running tells a started container from one that is created or has exited.
	Running bool
	// Guest is asked only where a lost conf is written again. A task with a VMID
	// must have it.
	Guest func(context.Context) (Guest, error)
}

// View is what Reconcile is to make the confs agree with.
type View struct {
	// Tasks lists every task it Covers. An error ends the reconciliation before
	// anything was touched: a task that could not be asked is not a task that is gone.
	Tasks func(context.Context) ([]Task, error)
	// Covers limits the view to some containers, a shim's own for instance. Nil is
	// all of this node.
	Covers func(Owner) bool
	// Cluster looks for confs that PVE moved to other nodes, too.
	Cluster bool
	// DryRun reports what would be done.
	DryRun bool
}

// Action is what a reconciliation does about one VMID.
type Action string

// The actions. Conflict and Orphan are reports: nothing is done.
const (
	// Removed: a conf without a task.
	Removed Action = "removed"
	// Restored: a task without a conf was registered again, under its VMID.
	Restored Action = "restored"
	// Returned: a task's conf was moved back from another node.
	Returned Action = "returned"
	// Locked and Unlocked: the lock follows the task's state.
	Locked   Action = "locked"
	Unlocked Action = "unlocked"
	// Swept: the remains of a write that a crash interrupted.
	Swept Action = "swept"
	// Orphan: a conf without a task whose container still runs.
	Orphan Action = "orphan"
	// Conflict: a task's VMID is somebody else's now.
	Conflict Action = "conflict"
)

// Change is one finding of a reconciliation.
type Change struct {
	Action Action
	VMID   VMID
	Owner  Owner
	// Err is why the action failed, and for Conflict whose the VMID is.
	Err error
}

// Report is the outcome of a reconciliation.
type Report struct {
	// Changes are sorted by VMID.
	Changes []Change
	// Confs and Tasks were compared.
	Confs, Tasks int
	// Unregistered counts tasks that were started without a registration.
	Unregistered int
}

// reconciliation is one pass.
type reconciliation struct {
	*Registrar
	view   View
	report Report
	guests map[VMID]string // lazily: where the cluster has each VMID
}

// Reconcile makes the confs of this node agree with its tasks, after a reboot, a
// crash, a fencing or an admin's hand. It touches only confs with our marker and
// this node's name in it, and removes none that is younger than Grace or whose
// container runs. It goes on after a failure; the error joins those of all
// changes, Conflict aside.
func (r *Registrar) Reconcile(ctx context.Context, view View) (report Report, err error) {
	defer r.observe("reconcile", &err)()
	// The order is what makes it safe: a task that is missing here was gone after its
	// conf was seen, and a conf that is missing was not there before its task.
	found, err := r.list(ctx, view.Cluster)
	if err != nil {
		return Report{}, err
	}
	if !view.DryRun && !r.store.quorate() {
		return Report{}, &Error{Op: "reconcile", Kind: ErrNoQuorum, Hint: "pvecm status"}
	}
	tasks, err := view.Tasks(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("reconcile: list tasks: %w", err)
	}
	running, err := r.running()
	if err != nil {
		return Report{}, fmt.Errorf("reconcile: %w", err)
	}
	p := &reconciliation{Registrar: r, view: view, report: Report{Tasks: len(tasks)}}
	byOwner := make(map[Owner]Task, len(tasks))
	for _, t := range tasks {
		byOwner[r.owner(t.Namespace, t.ID)] = t
		if t.VMID == 0 {
			p.report.Unregistered++
		}
	}
	seen := map[VMID]bool{}
	for _, e := range found.entries {
		if e.Owner.Node != r.Node || view.Covers != nil && !view.Covers(e.Owner) {
			continue
		}
		p.report.Confs++
		if t, ok := byOwner[e.Owner]; ok && t.VMID == e.VMID {
			seen[e.VMID] = true
			p.keep(ctx, e, t)
		} else {
			p.drop(ctx, e, running[e.VMID])
		}
	}
	for _, t := range tasks {
		if t.VMID != 0 && !seen[t.VMID] && ctx.Err() == nil {
			p.restore(ctx, t)
		}
	}
	if view.Covers == nil {
		p.sweep(ctx, found)
	}
	slices.SortStableFunc(p.report.Changes, func(a, b Change) int { return cmp.Compare(a.VMID, b.VMID) })
	errs := []error{ctx.Err()}
	for _, c := range p.report.Changes {
		if c.Err != nil && c.Action != Conflict {
			errs = append(errs, fmt.Errorf("reconcile: %w", c.Err))
		}
	}
	return p.report, errors.Join(errs...)
}

// do runs an action, unless this is a rehearsal, and reports it.
func (p *reconciliation) do(action Action, vmid VMID, owner Owner, f func() error) {
	c := Change{Action: action, VMID: vmid, Owner: owner}
	if !p.view.DryRun {
		c.Err = wrap(string(action), vmid, f(), p.store.quorate)
	}
	p.report.Changes = append(p.report.Changes, c)
}

// keep holds on to a task's conf: on this node, with the lock of its state.
func (p *reconciliation) keep(ctx context.Context, e Entry, t Task) {
	reg := Registration{VMID: e.VMID, Namespace: t.Namespace, ID: t.ID}
	if e.Node != p.Node {
		p.do(Returned, e.VMID, e.Owner, func() error { return p.bringBack(ctx, e) })
	}
	switch {
	case t.Running && e.Lock == conf.LockCreate:
		p.do(Unlocked, e.VMID, e.Owner, func() error { return p.edit(ctx, "unlock", reg, unlock) })
	case !t.Running && e.Lock == "":
		p.do(Locked, e.VMID, e.Owner, func() error { return p.edit(ctx, "lock", reg, lockCreate) })
	}
}

// bringBack moves a conf from the node to which PVE moved it. pmxcfs refuses the
// rename where somebody made another of its VMID meanwhile.
func (p *reconciliation) bringBack(ctx context.Context, e Entry) error {
	lock, err := p.lockVMID(ctx, e.VMID, p.LockTimeout)
	if err != nil {
		return err
	}
	defer lock.release()
	return p.store.retry(ctx, func() error {
		node, data, err := p.locate(e.VMID)
		if err != nil || node == p.Node {
			return err
		}
		if conf.Digest(data) != e.Digest {
			return &Error{Op: "return", VMID: e.VMID, Kind: ErrConflict}
		}
		return ignoreEINTR(func() error { return unix.Rename(p.store.path(node, e.VMID), p.store.path(p.Node, e.VMID)) })
	})
}

// drop removes a conf without a task.
func (p *reconciliation) drop(ctx context.Context, e Entry, running bool) {
	switch {
	case !p.old(p.store.path(e.Node, e.VMID)):
		// Its task may be on its way into the list.
	case running:
		p.report.Changes = append(p.report.Changes, Change{Action: Orphan, VMID: e.VMID, Owner: e.Owner})
	default:
		reg := Registration{VMID: e.VMID, Namespace: e.Owner.Namespace, ID: e.Owner.ID}
		p.do(Removed, e.VMID, e.Owner, func() error { return p.unregister(ctx, reg, e.Digest) })
	}
}

// old reports whether a file was left alone for as long as Grace. A time in the
// future, which a clock that was set back leaves, is old; a file that is gone is not.
func (p *reconciliation) old(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	age := time.Since(info.ModTime())
	return age > p.Grace || age < -p.Grace
}

// restore registers a task again whose conf was not found.
func (p *reconciliation) restore(ctx context.Context, t Task) {
	owner := p.owner(t.Namespace, t.ID)
	node, data, err := p.find(ctx, t.VMID)
	if err == nil {
		c, parseErr := conf.Parse(data)
		if parseErr == nil {
			if is, ok := ownerOf(c); ok && is == owner {
				lock, _ := c.Get("lock")
				p.keep(ctx, Entry{VMID: t.VMID, Node: node, Owner: owner, Lock: lock, Digest: conf.Digest(data)}, t)
				return
			}
		}
		p.conflict(t.VMID, owner, fmt.Errorf("there is another conf of it on node %s", node))
		return
	}
	if !errors.Is(err, unix.ENOENT) {
		p.report.Changes = append(p.report.Changes, Change{Restored, t.VMID, owner, wrap("restore", t.VMID, err, p.store.quorate)})
		return
	}
	if node != "" {
		p.conflict(t.VMID, owner, fmt.Errorf("node %s has a guest of that VMID", node))
		return
	}
	p.do(Restored, t.VMID, owner, func() error { return p.writeAgain(ctx, t) })
}

func (p *reconciliation) conflict(vmid VMID, owner Owner, cause error) {
	err := &Error{Op: "register again", VMID: vmid, Kind: ErrForeign, Err: cause, Hint: "the container runs on, unseen by PVE; start it anew for another VMID"}
	p.report.Changes = append(p.report.Changes, Change{Conflict, vmid, owner, err})
}

// find is locate with one reading of the cluster's list for the whole pass. With
// ENOENT a node is the one that has the VMID as something else than a container.
func (p *reconciliation) find(ctx context.Context, vmid VMID) (node string, data []byte, err error) {
	err = p.store.retry(ctx, func() error {
		data, err = p.store.read(p.Node, vmid)
		return err
	})
	if p.Local || !errors.Is(err, unix.ENOENT) {
		if err != nil {
			return "", nil, err
		}
		return p.Node, data, nil
	}
	if p.guests == nil {
		if err := p.store.retry(ctx, func() (err error) { p.guests, err = p.store.guests(); return err }); err != nil {
			return "", nil, err
		}
	}
	node, ok := p.guests[vmid]
	if !ok || !nodeName.MatchString(node) {
		return "", nil, err
	}
	data, err = p.store.read(node, vmid)
	return node, data, err
}

// writeAgain creates a task's conf under its own VMID.
func (p *reconciliation) writeAgain(ctx context.Context, t Task) error {
	g, err := t.Guest(ctx)
	if err != nil {
		return fmt.Errorf("read what the container is: %w", err)
	}
	g.Namespace, g.ID = t.Namespace, t.ID
	c, err := p.render(g)
	if err != nil {
		return err
	}
	if t.Running {
		c.Delete("lock")
	}
	ok, err := p.claim(ctx, t.VMID, c.Bytes())
	if err == nil && !ok {
		err = &Error{Op: "restore", VMID: t.VMID, Kind: ErrConflict, Hint: "it is tried again at the next reconciliation"}
	}
	return err
}

// sweep removes what crashes left: next contents that never became a conf, and
// confs that were made and not written.
func (p *reconciliation) sweep(ctx context.Context, found listing) {
	for _, vmid := range found.temps {
		path := p.store.temp(vmid)
		p.sweepFile(ctx, vmid, path, func([]byte) bool { return true })
	}
	intents := p.readIntents()
	for _, vmid := range found.empty {
		// A local directory is nobody's but ours. After a power failure it may hold
		// empty files whose intents came to disk as removed.
		if p.Local || slices.Contains(intents, vmid) {
			p.sweepFile(ctx, vmid, p.store.path(p.Node, vmid), func(data []byte) bool { return len(data) == 0 })
		}
	}
	for _, vmid := range intents {
		p.settleIntent(ctx, vmid)
	}
}
