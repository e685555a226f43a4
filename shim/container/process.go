package container

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/pidfd"
	"github.com/pvelxc/pvelxc/shim/stdio"
)

// Process is the container's init, or an exec.
type Process struct {
	id       string // the container's
	execID   string // empty for the init
	bundle   string
	streams  Stdio
	starting sync.Mutex // held by Start from its first to its last step; an exit waits for it
	done     chan struct{}

	mu     sync.Mutex // guards what follows
	status Status
	pid    int
	pidfd  *pidfd.FD
	io     *stdio.IO
	noMore bool // CloseStdin was called
	exit   Exit
	paused bool // the init alone: a stopped process cannot be paused
}

func newProcess(id, execID, bundle string, streams Stdio) *Process {
	return &Process{id: id, execID: execID, bundle: bundle, streams: streams, status: StatusCreated, done: make(chan struct{})}
}

// State never blocks.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := p.status
	if p.paused && status == StatusRunning {
		status = StatusPaused
	}
	return State{
		ID:     p.id,
		ExecID: p.execID,
		Bundle: p.bundle,
		Pid:    p.pid,
		Status: status,
		Stdio:  p.streams,
		Exit:   p.exit,
	}
}

// Wait waits for the process's end, also of one that never started, or for ctx.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.done:
		return p.State().Exit, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for %s: %w", p, context.Cause(ctx))
	}
}

// Resize sets the size of the terminal in characters. Without a terminal, or
// before it exists, there is nothing to do.
func (p *Process) Resize(_ context.Context, width, height uint16) error {
	streams := p.stdio()
	if streams == nil || !p.streams.Terminal {
		return nil
	}
	if err := streams.Resize(width, height); err != nil {
		return fmt.Errorf("resize terminal of %s: %w", p, err)
	}
	return nil
}

// CloseStdin drops our write end of stdin: the process reads end of file once
// containerd's client has closed its own. A client whose input is short calls it
// before the streams are open, or while they are being opened; then it is done by
// setStdio, since nobody calls twice.
func (p *Process) CloseStdin(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noMore = true
	if p.io != nil {
		p.io.CloseStdin()
	}
	return nil
}

// String names the process in messages.
func (p *Process) String() string {
	if p.execID != "" {
		return fmt.Sprintf("exec %s of container %s", p.execID, p.id)
	}
	return "container " + p.id
}

func (p *Process) stdio() *stdio.IO {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.io
}

// flushTimeout is how long the word of an exit waits for a logger program.
const flushTimeout = 2 * time.Second

// flush waits until a logger program has what the process wrote. One that does not read loses what it would have lost.
func (p *Process) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if streams := p.stdio(); streams != nil {
		_ = streams.Flush(ctx)
	}
}

// setStdio gives the process its streams.
func (p *Process) setStdio(streams *stdio.IO) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.io = streams
	if p.noMore {
		streams.CloseStdin()
	}
}

// setLive records the pid of a process that was started, and takes over fd; that is nil for one that has ended by now.
func (p *Process) setLive(pid int, fd *pidfd.FD) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid, p.pidfd = pid, fd
}

// transition moves the process on and emits the event of that, at once: see the
// package documentation. ok is false when the process is not where it must be.
func (p *Process) transition(from, to Status, emit func()) (ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status != from {
		return false
	}
	p.status = to
	emit()
	return true
}

// setExited is the last transition. It is idempotent.
func (p *Process) setExited(e Exit, emit func(Exit)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status == StatusStopped {
		return
	}
	e.Pid = p.pid
	p.status, p.exit = StatusStopped, e
	if p.io != nil {
		p.io.Exited()
	}
	if p.pidfd != nil {
		p.pidfd.Close()
		p.pidfd = nil
	}
	emit(e)
	close(p.done)
}

// signal sends sig to the process itself.
func (p *Process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.status == StatusStopped || p.pid != 0 && p.pidfd == nil:
		return fmt.Errorf("%s: process already finished: %w", p, errdefs.ErrNotFound)
	case p.pidfd == nil:
		return fmt.Errorf("%s: process was not started: %w", p, errdefs.ErrFailedPrecondition)
	}
	err := p.pidfd.Signal(sig)
	switch err {
	case nil:
		return nil
	case unix.ESRCH:
		return fmt.Errorf("%s: process already finished: %w", p, errdefs.ErrNotFound)
	case unix.EINVAL:
		return fmt.Errorf("%s: signal %d: %w", p, sig, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%s: send signal %d: %w", p, sig, err)
}
