package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is a finished program.
type Program struct {
	buf   []byte
	descs []string
	files []*os.File
}

// Bytes is the program in the format of shim/init/protocol.h. It must not be
// changed.
func (p *Program) Bytes() []byte { return p.buf }

// Files are the descriptors that the program needs, in the order of its table.
// They stay the caller's, who may close them after Conn.SendProgram.
func (p *Program) Files() []*os.File { return slices.Clone(p.files) }

// Ops are the descriptions of the operations, in order ("mount proc on /proc
// (mounts[0])").
func (p *Program) Ops() []string { return slices.Clone(p.descs) }

// Memfd returns the program in a sealed memory file (memfd_create(2)).
func (p *Program) Memfd() (*os.File, error) {
	const name = "pvelxc-program"
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("create memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(p.buf); err != nil {
		f.Close()
		return nil, fmt.Errorf("write memory file: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal memory file: %w", err)
	}
	return f, nil
}

// OpError is the failure of one operation inside pvelxc-init. It unwraps to the
// syscall.Errno.
type OpError struct {
	// Op describes the operation and the field it comes from; empty when the
	// program itself was refused.
	Op string
	// Text says what failed in the operation; may be empty.
	Text string
	// Errno is the kernel's reason, 0 when a hook failed by itself.
	Errno syscall.Errno
}

// Error is "<operation>: <what failed>: <reason>".
func (e *OpError) Error() string {
	s := e.Op
	for _, part := range []string{e.Text, e.reason()} {
		if part == "" {
			continue
		}
		if s != "" {
			s += ": "
		}
		s += part
	}
	return s
}

func (e *OpError) reason() string {
	if e.Errno == 0 {
		return ""
	}
	return e.Errno.Error()
}

// Unwrap returns the errno, nil where there is none: a hook that failed by itself.
func (e *OpError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Error turns a MsgError into an *OpError.
func (p *Program) Error(m *Message) error {
	e := &OpError{Text: m.Text, Errno: m.Err}
	if int64(m.Op) < int64(len(p.descs)) {
		e.Op = p.descs[m.Op]
	}
	return e
}

// WaitExec reads pipe, the descriptor of MsgFD FDExec, until the process was
// executed (nil), failed (*OpError) or ctx ends, and closes it. nil also comes
// when pvelxc-init was killed: its exit status then tells.
func (p *Program) WaitExec(ctx context.Context, pipe *os.File) error {
	defer pipe.Close()
	stop := context.AfterFunc(ctx, func() { _ = pipe.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf, err := io.ReadAll(io.LimitReader(pipe, msgSize+maxText))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("wait for exec: %w", err)
	}
	if len(buf) == 0 {
		return nil
	}
	m, err := parseMessage(buf)
	if err != nil {
		return fmt.Errorf("wait for exec: %w", err)
	}
	return p.Error(m)
}
