package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// settle is for how long memory.events is looked at again after it changed: the
// kernel leaves out notifications that follow another within 10 ms, and the
// container's cgroup may be gone 3 ms after its last process.
const settle = 30 * time.Millisecond

// removal is for how long the kernel's word on the end of a cgroup of v1 is waited for:
// it comes from one work queue for all cgroups of the machine, after a grace period of
// RCU for each.
const removal = time.Minute

// OOM calls fn when the kernel has killed processes of the container for want of
// memory (v2), or had none to give (v1), until end is called or the cgroup is gone. It
// returns as soon as the watch stands; what happens after that is not missed: end,
// which may be called again, returns when all is told that the kernel tells by then.
// fn must not block for long. A cgroup without a memory controller unwraps to
// errdefs.ErrFailedPrecondition.
func (g *Group) OOM(fn func()) (end func(), err error) {
	open := openEventfd
	dir := g.v1("memory")
	if g.mode == oci2lxc.CgroupUnified {
		open, dir = openInotify, g.unified()
	}
	if dir == "" {
		return nil, fmt.Errorf("watch cgroup %s for lack of memory: it has no memory controller: %w", g.config.Path, errdefs.ErrFailedPrecondition)
	}
	w, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("watch cgroup %s for lack of memory: %w", g.config.Path, err)
	}
	w.looked = make(chan struct{})
	g.watchesMu.Lock()
	g.watches[w] = w.finish
	g.watchesMu.Unlock()
	go func() {
		defer func() {
			w.lookedOnce.Do(func() { close(w.looked) })
			w.close()
			g.watchesMu.Lock()
			delete(g.watches, w)
			g.watchesMu.Unlock()
		}()
		w.run(fn)
	}()
	return w.end, nil
}

// endWatches ends the watches of a cgroup that is gone, after a last look: the kernel
// does not promise to wake them.
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

	ending     atomic.Bool   // there is one more look to take
	looked     chan struct{} // closed when it was taken
	lookedOnce sync.Once
}

func (w *watch) close() { w.file.Close() }

// end has one more look taken, and waits for it.
func (w *watch) end() {
	w.finish()
	<-w.looked
}

// finish has one more look taken.
func (w *watch) finish() {
	w.ending.Store(true)
	_ = w.file.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
}

// wait waits until the file is readable, and takes what it has. ok is false when that is
// the last time.
func (w *watch) wait(deadline time.Time, buffer []byte) (n int, ok bool, err error) {
	if err := w.file.SetReadDeadline(deadline); err != nil {
		return 0, false, err
	}
	if w.ending.Load() { // end may have been called just before
		if err := w.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
			return 0, false, err
		}
	}
	n, err = w.file.Read(buffer)
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err == nil, err
	}
	if !w.ending.Load() {
		return 0, true, nil
	}
	// A file whose deadline is over is not read any more, whatever it has.
	raw, err := w.file.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	err = raw.Control(func(fd uintptr) {
		if n, err = unix.Read(int(fd), buffer); err != nil {
			n = 0
		}
	})
	return n, false, err
}

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
	look := func() bool {
		kills, err := readKey(w.dir, "memory.events", "oom_kill")
		if err == nil && kills > seen {
			seen = kills
			fn()
		}
		return err == nil
	}
	for {
		_, more, err := w.wait(time.Time{}, buffer)
		if err != nil {
			return
		}
		for until := time.Now().Add(settle); more && time.Now().Before(until); {
			if !look() {
				return
			}
			// Sleeps, unless the next notification comes earlier.
			if _, more, err = w.wait(time.Now().Add(2*time.Millisecond), buffer); err != nil {
				return
			}
		}
		if !look() || !more {
			return
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
	var deadline time.Time
	for {
		var count [8]byte
		n, more, err := w.wait(deadline, count[:])
		if err != nil {
			return
		}
		if n == len(count) {
			pending += binary.NativeEndian.Uint64(count[:])
		}
		switch {
		case pending > 0 && isDir(w.dir):
			pending = 0
			fn()
		case pending > 1:
			fn()
			return
		case n == 0 && !deadline.IsZero(): // there was time for a second one
			return
		}
		if pending == 0 && !more {
			return
		}
		if !more {
			// Nobody is kept waiting for what may not come.
			w.lookedOnce.Do(func() { close(w.looked) })
			w.ending.Store(false)
		}
		if pending > 0 && deadline.IsZero() {
			deadline = time.Now().Add(removal)
		}
	}
}
