package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/cgroup"
	"github.com/pvelxc/pvelxc/shim/pidfd"
	"github.com/pvelxc/pvelxc/shim/program"
	"github.com/pvelxc/pvelxc/shim/reaper"
	"github.com/pvelxc/pvelxc/shim/stdio"
)

// ExecConfig is an additional process of a running container.
type ExecConfig struct {
	// ID is unique in the container.
	ID    string
	Stdio Stdio
	Spec  *specs.Process
}

// AddExec reserves the id and starts nothing; it emits TaskExecAdded.
func (c *Container) AddExec(_ context.Context, cfg ExecConfig) error {
	cgroup.Prime() // the start is near
	if s := c.init.State().Status; s == StatusStopped {
		return fmt.Errorf("exec %s: container %s has ended: %w", cfg.ID, c.id, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[cfg.ID]; ok {
		return fmt.Errorf("exec %s of container %s: %w", cfg.ID, c.id, errdefs.ErrAlreadyExists)
	}
	c.execs[cfg.ID] = newProcess(c.id, cfg.ID, c.bundle, cfg.Stdio)
	c.specs[cfg.ID] = cfg.Spec
	c.emit(&events.TaskExecAdded{ContainerID: c.id, ExecID: cfg.ID})
	return nil
}

// startExec starts an exec; p.starting is held.
func (c *Container) startExec(ctx context.Context, p *Process) (_ int, err error) {
	if s := c.init.State().Status; s != StatusRunning {
		return 0, fmt.Errorf("start %s: the container is %s: %w", p, s, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	spec := c.specs[p.execID]
	c.mu.Unlock()
	proc, warnings, err := oci2lxc.ConvertProcess(spec, c.spec, c.options())
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p, err)
	}
	if err := checkProfile(proc); err != nil {
		return 0, fmt.Errorf("start %s: %w", p, err)
	}
	c.minds(proc.Capabilities)
	c.warn(warnings)
	proc.Terminal = proc.Terminal || p.streams.Terminal
	streams, err := c.openStreams(ctx, p, proc.Terminal)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p, err)
	}
	p.setStdio(streams)
	if err := streams.Feed(); err != nil {
		c.failExec(p, streams)
		return 0, fmt.Errorf("start %s: %w", p, err)
	}
	if err := c.enter(ctx, p, proc, streams); err != nil {
		err = fmt.Errorf("start %s: %w", p, err)
		c.failExec(p, streams)
		return 0, err
	}
	pid := p.State().Pid
	if !p.transition(StatusCreated, StatusRunning, func() {
		c.emit(&events.TaskExecStarted{ContainerID: c.id, ExecID: p.execID, Pid: uint32(pid)})
	}) {
		return 0, fmt.Errorf("start %s: it ended meanwhile: %w", p, errdefs.ErrFailedPrecondition)
	}
	return pid, nil
}

// failExec puts an exec that could not be started to its end. Nobody was told of a
// start, so nobody is told of an exit.
func (c *Container) failExec(p *Process, streams *stdio.IO) {
	const couldNotStart = 127
	_ = p.signal(syscall.SIGKILL) // it may live, if it was the request that ended
	p.setExited(Exit{Status: couldNotStart, At: time.Now()}, func(Exit) {})
	streams.Close()
}

// enter runs pvelxc-init's exec role, whose child is the process.
func (c *Container) enter(ctx context.Context, p *Process, proc *oci2lxc.Process, streams *stdio.IO) error {
	prog, release, err := c.execProgram(proc)
	if err != nil {
		return err
	}
	defer release()
	conn, peer, err := program.Pair()
	if err != nil {
		return err
	}
	defer conn.Close()
	// The process may end before its pid is known here.
	known := reaper.Expect()
	defer known()
	helper, err := c.startHelper(peer, streams)
	_ = peer.Close()
	streams.Start()
	if err != nil {
		return err
	}
	if err := setOOMScore(helper, proc.OOMScoreAdj); err != nil {
		return err
	}
	recv := execReceiver(conn, prog)
	hello, err := recv(ctx)
	if err != nil {
		return err
	}
	if hello.Type != program.MsgHello {
		return c.monitor.unexpected(hello)
	}
	if err := conn.SendProgram(ctx, prog); err != nil {
		return err
	}
	done, err := recv(ctx)
	if err != nil {
		return err
	}
	if done.Type != program.MsgDone {
		return c.monitor.unexpected(done)
	}
	exits, fd, err := adopt(done.PID)
	if err != nil {
		return err
	}
	p.setLive(done.PID, fd)
	go c.watchExec(p, exits)
	if c.state.Rdt != nil {
		if err := c.state.Rdt.Join(done.PID); err != nil {
			return fmt.Errorf("linux.intelRdt: %w", err)
		}
	}
	return c.awaitConsole(ctx, proc, prog, recv, streams)
}

