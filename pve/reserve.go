package pve

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// Registration is what a container holds of the cluster.
type Registration struct {
	// VMID is zero for a container that is not registered.
	VMID VMID
	// Namespace is containerd's; ID is unique in it.
	Namespace, ID string
	// RootfsSize is that of the root's file system in bytes, once it is known: SetRunning writes
	// it into a conf that has none. 0 is unknown.
	RootfsSize int64
	// Degraded is why a container is not registered under OnNoQuorum = Degrade.
	Degraded error
}

// Reserve gives a container that is being created a VMID and its conf, locked. It
// waits for one exclusive create and for nothing else of the cluster; the conf is
// written beside what the caller does next, and other methods wait for that.
//
// Where /etc/pve cannot be written and OnNoQuorum is Degrade, the registration has
// no VMID and says why; every other method takes it and does nothing. Errors:
// ErrInvalidArgument for a guest that no conf can hold, ErrNoVMID, ErrNoQuorum and
// ErrUnreachable under OnNoQuorum = Fail. When RetryFor or ctx end first, so does Reserve,
// and what a slow cluster then still grants is given back.
func (r *Registrar) Reserve(ctx context.Context, g Guest) (_ Registration, err error) {
	defer r.observe("reserve", &err)()
	if g.Namespace == "" || g.ID == "" {
		return Registration{}, fmt.Errorf("reserve a VMID: a guest needs a namespace and an id: %w", errdefs.ErrInvalidArgument)
	}
	conf, err := r.render(g)
	if err != nil {
		return Registration{}, fmt.Errorf("reserve a VMID for %s/%s: %w", g.Namespace, g.ID, err)
	}
	reg := Registration{Namespace: g.Namespace, ID: g.ID}
	c, err := r.allocate(ctx, conf.Bytes())
	if r.OnNoQuorum == Degrade && (errors.Is(err, ErrNoQuorum) || errors.Is(err, ErrUnreachable)) {
		reg.Degraded = err
		return reg, nil
	}
	if err != nil {
		return Registration{}, err
	}
	reg.VMID = c.vmid
	c.finish(ctx)
	return reg, nil
}
