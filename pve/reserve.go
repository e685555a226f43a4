package pve

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// Registration is what a container holds of the cluster.
type Registration struct {
	// VMID is zero for a container that is not registered.
	VMID VMID
	// Namespace is containerd's; ID is unique in it.
	Namespace, ID string
	// Degraded is why a container is not registered under OnNoQuorum = Degrade.
	Degraded error
}

// Reserve gives a container that is being created a VMID and its conf, locked.
// It needs one exclusive create with one write, and nothing else of the cluster.
//
// Where /etc/pve cannot be written and OnNoQuorum is Degrade, the registration has
// no VMID and says why; every other method takes it and does nothing. Errors:
// ErrInvalidArgument for a guest that no conf can hold, ErrNoVMID, ErrNoQuorum and
// ErrUnreachable under OnNoQuorum = Fail. When ctx ends first, so does Reserve, and what a
// slow cluster then still grants is given back.
func (r *Registrar) Reserve(ctx context.Context, g Guest) (_ Registration, err error) {
	defer r.observe("reserve", &err)()
	if g.Namespace == "" || g.ID == "" {
		return Registration{}, fmt.Errorf("reserve a VMID: a guest needs a namespace and an id: %w", errdefs.ErrInvalidArgument)
	}
	c, err := r.render(g)
	if err != nil {
		return Registration{}, fmt.Errorf("reserve a VMID for %s/%s: %w", g.Namespace, g.ID, err)
	}
	reg := Registration{Namespace: g.Namespace, ID: g.ID}
	type result struct {
		vmid VMID
		err  error
	}
	// A call into a FUSE mount cannot be interrupted; the goroutine outlives ctx.
	done := make(chan result, 1)
	go func() {
		vmid, err := r.allocate(ctx, c.Bytes())
		done <- result{vmid, err}
	}()
	select {
	case <-ctx.Done():
		go func() {
			if late := <-done; late.err == nil {
				reg.VMID = late.vmid
				cleanup, cancel := cleanupContext(ctx)
				defer cancel()
				if err := r.Unregister(cleanup, reg); err != nil {
					log.G(ctx).WithError(err).WithField("vmid", reg.VMID).Warn("a VMID that came too late stays reserved until the next reconciliation")
				}
			}
		}()
		err = &Error{Op: "reserve a VMID", Kind: ErrUnreachable, Err: ctx.Err(), Hint: "pvecm status"}
	case got := <-done:
		reg.VMID, err = got.vmid, wrap("reserve a VMID", 0, got.err, r.store.quorate)
	}
	if r.OnNoQuorum == Degrade && (errors.Is(err, ErrNoQuorum) || errors.Is(err, ErrUnreachable)) {
		return Registration{Namespace: g.Namespace, ID: g.ID, Degraded: err}, nil
	}
	if err != nil {
		return Registration{}, err
	}
	return reg, nil
}

// allocate claims VMIDs in turn. The list of those that are taken is read only
// after a collision: usually there is none, and the container waits for less.
func (r *Registrar) allocate(ctx context.Context, data []byte) (VMID, error) {
	var taken map[VMID]string
	// A collision needs another node's create between our look and ours; twice the
	// range of them is not chance.
	for range 2 * r.Range.Size() {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		vmid, err := r.turn(ctx, taken)
		if err != nil {
			return 0, err
		}
		if vmid == 0 {
			break
		}
		ok, err := r.claim(ctx, vmid, data)
		if err != nil {
			return 0, err
		}
		if ok {
			return vmid, nil
		}
		if err := r.store.retry(ctx, func() (err error) { taken, err = r.store.guests(); return err }); err != nil {
			return 0, err
		}
		taken[vmid] = "" // it may be a lock, not a guest, that is in the way
	}
	used := 0
	for vmid := range taken {
		if r.Range.Contains(vmid) {
			used++
		}
	}
	return 0, &Error{Op: "reserve a VMID", Kind: ErrNoVMID, Err: fmt.Errorf("%d of %s are used", used, r.Range), Hint: "pvelxc gc, or widen vmid.range"}
}
