package stdio

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// target is where an output stream goes.
type target struct {
	path   string   // a FIFO, or any existing file
	create bool     // path is a log file, made if it is missing
	logger *url.URL // a logger program
}

// parseTarget reads a name as containerd's clients write it: a path, or one of the URIs of containerd's pkg/cio.
func parseTarget(name string) (target, error) {
	scheme, _, found := strings.Cut(name, "://")
	if !found {
		return target{path: name}, nil
	}
	uri, err := url.Parse(name)
	if err != nil {
		return target{}, fmt.Errorf("parse %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(uri.Path) {
		return target{}, fmt.Errorf("%q has no absolute path: %w", name, errdefs.ErrInvalidArgument)
	}
	switch scheme {
	case "fifo":
		return target{path: uri.Path}, nil
	case "file":
		return target{path: uri.Path, create: true}, nil
	case "binary", "binary-v2":
		return target{logger: uri}, nil
	default:
		return target{}, fmt.Errorf("scheme of %q is unknown (fifo, file, binary, binary-v2 are): %w", name, errdefs.ErrInvalidArgument)
	}
}

// open opens a target that is no logger; an empty path gives nil.
func (t target) open() (*sink, error) {
	if t.path == "" {
		return nil, nil
	}
	// Read-write: opening a FIFO so waits for nobody, and our own read end keeps the process from SIGPIPE while containerd restarts.
	// See close for its end.
	flags := os.O_RDWR | os.O_APPEND | unix.O_NONBLOCK
	if t.create {
		if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
			return nil, fmt.Errorf("create log directory: %w", err)
		}
		flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE
	}
	file, err := os.OpenFile(t.path, flags, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open output: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("open output: %w", err)
	}
	return newSink(file, info.Mode().Type() == os.ModeNamedPipe), nil
}

// sink is the far end of one output stream, or of two that share it. A nil sink takes and discards.
type sink struct {
	file  *os.File
	fifo  bool // we hold the read end, too
	users atomic.Int32

	mu      sync.Mutex // guards what follows
	last    *os.File   // the FIFO's write end alone, after the last user has closed it
	aborted bool
}

func newSink(file *os.File, fifo bool) *sink {
	s := &sink{file: file, fifo: fifo}
	s.users.Store(1)
	return s
}

// share adds a user: the file is closed when each has closed it.
func (s *sink) share() *sink {
	if s != nil {
		s.users.Add(1)
	}
	return s
}

func (s *sink) writer() io.Writer {
	if s == nil {
		return io.Discard
	}
	return s.file
}

// close says that a user will write no more. After the last one the file is closed: a FIFO when somebody has it open to read, and has
// read it all. Who opens it later waits for a writer, for ever if there is none: containerd opens its ends in the background, which may
// take longer than a short process lives. And what containerd, being restarted, has not read yet would be gone with our read end. Only
// abort ends that wait.
func (s *sink) close() {
	if s == nil || s.users.Add(-1) > 0 {
		return
	}
	last, err := s.writeOnly()
	_ = s.file.Close()
	if err != nil || last == nil {
		return
	}
	if s.over() {
		_ = last.Close()
		return
	}
	go func() {
		// Nothing tells a writer that a reader has come, or that a pipe is empty.
		for pause := 200 * time.Microsecond; !s.over(); pause = min(2*pause, 250*time.Millisecond) {
			time.Sleep(pause)
		}
		_ = last.Close()
	}()
}

// writeOnly opens a FIFO for writing alone; nil for what is no FIFO, and when abort was called.
func (s *sink) writeOnly() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fifo || s.aborted {
		return nil, nil
	}
	raw, err := s.file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open output for its end: %w", err)
	}
	if failed := raw.Control(func(fd uintptr) {
		s.last, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY|unix.O_NONBLOCK, 0)
	}); failed != nil || err != nil {
		return nil, fmt.Errorf("open output for its end: %w", errors.Join(failed, err))
	}
	return s.last, nil
}

// over says that a FIFO has a reader, who has read it all, or that abort was called.
func (s *sink) over() bool {
	raw, err := s.last.SyscallConn()
	if err != nil {
		return true
	}
	over := true
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		for {
			if _, err = unix.Poll(fds, 0); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		n, ioctl := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		// POLLERR of a write end: no reader has the pipe open (poll(2)).
		over = err != nil || ioctl != nil || n == 0 && fds[0].Revents&unix.POLLERR == 0
	})
	return over
}

// abort closes the file whoever uses it.
func (s *sink) abort() {
	if s == nil {
		return
	}
	_ = s.file.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	if s.last != nil {
		_ = s.last.Close()
	}
}

// input is the FIFO a process's stdin comes from.
type input struct {
	path   string
	reader *os.File
	fifo   bool

	mu     sync.Mutex // guards what follows
	writer *os.File
	done   bool // the writer is not to be opened any more
}

// openInput opens the end of the FIFO that is read.
func openInput(path string) (*input, error) {
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open input: %w", err)
	}
	in := &input{path: path, reader: reader}
	info, err := reader.Stat()
	if err != nil {
		in.close()
		return nil, fmt.Errorf("open input: %w", err)
	}
	in.fifo = info.Mode().Type() == os.ModeNamedPipe
	return in, nil
}

// keep opens the FIFO's other end too. It keeps the stream open while clients detach, attach again, or containerd restarts; only CloseIO
// ends it.
func (i *input) keep() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.fifo || i.done || i.writer != nil {
		return nil
	}
	var err error
	i.writer, err = i.openWriter()
	return err
}

func (i *input) openWriter() (*os.File, error) {
	writer, err := os.OpenFile(i.path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open input for keeping: %w", err)
	}
	return writer, nil
}

// abandoned says that nobody has the FIFO open for writing.
func (i *input) abandoned() (bool, error) {
	if !i.fifo {
		return false, nil
	}
	// poll(2) tells a reader that writers have gone, not that none has come: so one comes and goes.
	writer, err := i.openWriter()
	if err != nil {
		return false, err
	}
	_ = writer.Close()
	raw, err := i.reader.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("look for the writer of the input: %w", err)
	}
	gone := false
	failed := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if _, err = unix.Poll(fds, 0); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		gone = fds[0].Revents&unix.POLLHUP != 0
	})
	if err = errors.Join(failed, err); err != nil {
		return false, fmt.Errorf("look for the writer of the input: %w", err)
	}
	return gone, nil
}

func (i *input) closeWriter() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.done = true
	if i.writer != nil {
		_ = i.writer.Close()
	}
}

func (i *input) close() {
	i.closeWriter()
	_ = i.reader.Close()
}
