package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/api/events"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/pidfd"
	"github.com/pvelxc/pvelxc/shim/program"
)

// build lets the monitor go and talks its mount hook and PID 1 through their programs,
// up to SyncCreated.
func (c *Container) build(ctx context.Context) error {
	if c.plan.Cgroup.Systemd {
		if err := c.group.PrepareScope(ctx, c.monitor.pid); err != nil {
			return err
		}
	}
	err := c.monitor.start(ctx, c.settings.Programs.Init, c.dirs, c.killAll, c.init.io.Child())
	c.init.io.Start()
	if err != nil {
		return err
	}
	// While liblxc sets the container up, the mounts are made ready.
	ready := make(chan error, 1)
	var in inputs
	defer func() { in.close() }()
	go func() { ready <- in.open(ctx, c) }()
	hook, err := c.monitor.hello(ctx, program.RoleHook)
	if err := errors.Join(err, <-ready); err != nil {
		return err
	}
	pid, err := parentOf(hook)
	if err != nil {
		return err
	}
	if err := c.runHook(ctx, &in, pid); err != nil {
		return err
	}
	return c.park(ctx, &in, pid)
}

// killAll ends every process of the container, whatever becomes of the request.
func (c *Container) killAll() {
	ctx, cancel := cleanupContext(context.Background())
	defer cancel()
	_ = c.group.Kill(ctx) // destroy will report what stays
}

// runHook is the mount hook's part: mounts, and the hooks that belong to them.
func (c *Container) runHook(ctx context.Context, in *inputs, pid int) error {
	state, err := json.Marshal(c.hookState(specs.StateCreating, pid))
	if err != nil {
		return fmt.Errorf("encode hook state: %w", err)
	}
	cgroups, err := in.openCgroups(c, pid)
	if err != nil {
		return err
	}
	p, err := program.Hook(program.HookInput{
		Plan:            c.plan,
		Trees:           in.trees,
		Cgroups:         cgroups,
		Devices:         in.devices,
		CgroupNamespace: in.join[specs.CgroupNamespace],
		State:           state,
	})
	if err != nil {
		return err
	}
	// The limits hold before any code of the user's runs, hooks included. On v2 the
	// hook's mounts and the writes to the cgroup go on side by side; on v1 the device
	// controller denies everything, mknod included, until its list is written.
	limits := make(chan error, 1)
	limit := func() { limits <- c.limit(ctx, pid) }
	if c.state.CgroupMode == oci2lxc.CgroupUnified {
		go limit()
	} else {
		limit()
	}
	err = c.monitor.answer(ctx, p)
	if err == nil {
		err = c.monitor.sync(ctx, program.SyncMounted, nil)
	}
	if err := errors.Join(err, <-limits); err != nil {
		return err
	}
	st := c.hookState(specs.StateCreating, pid)
	if err := runHooks(ctx, "prestart", c.plan.Hooks.Prestart, st); err != nil {
		return err
	}
	if err := runHooks(ctx, "createRuntime", c.plan.Hooks.CreateRuntime, st); err != nil {
		return err
	}
	if err := c.monitor.proceed(ctx); err != nil {
		return err
	}
	return c.monitor.done(ctx)
}

// limit applies what the shim sets from outside.
func (c *Container) limit(ctx context.Context, pid int) error {
	if err := c.group.Apply(ctx); err != nil {
		return err
	}
	if err := setOOMScore(pid, c.plan.Process.OOMScoreAdj); err != nil {
		return err
	}
	end, err := c.group.OOM(func() { c.emit(&events.TaskOOM{ContainerID: c.id}) })
	if err != nil {
		return fmt.Errorf("watch for OOM: %w", err)
	}
	c.stopOOM = end
	return nil
}

// park gives PID 1 its program and waits until it is ready to start.
func (c *Container) park(ctx context.Context, in *inputs, pid int) error {
	got, err := c.monitor.hello(ctx, program.RoleInit)
	if err != nil {
		return err
	}
	if got != pid {
		return fmt.Errorf("PID 1 is process %d, its mount hook's parent was %d", got, pid)
	}
	// The process waits for our answer: its pid is its own.
	fd, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	c.init.setLive(pid, fd)
	if err := c.checkIDMap(pid); err != nil {
		return err
	}
	if c.state.Init, err = refOf(pid); err != nil {
		return err
	}
	if err := c.classify(pid); err != nil {
		return err
	}
	if err := c.state.write(c.dirs.state()); err != nil {
		return err
	}
	if err := c.moveDevices(ctx, pid); err != nil {
		return err
	}
	if err := raiseLimits(pid, c.plan); err != nil {
		return err
	}
	state, err := json.Marshal(c.hookState(specs.StateCreated, pid))
	if err != nil {
		return fmt.Errorf("encode hook state: %w", err)
	}
	c.filter, c.notify = in.filter, in.notify
	c.program, err = program.Init(program.InitInput{
		Plan:     c.plan,
		NullTree: in.null,
		Join:     in.joins(),
		Seccomp:  in.filter,
		State:    state,
		Keyring:  c.keyring(),
	})
	if err != nil {
		return err
	}
	if err := c.monitor.answer(ctx, c.program); err != nil {
		return err
	}
	var console error
	err = c.monitor.sync(ctx, program.SyncCreated, func(kind program.FDKind, f *os.File) {
		if kind != program.FDConsole {
			_ = f.Close()
			return
		}
		console = c.init.io.Console(f)
	})
	return errors.Join(err, console)
}

// keyring is the name of the session keyring, runc's form.
func (c *Container) keyring() string {
	if c.settings.NoNewKeyring {
		return ""
	}
	return "_ses." + c.id
}
