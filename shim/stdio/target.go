package stdio

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
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

// close says that a user will write no more. After the last one the file is closed: a FIFO when it is empty, because what containerd,
// being restarted, has not read yet would be gone with our read end. Only abort ends that wait.
func (s *sink) close() {
	if s == nil || s.users.Add(-1) > 0 {
		return
	}
	if s.pending() == 0 {
		_ = s.file.Close()
		return
	}
	go func() {
		for pause := 200 * time.Microsecond; s.pending() > 0; pause = min(2*pause, 250*time.Millisecond) {
			time.Sleep(pause) // nothing tells a writer that a pipe is empty
		}
		_ = s.file.Close()
	}()
}

// pending returns how many bytes wait in a FIFO; 0 for a closed one, and for what is no FIFO.
func (s *sink) pending() (n int) {
	raw, err := s.file.SyscallConn()
	if err != nil || !s.fifo {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ); err != nil {
			n = 0
		}
	})
	return n
}

// abort closes the file whoever uses it.
func (s *sink) abort() {
	if s != nil {
		_ = s.file.Close()
	}
}

// input is the FIFO a process's stdin comes from.
type input struct {
	reader, writer *os.File
}

// openInput opens the FIFO's both ends. Ours keeps the stream open while clients detach, attach again, or containerd restarts; only
// CloseIO ends it.
func openInput(path string) (*input, error) {
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open input: %w", err)
	}
	in := &input{reader: reader}
	info, err := reader.Stat()
	if err != nil {
		in.close()
		return nil, fmt.Errorf("open input: %w", err)
	}
	if info.Mode().Type() != os.ModeNamedPipe {
		return in, nil
	}
	if in.writer, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
		in.close()
		return nil, fmt.Errorf("open input for keeping: %w", err)
	}
	return in, nil
}

func (i *input) closeWriter() {
	if i.writer != nil {
		_ = i.writer.Close()
	}
}

func (i *input) close() {
	i.closeWriter()
	_ = i.reader.Close()
}
