package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/cgroup"
	"github.com/pvelxc/pvelxc/shim/lsm"
	"github.com/pvelxc/pvelxc/shim/stdio"
)

// Create builds a container up to the point where its PID 1 waits for Start, and
// emits TaskCreate. When it fails, nothing is left.
func Create(ctx context.Context, cfg Config) (_ *Container, err error) {
	spare := takeSpare()
	defer spare.giveBack()
	c, err := load(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", cfg.ID, err)
	}
	if err := c.dirs.make(); err != nil {
		return nil, fmt.Errorf("create container %s: %w", cfg.ID, err)
	}
	defer c.idMaps.close()
	defer func() {
		if err == nil {
			return
		}
		err = fmt.Errorf("create container %s: %w", cfg.ID, err)
		ctx, cancel := cleanupContext(ctx)
		defer cancel()
		if c.init.io != nil {
			c.init.io.Close()
		}
		if e := c.destroy(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", e))
		}
	}()
	if err := c.prepare(ctx, cfg, spare); err != nil {
		return nil, err
	}
	if err := c.build(ctx); err != nil {
		return nil, err
	}
	c.emit(&events.TaskCreate{
		ContainerID: c.id,
		Bundle:      c.bundle,
		Rootfs:      cfg.Rootfs,
		IO: &events.TaskIO{
			Stdin:    cfg.Stdio.Stdin,
			Stdout:   cfg.Stdio.Stdout,
			Stderr:   cfg.Stdio.Stderr,
			Terminal: cfg.Stdio.Terminal,
		},
		Checkpoint: cfg.Checkpoint,
		Pid:        uint32(c.Pid()),
	})
	go c.watch()
	return c, nil
}

// load reads the bundle and plans the container; it makes nothing.
func load(ctx context.Context, cfg Config) (*Container, error) {
	c, err := readBundle(ctx, cfg)
	if err != nil {
		return nil, err
	}
	opts := c.options()
	if c.plan, err = oci2lxc.Convert(c.spec, opts); err != nil {
		return nil, err
	}
	if err := checkProfile(&c.plan.Process); err != nil {
		return nil, err
	}
	c.minds(c.plan.Process.Capabilities)
	c.warn(c.plan.Warnings)
	if r := c.plan.Cgroup.Resources; r != nil && r.Memory != nil {
		c.memoryLimit = r.Memory.Limit
	}
	c.limits = c.plan.Cgroup.Resources
	if c.group, err = cgroup.Open(opts.CgroupMode, c.plan.Cgroup); err != nil {
		return nil, err
	}
	c.state = state{
		Version:     stateVersion,
		ID:          c.id,
		Namespace:   c.namespace,
		Bundle:      c.bundle,
		Cgroup:      stateOf(c.plan.Cgroup),
		CgroupMode:  opts.CgroupMode,
		LXCPath:     c.dirs.lxcpath,
		Name:        c.dirs.name,
		Poststop:    c.plan.Hooks.Poststop,
		Annotations: c.plan.Annotations,
	}
	if len(cfg.Rootfs) > 0 || c.plan.IDMap != nil {
		c.state.Rootfs = c.plan.Rootfs.Path
	}
	return c, nil
}

