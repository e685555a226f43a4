package pve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Task is a container that exists in containerd's eyes.
type Task struct {
	Namespace, ID string
	// VMID is its LXC name; zero for one that was started unregistered and stays so:
	// PVE would look for it under another LXC name than it has.
	VMID VMID
	// Running tells a started container from one that is created or has exited.
	Running bool
	// Image tells what the note lacks of a container that was registered without it: of the
	// clients CRI alone tells the runtime. It is asked when the note is known to lack it, and
	// returns "" where nobody knows. Nil for nobody.
	Image func(context.Context) string
	// Look looks again, under the lock of the VMID: it is called right before something
	// is written on the task's behalf, and says what the container is and whether it
	// runs. It fails with ErrNotFound (errdefs) where the container is being deleted:
	// nothing is written then. A task with a VMID must have it.
	Look func(context.Context) (g Guest, running bool, err error)
}

// View is what Reconcile is to make the confs agree with.
type View struct {
	// Tasks lists every task of this node. An error ends the reconciliation before
	// anything was touched: a task that could not be asked is not a task that is gone.
	Tasks func(context.Context) ([]Task, error)
	// Cluster looks for confs that PVE moved to other nodes, too.
	Cluster bool
	// Elsewhere tells of a guest on another node what no file does: whether it runs there. ok
	// is false where nobody knows; what files say holds then. Nil for nobody. It is asked
	// only of a VMID whose conf is not on this node.
	Elsewhere func(context.Context, VMID) (g Remote, ok bool)
	// DryRun reports what would be done.
	DryRun bool
}

// Remote is a guest as the cluster sees it.
type Remote struct {
	// Node has it.
	Node string
	// Type is "lxc" or "qemu".
	Type string
	// Status is "running", "stopped", or "unknown" where the node does not answer.
	Status string
	Name   string
}

// String is for messages: `a running virtual machine "db"`.
func (g Remote) String() string {
	kind := "container"
	if g.Type == "qemu" {
		kind = "virtual machine"
	}
	return fmt.Sprintf("a %s %s %.80q", g.Status, kind, g.Name)
}

// Action is what a reconciliation does about one VMID.
type Action string

// The actions. Conflict and Orphan are reports: nothing is done.
const (
	// Removed: a conf without a task.
	Removed Action = "removed"
	// Restored: a task without a conf was registered again, under its VMID, or a conf
	// was written that a crash had left empty.
	Restored Action = "restored"
	// Returned: a task's conf was moved back from another node.
	Returned Action = "returned"
	// Locked and Unlocked: the lock follows the task's state.
	Locked   Action = "locked"
	Unlocked Action = "unlocked"
	// Described: the note gained the image.
	Described Action = "described"
	// Swept: the remains of a write that a crash interrupted.
	Swept Action = "swept"
	// Orphan: a conf without a task whose container still runs.
	Orphan Action = "orphan"
	// Conflict: a task's VMID is somebody else's now, or runs on another node.
	Conflict Action = "conflict"
	// Joined: a container became a member of its pool. Reconcile itself asks no API; who
	// does adds it to the report.
	Joined Action = "joined"
)

// Actions are all of them.
var Actions = []Action{Removed, Restored, Returned, Locked, Unlocked, Described, Swept, Orphan, Conflict, Joined}

// Change is one finding of a reconciliation.
type Change struct {
	Action Action
	VMID   VMID
	Owner  Owner
	// Err is why the action failed; for Conflict whose the VMID is, for Orphan where it runs
	// if not here.
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
// changes, Conflict and Orphan aside.
func (r *Registrar) Reconcile(ctx context.Context, view View) (report Report, err error) {
	defer r.observe("reconcile", &err)()
	// The order is what makes it safe: a task that is missing here was gone after its
	// conf was seen, and a conf that is missing was not there before its task.
	found, err := r.list(ctx, view.Cluster)
	if err != nil {
		return Report{}, err
	}
	if !view.DryRun && !found.quorate {
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
		if e.Owner.Node != r.Node {
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
	p.sweep(ctx, found)
	slices.SortStableFunc(p.report.Changes, func(a, b Change) int { return cmp.Compare(a.VMID, b.VMID) })
	errs := []error{ctx.Err()}
	for _, c := range p.report.Changes {
		if c.Err != nil && c.Action != Conflict && c.Action != Orphan {
			errs = append(errs, fmt.Errorf("reconcile: %w", c.Err))
		}
	}
	return p.report, errors.Join(errs...)
}
