// Package stdio connects a container process's standard streams with what containerd named for them: FIFOs (ctr, CRI), a logger
// program (binary://, nerdctl) or a file (file://).
//
//	stdin FIFO ──pump──▶ pipe ──▶ process ──▶ pipe ──pump──▶ FIFO or file
//	                                └──────▶ pipe ──────────▶ logger program
//	stdin FIFO ──pump──▶ pty master ◀──────── process on a terminal; output as above, from the master
//
// The process never gets a FIFO or file itself, although that would save the copy. A descriptor on a host file system is a mount the
// process could open other host files by (open_by_handle_at(2) with CAP_DAC_READ_SEARCH), LSMs refuse it by its path, and a user other
// than root cannot reopen it through /proc/self/fd/1. An anonymous pipe has none of these troubles.
//
// Life of an IO: Open, hand Child to the process, Start (or Console), Feed, then at its exit Flush and Exited, and for its deletion Drain and Close.
package stdio

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/null"
)

// Config names the streams of one process as containerd's task API gave them. An empty name is /dev/null.
type Config struct {
	// ID and Namespace identify the container to a logger program.
	ID, Namespace string
	// Stdin is the path of a FIFO.
	Stdin string
	// Stdout and Stderr are FIFOs, files or URIs (fifo://, file://, binary://, binary-v2://). Stderr is unused with a terminal.
	Stdout, Stderr string
	// Terminal says that the process gets a pty, whose master is handed to Console.
	Terminal bool
}

// IO is the standard streams of one process. Its methods may be called from any goroutine, and in any order: a call that comes too
// late or too early does nothing.
type IO struct {
	config Config
	child  Child
	stdin  *input // nil without a stdin
	stdout *sink  // nil without a stdout; likewise stderr
	stderr *sink
	logger *logger  // nil without a binary:// URI
	feed   *os.File // our end of stdin's pipe; nil with a terminal
	fed    sync.Once

	pumps   sync.WaitGroup // the copies out of the process
	drained chan struct{}  // closed when pumps are done; made by Drain
	drain   sync.Once

	mu      sync.Mutex // guards what follows
	console *console
	pipes   []*os.File // our ends of the pipes
	gone    bool       // the process has exited
	closed  bool       // no console is taken any more
}

// Open opens what config names. It never waits for a FIFO's other side; it does wait for a logger program's word that it is
// ready, as long as ctx allows.
func Open(ctx context.Context, config Config) (_ *IO, err error) {
	s := &IO{config: config, drained: make(chan struct{})}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if config.Stdin != "" {
		if s.stdin, err = openInput(config.Stdin); err != nil {
			return nil, fmt.Errorf("stdin: %w", err)
		}
		// A terminal has no end of input: who closes it has detached.
		if config.Terminal {
			if err := s.stdin.keep(); err != nil {
				return nil, fmt.Errorf("stdin: %w", err)
			}
		}
	}
	if err := s.openOutputs(ctx); err != nil {
		return nil, err
	}
	return s, s.openChild()
}

// openOutputs opens the sinks. A logger program takes stdout and stderr together and reads the process's pipes itself.
func (s *IO) openOutputs(ctx context.Context) error {
	out, err := parseTarget(s.config.Stdout)
	if err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	if out.logger != nil {
		if s.logger, err = startLogger(ctx, out.logger, s.config.ID, s.config.Namespace); err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
		return nil
	}
	if s.stdout, err = out.open(); err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	if s.config.Terminal {
		return nil
	}
	if s.config.Stderr == s.config.Stdout {
		s.stderr = s.stdout.share()
		return nil
	}
	target, err := parseTarget(s.config.Stderr)
	if err != nil {
		return fmt.Errorf("stderr: %w", err)
	}
	if target.logger != nil {
		return fmt.Errorf("stderr: a logger program takes both streams: name it as stdout too: %w", errdefs.ErrInvalidArgument)
	}
	if s.stderr, err = target.open(); err != nil {
		return fmt.Errorf("stderr: %w", err)
	}
	return nil
}

// openChild makes the process's ends of the streams and starts the copies, which need no process yet. A stream that is not named
// is the null device; so are all three of a process on a terminal, until it opens that.
func (s *IO) openChild() (err error) {
	if s.config.Terminal {
		s.child, err = NullChild()
		return err
	}
	device := sync.OnceValues(null.Open)
	if s.stdin == nil {
		if s.child.Stdin, err = device(); err != nil {
			return fmt.Errorf("stdin: %w", err)
		}
	} else {
		var feed *os.File
		if s.child.Stdin, feed, err = pipeInto(); err != nil {
			return fmt.Errorf("stdin: %w", err)
		}
		s.pipes = append(s.pipes, feed)
		s.feed = feed
	}
	if s.logger != nil {
		s.child.Stdout, s.child.Stderr = s.logger.takeStreams()
		return nil
	}
	if s.child.Stdout, err = s.openChildOutput(s.stdout, device); err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	if s.child.Stderr, err = s.openChildOutput(s.stderr, device); err != nil {
		return fmt.Errorf("stderr: %w", err)
	}
	return nil
}

func (s *IO) openChildOutput(dst *sink, device func() (*os.File, error)) (*os.File, error) {
	if dst == nil {
		return device()
	}
	read, write, err := pipeOutOf()
	if err != nil {
		return nil, err
	}
	s.pipes = append(s.pipes, read)
	s.pumps.Go(func() {
		// A failed sink ends the stream: the process gets EPIPE, as it would from a shell.
		_ = pump(dst.file, source{file: read})
		_ = read.Close()
		dst.close()
	})
	return write, nil
}

