package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/cgroup"
	"github.com/pvelxc/pvelxc/shim/pidfd"
)

// CleanupConfig names a container whose shim is gone.
type CleanupConfig struct {
	ID, Namespace, Bundle string
	// Root is the state directory, DefaultRoot when empty.
	Root string
	// Registrar is who may have registered the container; nil for nobody.
	Registrar Registrar
}

// Cleanup takes a container away by force, from its state file: the work of the
// shim's `delete` command. It returns the exit status that the monitor left
// behind, or 137 where there is none. It is idempotent.
func Cleanup(ctx context.Context, cfg CleanupConfig) (Exit, error) {
	root := cfg.Root
	if root == "" {
		root = DefaultRoot
	}
	d := dirsOf(root, cfg.Namespace, cfg.ID)
	exit := Exit{Status: 128 + uint32(unix.SIGKILL), At: time.Now()}
	st, err := readState(d.state())
	switch {
	case errors.Is(err, os.ErrNotExist):
		// Killed before anything was made but perhaps the rootfs, or cleaned up already.
		return exit, errors.Join(unmountRootfs(filepath.Join(cfg.Bundle, "rootfs")), d.remove())
	case err != nil:
		return exit, err
	}
	if st.Init != nil {
		exit.Pid = st.Init.Pid
	}
	group, err := cgroup.Open(st.CgroupMode, st.Cgroup.plan())
	if err != nil {
		return exit, fmt.Errorf("clean up container %s: %w", cfg.ID, err)
	}
	if status, ok := readExit(d.exit()); ok {
		exit.Status = status
	}
	if st.Name != "" {
		d.lxcpath, d.name = st.LXCPath, st.Name
	}
	var reg Registration
	if len(st.Registration) > 0 && cfg.Registrar != nil {
		if reg, err = cfg.Registrar.Resume(st.Registration); err != nil {
			// A cluster that is away must not keep a container from being removed: what is
			// left of its registration is found by reconciliation.
			log.G(ctx).WithField("id", cfg.ID).WithError(err).Warn("unregister")
			reg = nil
		}
	}
	err = errors.Join(dismantle(ctx, st, group), st.unmountRootfs())
	if err == nil {
		err = takeAway(ctx, st, d, reg)
	}
	if err != nil {
		return exit, fmt.Errorf("clean up container %s: %w", cfg.ID, err)
	}
	return exit, nil
}

// destroy takes a container of this shim away.
func (c *Container) destroy(ctx context.Context) error {
	if c.stopOOM != nil {
		c.stopOOM()
	}
	c.awaitTold(ctx)
	if c.monitor != nil {
		c.monitor.close() // one that waits for its container ends with this
	}
	var err error
	if !c.dismantledBefore(ctx) {
		err = dismantle(ctx, &c.state, c.group)
	}
	if err := errors.Join(err, c.state.unmountRootfs()); err != nil {
		return err
	}
	if err := takeAway(ctx, &c.state, c.dirs, c.registration); err != nil {
		return err
	}
	if c.monitor != nil {
		<-c.monitor.gone
	}
	return nil
}

// dismantle ends what is left of a container's processes and removes what the kernel
// keeps for them. Every step is tried whatever became of the others, and may find its
// work done.
func dismantle(ctx context.Context, st *state, group *cgroup.Group) error {
	var errs []error
	if err := group.Kill(ctx); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, err)
	}
	// The monitor's memory takes a while to be given back: the container's groups are
	// removed meanwhile, and the monitor's after that.
	ended := make(chan error, 1)
	go func() { ended <- st.Monitor.end(ctx) }()
	if err := st.Init.end(ctx); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(group.Remove(ctx), <-ended); err != nil {
		errs = append(errs, err)
	}
	if st.Rdt != nil {
		if err := st.Rdt.Remove(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (st *state) unmountRootfs() error {
	if st.Rootfs == "" {
		return nil
	}
	return unmountRootfs(st.Rootfs)
}

// takeAway removes the rest of what was made for a container, when it is dismantled
// and its root is unmounted. The state file goes last: as long as it is there, a repeat
// is possible.
func takeAway(ctx context.Context, st *state, d dirs, reg Registration) error {
	if reg != nil {
		// From here on no reconciliation registers it again.
		if err := os.WriteFile(d.deleting(), nil, 0o600); err != nil {
			log.G(ctx).WithField("id", st.ID).WithError(err).Warn("note the deletion")
		}
		// A cluster that is away must not keep a container from being deleted: its conf
		// is removed by reconciliation.
		if err := reg.Remove(ctx); err != nil {
			log.G(ctx).WithField("id", st.ID).WithField("vmid", reg.Name()).WithError(err).Warn("unregister")
		}
	}
	// A poststop hook that fails changes nothing (runtime.md, lifecycle, step 12).
	stopped := &specs.State{Version: specs.Version, ID: st.ID, Status: specs.StateStopped, Bundle: st.Bundle, Annotations: st.Annotations}
	for _, h := range st.Poststop {
		if err := runHooks(ctx, "poststop", []specs.Hook{h}, stopped); err != nil {
			log.G(ctx).WithField("id", st.ID).WithError(err).Warn("a poststop hook failed")
		}
	}
	st.Poststop = nil // once
	return d.remove()
}

// end kills the process and waits until it is gone. A recycled pid is left alone.
func (r *procRef) end(ctx context.Context) error {
	if r == nil {
		return nil
	}
	fd, err := pidfd.Open(r.Pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	// Only now, with the pid pinned, does its start time prove anything.
	start, err := startTime(r.Pid)
	if err != nil || start != r.StartTime {
		return nil
	}
	if err := fd.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", r.Pid, err)
	}
	return fd.Ended(ctx)
}
