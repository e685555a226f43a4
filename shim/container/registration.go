package container

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Guest is what a Registrar is told of a container that is to be made.
type Guest struct {
	Namespace, ID, Bundle string
	Spec                  *specs.Spec
	Plan                  *oci2lxc.Plan
}

// Registrar makes containers known to the host's administrator. Proxmox VE sees a
// container by the name that LXC has for it, so the name comes from here.
type Registrar interface {
	// Reserve registers a container that is about to be made. The result may be
	// nameless: the container is not to be registered, or cannot be and may start
	// nevertheless. It is called beside other work and must not touch the rootfs.
	Reserve(ctx context.Context, g Guest) (Registration, error)
	// Resume returns the registration of a record, after the shim's death.
	Resume(record json.RawMessage) (Registration, error)
}

// Registration is one container's. All methods but Name and LXCPath talk to the
// host's cluster, and none of them is waited for by a container that starts.
type Registration interface {
	// Name is the LXC name, empty when the container is not registered; LXCPath is
	// where the host's tools look for it.
	Name() string
	LXCPath() string
	// Record is what Resume takes. That of a nameless registration may say why it has
	// no name, or be empty.
	Record() (json.RawMessage, error)
	// Running and Stopped follow the container's state, Update its limits. After Update the
	// record has the limits, whatever became of it.
	Running(ctx context.Context) error
	Stopped(ctx context.Context) error
	Update(ctx context.Context, before, after *specs.LinuxResources) error
	// Remove is idempotent. It also removes what is left at LXCPath.
	Remove(ctx context.Context) error
}

// reserve asks the registrar for the container's name. Without one the container
// has its id for a name, below the shim's own state directory.
func (c *Container) reserve(ctx context.Context) error {
	if c.registrar == nil {
		return nil
	}
	reg, err := c.registrar.Reserve(ctx, Guest{Namespace: c.namespace, ID: c.id, Bundle: c.bundle, Spec: c.spec, Plan: c.plan})
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if c.state.Registration, err = reg.Record(); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if reg.Name() == "" {
		return nil
	}
	c.registration = reg
	c.dirs.lxcpath, c.dirs.name = reg.LXCPath(), reg.Name()
	c.state.LXCPath, c.state.Name = c.dirs.lxcpath, c.dirs.name
	return nil
}

// recordAgain renews what the state file says of the registration.
func (c *Container) recordAgain(reg Registration) error {
	st := c.state
	var err error
	if st.Registration, err = reg.Record(); err != nil {
		return err
	}
	return st.write(c.dirs.state())
}

// publish writes the copy of the LXC config that the host's tools read. The shim
// itself starts from its own: an administrator's tool may rewrite this one.
func (c *Container) publish(text []byte) error {
	if c.registration == nil {
		return nil
	}
	dir := filepath.Join(c.dirs.lxcpath, c.dirs.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("publish LXC config: %w", err)
	}
	if err := replaceFile(filepath.Join(dir, "config"), text); err != nil {
		return fmt.Errorf("publish LXC config: %w", err)
	}
	return nil
}

// tell tells the registration something, after all that it was told before. Nobody
// waits: a cluster may be slow, and a failure is mended by reconciliation.
func (c *Container) tell(what string, f func(context.Context, Registration) error) {
	if c.registration == nil {
		return
	}
	c.mu.Lock()
	before, told := c.told, make(chan struct{})
	c.told = told
	c.mu.Unlock()
	go func() {
		defer close(told)
		if before != nil {
			<-before
		}
		ctx, cancel := cleanupContext(context.Background())
		defer cancel()
		if err := f(ctx, c.registration); err != nil {
			c.log.WithField("vmid", c.registration.Name()).WithError(err).Warn("registration: " + what)
		}
	}()
}

// awaitTold waits until the registration was told all.
func (c *Container) awaitTold(ctx context.Context) {
	c.mu.Lock()
	told := c.told
	c.mu.Unlock()
	if told == nil {
		return
	}
	select {
	case <-told:
	case <-ctx.Done():
	}
}
