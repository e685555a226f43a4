package stdio

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

var noDeadline time.Time

// console is the master of a process's pty.
type console struct {
	master *os.File
	gone   atomic.Bool // the process has exited
}

// newConsole takes master over, also when it fails.
func newConsole(master *os.File) (*console, error) {
	defer master.Close()
	// A fresh os.File on the same description: only one that is born non-blocking is polled.
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate master: %w", err)
	}
	return &console{master: polled(fd, "console")}, nil
}

// source reads what is written to the terminal. A master answers EIO while no process has the terminal open, which is not its end: a
// getty, an init system or a shell's child opens it again. The end is the process's exit.
func (c *console) source() source {
	return source{file: c.master, wait: func(err error) bool {
		// After the exit what the terminal holds is read to its end: the kernel flushes the line discipline before it says EAGAIN.
		return !c.gone.Load() && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EIO))
	}}
}

func (c *console) exited() {
	if c.gone.CompareAndSwap(false, true) {
		_ = c.master.SetReadDeadline(time.Unix(1, 0)) // wakes a parked reader
	}
}

func (c *console) resize(width, height uint16) error {
	raw, err := c.master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize console: %w", err)
	}
	var failure error
	err = raw.Control(func(fd uintptr) {
		failure = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	})
	if err = errors.Join(err, failure); err != nil {
		return fmt.Errorf("resize console to %dx%d: %w", width, height, err)
	}
	return nil
}

func (c *console) close() { _ = c.master.Close() }