// Child returns the process's ends; they stay the IO's property. Call Start once the process has them.
func (s *IO) Child() Child { return s.child }

// Start closes the process's ends here, so that a stream's end is seen. Call it when the process holds them, or never will.
func (s *IO) Start() {
	s.child.Close()
}

// Feed starts the copy of stdin into the process. Call it when the process is about to run.
//
// If nobody holds the FIFO open for writing then, the input has ended, after what is in it: clients open it before they ask for the
// process, and one that has come to the end of a short input meanwhile could not call CloseIO, for want of something to call it on
// (nerdctl run -i). Later on a FIFO without a writer is a client that has detached.
func (s *IO) Feed() (err error) {
	if s.feed == nil {
		return nil
	}
	s.fed.Do(func() {
		var ended bool
		if ended, err = s.stdin.abandoned(); err == nil && !ended {
			err = s.stdin.keep()
		}
		if err != nil {
			err = fmt.Errorf("stdin: %w", err)
			return
		}
		go s.pumpInput(s.feed)
	})
	return err
}

// CloseStdin drops our write end of the stdin FIFO, so that the process reads EOF when containerd's client has closed its own.
func (s *IO) CloseStdin() {
	if s.stdin != nil {
		s.stdin.closeWriter()
	}
}

// pumpInput copies stdin to dst until the FIFO's end or the process's. A terminal stays open after its input.
func (s *IO) pumpInput(dst *os.File) {
	_ = pump(dst, source{file: s.stdin.reader})
	s.stdin.close() // writers get EPIPE rather than a full FIFO
	if !s.config.Terminal {
		_ = dst.Close()
	}
}

// Console takes over the master of the process's pty and starts the copies. The process may have exited already.
func (s *IO) Console(master *os.File) error {
	console, err := newConsole(master)
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.console != nil {
		console.close()
		return fmt.Errorf("console: streams are closed or have one: %w", errdefs.ErrFailedPrecondition)
	}
	s.console = console
	if s.gone {
		console.exited()
	}
	if s.stdin != nil {
		go s.pumpInput(console.master)
	}
	dst := s.stdout
	if s.logger != nil {
		dst = s.logger.terminalSink()
	}
	s.pumps.Go(func() {
		// Without a stdout the output is read all the same: a full terminal would block the process.
		_ = pump(dst.writer(), console.source())
		dst.close()
	})
	return nil
}

// Resize sets the terminal's size in characters; without a terminal it does nothing.
func (s *IO) Resize(width, height uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.console == nil || s.gone {
		return nil
	}
	return s.console.resize(width, height)
}

// Exited says that the process is gone. What it wrote is still copied; then the FIFOs are closed, which containerd's clients wait
// for before they delete the process.
func (s *IO) Exited() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if s.console != nil {
		s.console.exited()
	}
	if s.stdin != nil {
		s.stdin.close()
	}
	if s.logger != nil {
		s.logger.exited()
	}
}

// Flush waits until a logger program has read all that the process wrote, for as long as ctx allows. It comes between the
// process's end and the word of it, which ends nerdctl's. Without a logger it does nothing.
func (s *IO) Flush(ctx context.Context) error {
	if s.logger == nil {
		return nil
	}
	return s.logger.flush(ctx)
}

// Drain waits until all that the process wrote has arrived in the FIFO or file, or the logger program has ended. It implies
// Exited. The error wraps ctx's when a reader is too slow, or another process holds the streams open.
func (s *IO) Drain(ctx context.Context) error {
	s.Exited()
	s.drain.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed = true // hence pumps cannot grow below
		if s.logger != nil {
			s.logger.closeStreams()
		}
		go func() {
			s.pumps.Wait()
			close(s.drained)
		}()
	})
	select {
	case <-s.drained:
	case <-ctx.Done():
		return fmt.Errorf("drain output: %w", context.Cause(ctx))
	}
	if s.logger != nil {
		return s.logger.stop(ctx)
	}
	return nil
}

// Close releases everything; undrained output is lost. It may be called more than once.
func (s *IO) Close() {
	s.Exited()
	s.Start()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.console != nil {
		s.console.close()
	}
	for _, file := range s.pipes {
		_ = file.Close()
	}
	s.stdout.abort()
	s.stderr.abort()
	if s.logger != nil {
		s.logger.kill()
	}
}

// pipeInto returns a pipe into the process: its blocking end, and ours, which the runtime polls.
func pipeInto() (child, ours *os.File, err error) {
	fds, err := pipe()
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "stdin"), polled(fds[1], "stdin-feed"), nil
}

// pipeOutOf returns a pipe out of the process.
func pipeOutOf() (ours, child *os.File, err error) {
	fds, err := pipe()
	if err != nil {
		return nil, nil, err
	}
	return polled(fds[0], "output"), os.NewFile(uintptr(fds[1]), "output-child"), nil
}

func pipe() (fds [2]int, err error) {
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return fds, fmt.Errorf("create pipe: %w", err)
	}
	return fds, nil
}

// polled wraps fd in a file that parks goroutines, not threads. The other end of a pipe stays blocking: the mode belongs to an end.
func polled(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true) // fails for bad descriptors only
	return os.NewFile(uintptr(fd), name)
}
