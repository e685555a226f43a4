package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/reaper"
)

const (
	// loggerReady is how long a logger program may take to say that it is ready.
	loggerReady = 10 * time.Second
	// loggerLinger is how long it may go on after the end of its input before it is asked to end.
	loggerLinger = 2 * time.Second
	// unreadPoll is how often, at the most and at the least, it is looked whether a logger program has read everything.
	unreadPollMin, unreadPollMax = time.Millisecond, 50 * time.Millisecond
)

// logger is a running logger program: the protocol of containerd's core/runtime/v2/logging. It reads the process's stdout and stderr
// from its descriptors 3 and 4, and closes 5 when it is ready (binary-v2: writes a byte first).
type logger struct {
	stdout, stderr *os.File // write ends until given away; guarded by IO.mu
	gone           chan struct{}

	mu  sync.Mutex // guards what follows
	cmd *exec.Cmd  // nil after its end
	// unread are write ends of ours that nothing is written to: they tell what the program has not read yet. nil once
	// the process is gone.
	unread []*os.File
}

func startLogger(ctx context.Context, uri *url.URL, id, namespace string) (_ *logger, err error) {
	args, err := loggerArgs(uri.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("logger %s: %w", uri.Path, err)
	}
	var ours, theirs []*os.File
	defer func() {
		closeAll(theirs)
		if err != nil {
			closeAll(ours)
		}
	}()
	for range 2 {
		fds, err := pipe()
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, os.NewFile(uintptr(fds[0]), "log-read"))
		ours = append(ours, os.NewFile(uintptr(fds[1]), "log-write"))
	}
	ready, word, err := pipeOutOf()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	theirs = append(theirs, word)

	var unread []*os.File
	defer func() {
		if err != nil {
			closeAll(unread)
		}
	}()
	for _, f := range ours {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("logger: %w", err)
		}
		unread = append(unread, os.NewFile(uintptr(fd), "log-unread"))
	}
	cmd := exec.Command(uri.Path, args...)
	cmd.Env = []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + namespace}
	cmd.ExtraFiles = theirs
	exits, err := reaper.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("logger: %w", err)
	}
	l := &logger{cmd: cmd, stdout: ours[0], stderr: ours[1], gone: make(chan struct{}), unread: unread}
	go func() {
		<-exits
		l.mu.Lock()
		l.cmd = nil
		l.mu.Unlock()
		_ = reaper.Release(cmd)
		close(l.gone)
	}()
	closeAll(theirs)
	if err := awaitReady(ctx, ready, uri.Scheme == "binary-v2"); err != nil {
		l.kill()
		return nil, fmt.Errorf("logger %s: %w", uri.Path, err)
	}
	return l, nil
}

// loggerArgs makes the program's arguments: each key of the query and its first value, in the order they stand there.
func loggerArgs(query string) (args []string, err error) {
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		if key, err = url.QueryUnescape(key); err == nil {
			value, err = url.QueryUnescape(value)
		}
		if err != nil {
			return nil, fmt.Errorf("parse query %q: %w: %w", query, err, errdefs.ErrInvalidArgument)
		}
		if strings.ContainsRune(key+value, 0) {
			return nil, fmt.Errorf("query %q holds a NUL: %w", query, errdefs.ErrInvalidArgument)
		}
		if !seen[key] {
			seen[key] = true
			args = append(args, key, value)
		}
	}
	return args, nil
}

// awaitReady waits for the end of ready, which a program of the first version may reach without a word.
func awaitReady(ctx context.Context, ready *os.File, strict bool) error {
	ctx, cancel := context.WithTimeout(ctx, loggerReady)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := ready.Read(make([]byte, 1))
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("wait until it is ready: %w", err)
	case strict && n == 0:
		return fmt.Errorf("it ended before it was ready: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// takeStreams gives away the ends the process writes to.
func (l *logger) takeStreams() (stdout, stderr *os.File) {
	stdout, stderr = l.stdout, l.stderr
	l.stdout, l.stderr = nil, nil
	return stdout, stderr
}

// terminalSink gives away stdout for a terminal's output, and ends stderr, which a terminal has not.
func (l *logger) terminalSink() *sink {
	stdout, stderr := l.takeStreams()
	_ = stderr.Close()
	// Blocking mode is right: the process waits for its logger.
	return newSink(stdout, false)
}

// flush waits until the program has read all that was written, and done with it what it does. nerdctl's drops what it has in
// hand as soon as it hears of the container's exit: up to 32 KiB of each stream, and what is in the pipe.
func (l *logger) flush(ctx context.Context) error {
	for delay := unreadPollMin; ; delay = min(2*delay, unreadPollMax) {
		if l.read() {
			return nil
		}
		select {
		case <-l.gone:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for logger: %w", context.Cause(ctx))
		case <-time.After(delay):
		}
	}
}

// read says whether the program has read everything and waits for more: every thread of it sleeps. One that has work is
// running, or waits for a processor or a disk.
func (l *logger) read() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.emptied() && (l.cmd == nil || asleep(l.cmd.Process.Pid))
}

// emptied says whether the pipes are empty. l.mu is held.
func (l *logger) emptied() bool {
	for _, f := range l.unread {
		if n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ); err == nil && n > 0 {
			return false
		}
	}
	return true
}

// asleep says whether every thread of a process is in an interruptible sleep (the third field of proc_pid_stat(5)).
func asleep(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", pid))
	if err != nil {
		return false
	}
	for _, thread := range threads {
		// A thread that has ended meanwhile does nothing either.
		stat, err := os.ReadFile(thread)
		_, state, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
		if err == nil && !bytes.HasPrefix(state, []byte("S")) {
			return false
		}
	}
	return true
}

// stop waits for the program's end, which the end of its input brings about; one that lingers gets SIGTERM.
func (l *logger) stop(ctx context.Context) error {
	linger := time.NewTimer(loggerLinger)
	defer linger.Stop()
	for {
		select {
		case <-l.gone:
			return nil
		case <-linger.C:
			l.signal(unix.SIGTERM)
		case <-ctx.Done():
			return fmt.Errorf("wait for logger: %w", context.Cause(ctx))
		}
	}
}

// closeStreams closes the ends that were not given away.
func (l *logger) closeStreams() {
	stdout, stderr := l.takeStreams()
	closeAll([]*os.File{stdout, stderr})
	l.exited()
}

// exited lets the program see the end of its input.
func (l *logger) exited() {
	l.mu.Lock()
	defer l.mu.Unlock()
	closeAll(l.unread)
	l.unread = nil
}

func (l *logger) kill() {
	l.closeStreams()
	l.signal(unix.SIGKILL)
}

func (l *logger) signal(signal os.Signal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cmd != nil {
		_ = l.cmd.Process.Signal(signal)
	}
}

func closeAll(files []*os.File) {
	for _, file := range files {
		if file != nil {
			_ = file.Close()
		}
	}
}
