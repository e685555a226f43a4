// Package pidfd refers to processes by descriptors that no recycled process id can
// mislead (pidfd_open(2)), and waits for the end of processes that are nobody's
// children here. Waiting takes no thread.
package pidfd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FD is a process. One wait at a time: a second one begins when the first has ended.
type FD struct {
	file *os.File
	conn syscall.RawConn
}

// Open refers to the process that has this id now; ESRCH when there is none.
func Open(pid int) (*FD, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), fmt.Sprintf("process %d", pid))
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &FD{file: file, conn: conn}, nil
}

// Close ends waits, which fail with os.ErrClosed.
func (f *FD) Close() { _ = f.file.Close() }

// Signal sends sig; ESRCH when the process has ended.
func (f *FD) Signal(sig syscall.Signal) error {
	var failure error
	if f.conn.Control(func(fd uintptr) { failure = unix.PidfdSendSignal(int(fd), sig, nil, 0) }) != nil {
		return os.ErrClosed // nothing else keeps Control from its work
	}
	return failure
}

// Ended waits until the process has ended; it may be a zombie then.
func (f *FD) Ended(ctx context.Context) error {
	return f.wait(ctx, func(fd int) bool { return poll(fd)&unix.POLLIN != 0 })
}

// Status waits until the process has ended and its parent has taken its status, and
// tells that too. known is false where the kernel does not keep it (before Linux
// 6.15, PIDFD_INFO_EXIT in linux/pidfd.h); the wait may then last until ctx ends, or
// Close.
func (f *FD) Status(ctx context.Context) (status unix.WaitStatus, known bool, err error) {
	err = f.wait(ctx, func(fd int) bool {
		// The status comes with the end of the last trace of the process: asked in this
		// order, one that has no status when the trace is gone will not have one.
		reaped := poll(fd)&unix.POLLHUP != 0
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		err := unix.IoctlPidfdInfo(fd, &info)
		if err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			status, known = unix.WaitStatus(info.Exit_code), true
		}
		return known || reaped || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL)
	})
	return status, known, err
}

// wait calls done until it says true, at once and whenever the descriptor stirs.
func (f *FD) wait(ctx context.Context, done func(fd int) bool) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { _ = f.file.SetReadDeadline(time.Unix(1, 0)) })
		defer func() {
			if !stop() {
				_ = f.file.SetReadDeadline(time.Time{})
			}
		}()
	}
	err := f.conn.Read(func(fd uintptr) bool { return done(int(fd)) })
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s does not end: %w", f.file.Name(), context.Cause(ctx))
	}
	return os.ErrClosed
}

func poll(fd int) int16 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return 0
	}
	return fds[0].Revents
}
