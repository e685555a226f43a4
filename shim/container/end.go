package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/reaper"
)

// watch waits for the end of the container and tells it, after that of the last exec.
// What liblxc does then in its monitor, nobody waits for: see docs/adr/0006.
func (c *Container) watch() {
	exit := c.awaitEnd()
	ctx, cancel := cleanupContext(context.Background())
	defer cancel()
	// Where the PID namespace is not the container's own, its other processes live on.
	if c.plan.Namespace(specs.PIDNamespace).Mode != oci2lxc.NamespaceNew {
		c.killRest(ctx)
	}
	c.stopOOM()
	c.waitExecs(ctx)
	c.init.flush(ctx)
	c.init.starting.Lock()
	defer c.init.starting.Unlock()
	c.keepExit(exit)
	dismantled := make(chan error, 1)
	c.mu.Lock()
	c.dismantled = dismantled
	c.mu.Unlock()
	c.init.setExited(exit, func(e Exit) { c.emit(exitEvent(c.id, c.id, e)) })
	c.tell("stopped", func(ctx context.Context, r Registration) error { return r.Stopped(ctx) })
	dismantled <- dismantle(ctx, &c.state, c.group)
}

// awaitEnd waits for the end of PID 1. The kernel knows its status from the moment in
// which the monitor has taken it (Linux 6.15); an older one leaves it to the monitor's
// word, which comes when liblxc is through.
func (c *Container) awaitEnd() Exit {
	kernel := c.init.ended()
	select {
	case exit, known := <-kernel:
		if known && !c.mayReboot.Load() {
			return exit
		}
		<-c.monitor.gone
		if known {
			return c.rebooted(exit)
		}
	case <-c.monitor.gone:
	}
	status, killed := c.monitor.status()
	exit := Exit{Status: status, At: c.monitor.exit.At}
	if !killed {
		return exit
	}
	// The monitor's death need not be that of the container: no parent-death signal
	// reaches a process that has changed its user or has an LSM label.
	ctx, cancel := cleanupContext(context.Background())
	defer cancel()
	c.killRest(ctx)
	select {
	case own, known := <-kernel:
		if known {
			exit = own
		}
	case <-ctx.Done():
		c.log.Warn("PID 1 outlives SIGKILL")
	}
	return exit
}

// rebooted is the exit of a container that may have called reboot(2), which ends its PID
// namespace. wait(2) then gives the signal that stands for the call, SIGHUP or SIGINT;
// the kernel's other word is how PID 1 itself came to its end.
func (c *Container) rebooted(exit Exit) Exit {
	if status, killed := c.monitor.status(); !killed {
		exit.Status = status
	}
	return exit
}

// minds notes that a process of the container's may call reboot(2).
func (c *Container) minds(caps oci2lxc.Capabilities) {
	if caps.Bounding&(1<<unix.CAP_SYS_BOOT) != 0 {
		c.mayReboot.Store(true)
	}
}

// ended yields the end of the process: with its status, or closed where that is not
// known.
func (p *Process) ended() <-chan Exit {
	p.mu.Lock()
	fd := p.pidfd
	p.mu.Unlock()
	end := make(chan Exit, 1)
	go func() {
		defer close(end)
		// Either wait ends with the process, or when setExited closes the descriptor.
		status, known, err := fd.Status(context.Background())
		switch {
		case known:
			e := reaper.Exit{Status: status}
			end <- Exit{Status: e.Code(), At: time.Now()}
		case err == nil:
			_ = fd.Ended(context.Background())
		}
	}()
	return end
}

func (c *Container) killRest(ctx context.Context) {
	if err := c.group.Kill(ctx); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.WithError(err).Warn("kill what the container left behind")
	}
}

// keepExit leaves the status where Cleanup finds it, should this shim die, too: the
// monitor may not live to do it.
func (c *Container) keepExit(exit Exit) {
	if err := replaceFile(c.dirs.exit(), fmt.Appendln(nil, exit.Status)); err != nil {
		c.log.WithError(err).Warn("keep exit status")
	}
}

// dismantledBefore waits for the dismantling that the exit has begun, and says whether
// it was complete.
func (c *Container) dismantledBefore(ctx context.Context) bool {
	c.mu.Lock()
	dismantled := c.dismantled
	c.dismantled = nil // a repeat tries for itself
	c.mu.Unlock()
	if dismantled == nil {
		return false
	}
	select {
	case err := <-dismantled:
		return err == nil
	case <-ctx.Done():
		return false
	}
}

// waitExecs waits for the end of all execs that run.
func (c *Container) waitExecs(ctx context.Context) {
	c.mu.Lock()
	execs := slices.Collect(maps.Values(c.execs))
	c.mu.Unlock()
	for _, p := range execs {
		p.starting.Lock()
		running := p.State().Status == StatusRunning
		p.starting.Unlock()
		if !running {
			continue
		}
		if _, err := p.Wait(ctx); err != nil {
			c.log.WithField("exec_id", p.execID).WithError(err).Warn("an exec outlives its container")
		}
	}
}
