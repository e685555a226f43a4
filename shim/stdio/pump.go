package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// bufferSize is what one read takes at most: half of a pipe's default capacity.
const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// source is a polled file to pump from. A source with nothing to read holds no buffer, so an idle stream costs a parked goroutine.
type source struct {
	file *os.File
	// wait says whether a read that failed with err is to be tried again when the file becomes readable. nil waits on EAGAIN.
	wait func(err error) bool
}

// pump copies from src to dst until the end of src, which is no error, or a failure of either.
func pump(dst io.Writer, src source) error {
	raw, err := src.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("copy from %s: %w", src.file.Name(), err)
	}
	for {
		var buffer *[bufferSize]byte
		var n int
		var failure error
		err := raw.Read(func(fd uintptr) bool {
			buffer = buffers.Get().(*[bufferSize]byte)
			n, failure = read(int(fd), buffer[:])
			if n > 0 || failure == nil {
				return true
			}
			buffers.Put(buffer)
			buffer = nil
			return !src.waits(failure)
		})
		if n > 0 {
			_, err := dst.Write(buffer[:n])
			buffers.Put(buffer)
			if err != nil {
				return fmt.Errorf("copy from %s: %w", src.file.Name(), err)
			}
			continue
		}
		if buffer != nil {
			buffers.Put(buffer)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			// A nudge to call wait again: see console.exited.
			_ = src.file.SetReadDeadline(noDeadline)
		case err != nil:
			return fmt.Errorf("copy from %s: %w", src.file.Name(), err)
		case failure == nil || errors.Is(failure, unix.EIO) || errors.Is(failure, unix.EAGAIN):
			return nil
		default:
			return fmt.Errorf("copy from %s: %w", src.file.Name(), failure)
		}
	}
}

func (s source) waits(err error) bool {
	if s.wait == nil {
		return errors.Is(err, unix.EAGAIN)
	}
	return s.wait(err)
}

func read(fd int, buffer []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buffer)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}
