package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/shim/reaper"
)

// poolTimeout bounds each change of a pool: an API that is away must not hold up the
// deletion of a container for long.
const poolTimeout = 5 * time.Second

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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), poolTimeout)
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
	ctx, cancel = context.WithTimeout(ctx, poolTimeout)
	defer cancel()
	m.change(ctx, "leave")
}

// change runs `pvelxc pool`, which stands beside the shim: a TLS client would make every
// shim a third larger for what few nodes have configured.
func (m *membership) change(ctx context.Context, verb string) {
	self, err := os.Executable()
	if err == nil {
		err = run(ctx, exec.Command(filepath.Join(filepath.Dir(self), "pvelxc"), "pool", verb, m.pool, m.vmid.String()))
	}
	if err != nil {
		log.G(ctx).WithField("vmid", m.vmid).WithField("pool", m.pool).WithError(err).Warn(verb + " pool")
	}
}

// run runs a command that says on standard error why it failed.
func run(ctx context.Context, cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	exit, err := reaper.Run(ctx, cmd)
	if err != nil {
		return err
	}
	if exit.Code() != 0 {
		return fmt.Errorf("exit status %d: %s", exit.Code(), bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}