// adopt begins to watch a child that a helper has forked. fd is nil when that has ended and been collected: its pid may be another's.
func adopt(pid int) (exits <-chan reaper.Exit, fd *pidfd.FD, err error) {
	defer reaper.Hold()()
	exits = reaper.Watch(pid)
	if len(exits) > 0 {
		return exits, nil, nil
	}
	fd, err = pidfd.Open(pid)
	return exits, fd, err
}

// awaitConsole takes the terminal, when there is one, and waits for the exec.
func (c *Container) awaitConsole(ctx context.Context, proc *oci2lxc.Process, prog *program.Program,
	recv func(context.Context) (*program.Message, error), streams *stdio.IO,
) error {
	if proc.Terminal {
		msg, err := recv(ctx)
		if err != nil {
			return err
		}
		if msg.Type != program.MsgFD || program.FDKind(msg.Arg) != program.FDConsole || len(msg.Files) != 1 {
			return c.monitor.unexpected(msg)
		}
		if err := streams.Console(msg.Files[0]); err != nil {
			return err
		}
	}
	return c.awaitExec(ctx, prog, recv)
}

// watchExec waits for the end of an exec and tells it, after its start was told.
func (c *Container) watchExec(p *Process, exits <-chan reaper.Exit) {
	e := <-exits
	p.flush(context.Background())
	p.starting.Lock()
	defer p.starting.Unlock()
	p.setExited(Exit{Status: e.Code(), At: e.At}, func(e Exit) { c.emit(exitEvent(c.id, p.execID, e)) })
}

// startHelper starts pvelxc-init with the process's streams. It ends by itself as
// soon as it has a child in the container, which is the shim's child too.
func (c *Container) startHelper(peer *os.File, streams *stdio.IO) (int, error) {
	// Its own exit tells nothing: it ends well or has said why.
	pid, _, err := c.settings.Programs.startInit(&syscall.SysProcAttr{Setsid: true}, "exec", streams.Child(), peer)
	return pid, err
}

// execProgram is the program of an exec; release closes what it refers to, once it
// was sent.
func (c *Container) execProgram(proc *oci2lxc.Process) (*program.Program, func(), error) {
	var open files
	pid := c.Pid()
	dir, v1, err := c.group.Entry(pid)
	if err != nil {
		return nil, nil, err
	}
	open = append(open, v1...)
	if dir != nil {
		open = append(open, dir)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		open.close()
		return nil, nil, fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	file := os.NewFile(uintptr(fd), "init")
	open = append(open, file)
	prog, err := program.Exec(program.ExecInput{
		Process:    proc,
		PidFD:      file,
		Cgroup:     dir,
		CgroupV1:   v1,
		Namespaces: namespacesOf(c.plan),
		Seccomp:    c.filter,
		Keyring:    c.keyring(),
	})
	if err != nil {
		open.close()
		return nil, nil, err
	}
	return prog, open.close, nil
}

// namespacesOf are the namespaces in which the container differs from the shim.
func namespacesOf(plan *oci2lxc.Plan) (flags uint32) {
	for _, ns := range plan.Namespaces {
		if ns.Mode != oci2lxc.NamespaceHost {
			flags |= program.NamespaceFlag(ns.Type)
		}
	}
	return flags
}

// execReceiver receives from pvelxc-init's exec role and turns its errors into ours.
func execReceiver(conn *program.Conn, prog *program.Program) func(context.Context) (*program.Message, error) {
	return func(ctx context.Context) (*program.Message, error) {
		msg, err := conn.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("the process ended before it was started: %w", errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return nil, err
		}
		if msg.Type == program.MsgError {
			msg.Close()
			return nil, prog.Error(msg)
		}
		return msg, nil
	}
}

// deleteExec removes an exec that has ended, or one that never started.
func (c *Container) deleteExec(ctx context.Context, p *Process) (Exit, error) {
	s := p.State()
	if s.Status == StatusRunning {
		return Exit{}, fmt.Errorf("delete %s: it is running: %w", p, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	_, ok := c.execs[p.execID]
	delete(c.execs, p.execID)
	delete(c.specs, p.execID)
	c.mu.Unlock()
	if !ok {
		return Exit{}, fmt.Errorf("%s: %w", p, errdefs.ErrNotFound)
	}
	c.closeStreams(ctx, p)
	// Whoever waits for one that never started waits no longer.
	p.setExited(Exit{At: time.Now()}, func(Exit) {})
	exit := p.State().Exit
	c.emit(deleteEvent(c.id, p.execID, exit))
	return exit, nil
}