// readBundle reads what the conversion needs: the bundle, and the namespaces that it joins.
func readBundle(ctx context.Context, cfg Config) (*Container, error) {
	if cfg.Checkpoint != "" {
		return nil, fmt.Errorf("restore from a checkpoint: LXC must be the parent of a container's processes, and CRIU would be: %w (hint: runc restores it, see docs/checkpoint.md)",
			errdefs.ErrNotImplemented)
	}
	settings := cfg.Settings
	if settings.Root == "" {
		var err error
		if settings, err = DefaultSettings(); err != nil {
			return nil, err
		}
	}
	var err error
	c := &Container{
		id:        cfg.ID,
		namespace: cfg.Namespace,
		bundle:    cfg.Bundle,
		settings:  settings,
		dirs:      dirsOf(settings.Root, cfg.Namespace, cfg.ID),
		emit:      cfg.Events,
		registrar: cfg.Registrar,
		idMaps:    new(idMaps),
		init:      newProcess(cfg.ID, "", cfg.Bundle, cfg.Stdio),
		execs:     make(map[string]*Process),
		specs:     make(map[string]*specs.Process),
		log:       log.G(ctx).WithField("id", cfg.ID).WithField("namespace", cfg.Namespace),
	}
	if c.spec, err = readSpec(filepath.Join(cfg.Bundle, "config.json")); err != nil {
		return nil, err
	}
	if cfg.Pod != nil {
		if err := cfg.Pod.Join(c.spec); err != nil {
			return nil, err
		}
	} else if settings.Unprivileged != nil {
		joinUserNamespace(c.spec)
	}
	if c.joined, err = joinedIDMap(c.spec); err != nil {
		return nil, err
	}
	leaveHosts(c.spec)
	if settings.Unprivileged != nil {
		if err := CheckUnprivileged(c.spec); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// hookPath is where the mount hook finds pvelxc-init: the descriptor that its monitor
// has of it (shim/monitor/monitor.c), which liblxc hands down.
const hookPath = "/proc/self/fd/4"

// options are the facts and choices that conversions of this container need.
func (c *Container) options() oci2lxc.Options {
	return oci2lxc.Options{
		ID:            c.id,
		Namespace:     c.namespace,
		Bundle:        c.bundle,
		Name:          c.id,
		InitPath:      hookPath,
		LogFile:       c.dirs.log(),
		LogLevel:      c.settings.LogLevel,
		CgroupMode:    cgroup.Mode(),
		SystemdCgroup: c.settings.SystemdCgroup,
		AppArmor:      lsm.AppArmorEnabled(),
		SELinux:       lsm.SELinuxEnabled(),
		LXCAppArmor:   lsm.AppArmorEnabled(),
		Unprivileged:  c.settings.Unprivileged,
		JoinedIDMap:   c.joined,
		NoNewKeyring:  c.settings.NoNewKeyring,

		MissingCapabilities: missingCapabilities(),
	}
}

// prepare makes everything outside the container: its config and state, the root,
// the streams, the parents of its cgroup, the monitor.
func (c *Container) prepare(ctx context.Context, cfg Config, spare *spare) error {
	text, err := c.plan.Config.Render()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.dirs.config(), text, 0o600); err != nil {
		return fmt.Errorf("write LXC config: %w", err)
	}
	// From here on a crash is cleaned up by what the state says. The monitor is in it
	// before it is told of its container: until then it ends with the shim.
	if err := c.state.write(c.dirs.state()); err != nil {
		return err
	}
	if c.monitor, err = spare.take(c.settings.Programs); err != nil {
		return err
	}
	// The cluster may take its time to grant a name; the root is mounted meanwhile.
	reserved, prepared := make(chan error, 1), make(chan error, 1)
	go func() { reserved <- c.reserve(ctx) }()
	go func() { prepared <- c.group.Prepare(ctx) }()
	_, err = mountRootfs(cfg.Rootfs, c.plan.Rootfs.Path, c.plan.IDMap, c.idMaps)
	if err := errors.Join(err, <-reserved, <-prepared); err != nil {
		return err
	}
	if c.state.Monitor, err = refOf(c.monitor.pid); err != nil {
		return err
	}
	if err := c.state.write(c.dirs.state()); err != nil {
		return err
	}
	if err := c.publish(text); err != nil {
		return err
	}
	if err := c.openPath(); err != nil {
		return err
	}
	c.init.io, err = c.openStreams(ctx, c.init, c.plan.Process.Terminal)
	return err
}

// openPath lets the root of a user namespace walk to the rootfs: containerd does
// this for specifications with a user namespace, not for those that we put into one.
func (c *Container) openPath() error {
	if c.plan.IDMap == nil {
		return nil
	}
	gid := -1 // chown(2): leave it
	if root, ok := hostID(c.plan.IDMap.GIDs, 0); ok {
		gid = int(root)
	}
	if err := os.Chown(c.bundle, -1, gid); err != nil {
		return fmt.Errorf("open the bundle to the container's root: %w", err)
	}
	if err := os.Chmod(c.bundle, 0o710); err != nil {
		return fmt.Errorf("open the bundle to the container's root: %w", err)
	}
	return nil
}

func (c *Container) openStreams(ctx context.Context, p *Process, terminal bool) (*stdio.IO, error) {
	s, err := stdio.Open(ctx, stdio.Config{
		ID:        c.id,
		Namespace: c.namespace,
		Stdin:     p.streams.Stdin,
		Stdout:    p.streams.Stdout,
		Stderr:    p.streams.Stderr,
		Terminal:  terminal,
	})
	if err != nil {
		return nil, fmt.Errorf("open streams: %w", err)
	}
	return s, nil
}

// readSpec reads config.json. Fields that this runtime-spec does not have are
// tolerated, as the specification asks (config.md#extensibility).
func readSpec(path string) (*specs.Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("read bundle %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return spec, nil
}
