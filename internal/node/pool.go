package node

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/api"
)

// poolTimeout bounds each change of a pool: an API that is away must not hold up the
// deletion of a container for long.
const poolTimeout = 5 * time.Second

// membership is a container's in a resource pool. Failures are logged: no container
// depends on its pool. A nil membership does nothing.
type membership struct {
	conf config.API
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
	return &membership{conf: conf.API, pool: conf.Pool, vmid: vmid}
}

// join makes the container a member, in the background.
func (m *membership) join(ctx context.Context) {
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), poolTimeout)
	m.mu.Lock()
	defer m.mu.Unlock()
	done := make(chan struct{})
	m.cancel, m.joined = cancel, done
	go func() {
		defer close(done)
		defer cancel()
		m.change(ctx, "join pool", (*api.Client).AddToPool)
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
	ctx, cancel = context.WithTimeout(ctx, poolTimeout)
	defer cancel()
	m.change(ctx, "leave pool", (*api.Client).RemoveFromPool)
}

func (m *membership) change(ctx context.Context, what string, f func(*api.Client, context.Context, string, ...pve.VMID) error) {
	client, err := api.New(api.Client{URL: m.conf.URL, TokenFile: m.conf.TokenFile, CAFile: m.conf.CAFile, Fingerprint: m.conf.Fingerprint})
	if err == nil {
		err = f(client, ctx, m.pool, m.vmid)
	}
	if err != nil {
		log.G(ctx).WithField("vmid", m.vmid).WithError(err).Warn(what)
	}
}
