package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/shim/program"
	"github.com/pvelxc/pvelxc/shim/seccomp"
)

// startTimeout bounds what happens in the container between the start signal and
// exec, hooks included, where the request itself sets no limit.
const startTimeout = 10 * time.Minute

// Start lets the init go on, or starts an exec, and returns when the user's program
// runs: its event is emitted by then. An error names what kept it from running.
func (c *Container) Start(ctx context.Context, execID string) (int, error) {
	p, err := c.Process(execID)
	if err != nil {
		return 0, err
	}
	p.starting.Lock()
	defer p.starting.Unlock()
	if s := p.State().Status; s != StatusCreated {
		return 0, fmt.Errorf("start %s: it is %s: %w", p, s, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if execID != "" {
		return c.startExec(ctx, p)
	}
	if err := c.startInit(ctx); err != nil {
		return 0, fmt.Errorf("start %s: %w", p, err)
	}
	pid := c.Pid()
	if !p.transition(StatusCreated, StatusRunning, func() {
		c.emit(&events.TaskStart{ContainerID: c.id, Pid: uint32(pid)})
	}) {
		return 0, fmt.Errorf("start %s: it ended meanwhile: %w", p, errdefs.ErrFailedPrecondition)
	}
	c.tell("running", func(ctx context.Context, r Registration) error { return r.Running(ctx) })
	return pid, c.poststart(ctx, pid)
}

func (c *Container) startInit(ctx context.Context) error {
	if err := c.init.stdio().Feed(); err != nil {
		return err
	}
	if err := c.monitor.proceed(ctx); err != nil {
		return err
	}
	return c.awaitExec(ctx, c.program, c.monitor.recv)
}

// awaitExec waits until pvelxc-init has executed the user's program, or for its
// error. On the way it takes the descriptors that are sent.
func (c *Container) awaitExec(ctx context.Context, p *program.Program, recv func(context.Context) (*program.Message, error)) error {
	var pipe *os.File
	for pipe == nil {
		msg, err := recv(ctx)
		if err != nil {
			return err
		}
		if msg.Type != program.MsgFD || len(msg.Files) != 1 {
			return c.monitor.unexpected(msg)
		}
		if err := c.takeFD(ctx, program.FDKind(msg.Arg), msg.Files[0], &pipe); err != nil {
			return err
		}
	}
	if !c.notify {
		return p.WaitExec(ctx, pipe)
	}
	// The notify descriptor comes after the pipe: the filter is loaded last.
	executed := make(chan error, 1)
	go func() { executed <- p.WaitExec(ctx, pipe) }()
	msg, err := recv(ctx)
	if err == nil && msg.Type == program.MsgFD && len(msg.Files) == 1 {
		err = c.takeFD(ctx, program.FDKind(msg.Arg), msg.Files[0], &pipe)
	}
	return errors.Join(err, <-executed)
}

func (c *Container) takeFD(ctx context.Context, kind program.FDKind, f *os.File, pipe **os.File) error {
	switch kind {
	case program.FDExec:
		*pipe = f
		return nil
	case program.FDSeccomp:
		defer f.Close()
		state := specs.ContainerProcessState{
			Version:  specs.Version,
			Fds:      []string{specs.SeccompFdName},
			Pid:      c.Pid(),
			Metadata: c.plan.Seccomp.ListenerMetadata,
			State:    *c.hookState(specs.StateRunning, c.Pid()),
		}
		return seccomp.SendListener(ctx, c.plan.Seccomp.ListenerPath, state, f)
	}
	_ = f.Close()
	return fmt.Errorf("pvelxc-init sent a descriptor of unknown kind %d", kind)
}

// poststart runs the hooks of that name. One that fails stops the container
// (runtime.md, lifecycle, step 9).
func (c *Container) poststart(ctx context.Context, pid int) error {
	err := runHooks(ctx, "poststart", c.plan.Hooks.Poststart, c.hookState(specs.StateRunning, pid))
	if err == nil {
		return nil
	}
	kill, cancel := cleanupContext(ctx)
	defer cancel()
	if e := c.Kill(kill, "", syscall.SIGKILL, true); e != nil && !errdefs.IsNotFound(e) {
		err = errors.Join(err, e)
	}
	return fmt.Errorf("start %s: %w", c.init, err)
}
