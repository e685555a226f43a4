package cgroup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// settle is for how long memory.events is looked at again after it changed: the
// kernel leaves out notifications that follow another within 10 ms, and the
// container's cgroup may be gone 3 ms after its last process.
const settle = 30 * time.Millisecond

// OOM calls fn when the kernel has killed processes of the container for want of
// memory (v2), or had none to give (v1), until ctx ends or the cgroup is gone. It
// returns as soon as the watch stands; what happens after that is not missed. fn
// must not block for long. A cgroup without a memory controller unwraps to
// errdefs.ErrFailedPrecondition.
func (g *Group) OOM(ctx context.Context, fn func()) error {
	open := openEventfd
	dir := g.v1("memory")
	if g.mode == oci2lxc.CgroupUnified {
		open, dir = openInotify, g.unified()
	}
	if dir == "" {
		return fmt.Errorf("watch cgroup %s for lack of memory: it has no memory controller: %w", g.config.Path, errdefs.ErrFailedPrecondition)
	}
	w, err := open(dir)
	if err != nil {
		return fmt.Errorf("watch cgroup %s for lack of memory: %w", g.config.Path, err)
	}
	stop := context.AfterFunc(ctx, w.close)
	g.watchesMu.Lock()
	g.watches[w] = w.close
	g.watchesMu.Unlock()
	go func() {
		defer func() {
			stop()
			w.close()
			g.watchesMu.Lock()
			delete(g.watches, w)
			g.watchesMu.Unlock()
		}()
		w.run(fn)
	}()
	return nil
}

// endWatches ends the watches of a cgroup that is gone: the kernel does not
// promise to wake them.
func (g *Group) endWatches() {
	g.watchesMu.Lock()
	defer g.watchesMu.Unlock()
	for _, end := range g.watches {
		end()
	}
}

// watch is one file that becomes readable when something happened.
type watch struct {
	dir  string
	file *os.File
	run  func(fn func())
}

func (w *watch) close() { w.file.Close() }

// openInotify watches memory.events for kills, and cgroup.events for the end of
// the last process, after which there are only milliseconds to read the count.
func openInotify(dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watch{dir: dir, file: os.NewFile(uintptr(fd), "inotify")}
	for _, name := range []string{"memory.events", "cgroup.events"} {
		path := filepath.Join(dir, name)
		if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
			w.close()
			return nil, &os.PathError{Op: "inotify_add_watch", Path: path, Err: err}
		}
	}
	seen, err := readKey(dir, "memory.events", "oom_kill")
	if err != nil {
		w.close()
		return nil, err
	}
	w.run = func(fn func()) { w.countKills(seen, fn) }
	return w, nil
}

func (w *watch) countKills(seen uint64, fn func()) {
	buffer := make([]byte, 64*unix.SizeofInotifyEvent)
	for {
		if err := w.file.SetReadDeadline(time.Time{}); err != nil {
			return
		}
		if _, err := w.file.Read(buffer); err != nil {
			return
		}
		for end := time.Now().Add(settle); time.Now().Before(end); {
			kills, err := readKey(w.dir, "memory.events", "oom_kill")
			if err != nil {
				return
			}
			if kills > seen {
				seen = kills
				fn()
			}
			// Sleeps, unless the next notification comes earlier.
			if err := w.file.SetReadDeadline(time.Now().Add(2 * time.Millisecond)); err != nil {
				return
			}
			if _, err := w.file.Read(buffer); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
		}
	}
}

// openEventfd registers for memory.oom_control (cgroup-v1/memory.rst). The kernel
// also counts the eventfd up, once, when the cgroup is removed.
func openEventfd(dir string) (*watch, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	w := &watch{dir: dir, file: os.NewFile(uintptr(fd), "eventfd")}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		w.close()
		return nil, err
	}
	defer control.Close()
	if err := writeFile(dir, "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		w.close()
		return nil, err
	}
	w.run = w.countEvents
	return w, nil
}

func (w *watch) countEvents(fn func()) {
	// pending holds back one event of a cgroup that is gone: it may stand for the
	// removal. A second one then proves that the first did not.
	pending := uint64(0)
	for {
		var count [8]byte
		if _, err := w.file.Read(count[:]); err != nil {
			return
		}
		pending += binary.NativeEndian.Uint64(count[:])
		if isDir(w.dir) {
			pending = 0
			fn()
			continue
		}
		if pending > 1 {
			fn()
			return
		}
		if err := w.file.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return
		}
	}
}
