package node

import (
	"context"
	"sync"

	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
)

// membership is a container's in a resource pool. Failures are logged: no container
// depends on its pool. A nil membership does nothing.
type membership struct {
	pool string
	vmid pve.VMID

	mu     sync.Mutex
	cancel context.CancelFunc // of the join in progress
	joined chan struct{}      // closed at its end; nil before
}

// newMembership returns nil where no pool is configured.
func newMembership(conf config.PVE, vmid pve.VMID) *membership {
	if conf.Pool == "" || conf.API.TokenFile == "" || vmid == 0 {
		return nil
	}
	return &membership{pool: conf.Pool, vmid: vmid}
}

// join makes the container a member, in the background.
func (m *membership) join(ctx context.Context) {
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
	m.mu.Lock()
	defer m.mu.Unlock()
	done := make(chan struct{})
	m.cancel, m.joined = cancel, done
	go func() {
		defer close(done)
		defer cancel()
		m.change(ctx, "join")
	}()
}

// leave ends the membership, and a join that is still in progress.
func (m *membership) leave(ctx context.Context) {
	if m == nil {
		return
	}
	m.mu.Lock()
	cancel, joined := m.cancel, m.joined
	m.mu.Unlock()
	if joined != nil {
		cancel()
		<-joined
	}
	ctx, cancel = context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m.change(ctx, "leave")
}

// change runs `pvelxc pool`.
func (m *membership) change(ctx context.Context, verb string) {
	if _, err := beside(ctx, "pool", verb, m.pool, m.vmid.String()); err != nil {
		log.G(ctx).WithField("vmid", m.vmid).WithField("pool", m.pool).WithError(err).Warn(verb + " pool")
	}
}
