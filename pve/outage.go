package pve

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// outage is what the processes of a node tell each other of a cluster file system
// that is away or hangs: a note. Whoever finds out leaves it, keeps it locked, looks
// for the end, and takes it away then. So one process waits, and the others fail
// at once and leave a mount alone that would hold their threads. A note without a
// lock is a dead process's.
type outage struct {
	note string // path
	root string
}

// errKnown is for those who do not wait.
var errKnown = errors.New("another operation found it away, and waits for its return")

// check returns errKnown during an outage. Who finds the note of a dead process takes
// it over, and waits a part of patience for an answer: it was waited for before.
func (o outage) check(ctx context.Context, patience time.Duration) error {
	fd, err := open(o.note, unix.O_RDWR, 0)
	if err != nil {
		return nil // no outage is known; what hinders the reading of notes hinders no container
	}
	over, err := o.watch(fd)
	if over == nil {
		return err
	}
	t := time.NewTimer(patience / 5)
	defer t.Stop()
	select {
	case ended := <-over:
		if ended {
			return nil
		}
		return errKnown
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return errKnown
	}
}

// begin leaves the note of an outage that was just found.
func (o outage) begin() {
	// A note that cannot be left costs time, and nothing else.
	_ = os.MkdirAll(filepath.Dir(o.note), 0o755)
	if fd, err := open(o.note, unix.O_RDWR|unix.O_CREAT, 0o600); err == nil {
		_, _ = o.watch(fd)
	}
}

// watch locks the note, of which it takes over fd, and looks for the end of the outage
// in the background; over gets what the first look finds, once the note is gone if that
// is the end. It returns nil and errKnown where another process does that, and nil alone
// where the outage has ended.
func (o outage) watch(fd int) (over <-chan bool, err error) {
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
		unix.Close(fd)
		return nil, errKnown
	}
	if unlinked(fd) {
		unix.Close(fd)
		return nil, nil
	}
	first := make(chan bool, 1)
	go func() {
		defer unix.Close(fd)
		for pause := 5 * time.Millisecond; !o.ended(); pause = min(2*pause, time.Second) {
			select {
			case first <- false:
			default:
			}
			sleep(context.Background(), pause)
			if unlinked(fd) {
				return
			}
		}
		_ = remove(o.note) // before the lock goes: nobody else may have left another
		select {
		case first <- true:
		default:
		}
	}()
	return first, nil
}

// ended asks the file system for something that it always has.
func (o outage) ended() (ended bool) {
	quietly(func() {
		_, err := os.Lstat(filepath.Join(o.root, "local"))
		ended = err == nil
	})
	return ended
}

// quietly runs f on a thread to which no signal is delivered. One that hangs in a FUSE
// mount handles none, and the kernel may choose it for a signal of the whole process: a
// shim would not learn that its container has ended.
func quietly(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var others, before unix.Sigset_t
	for _, sig := range []unix.Signal{unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE} {
		bit := int(sig) - 1
		word := 8 * int(unsafe.Sizeof(others.Val[0]))
		others.Val[bit/word] |= 1 << (bit % word)
	}
	if unix.PthreadSigmask(unix.SIG_BLOCK, &others, &before) == nil {
		defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	}
	f()
}

func unlinked(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Nlink == 0
}

// reach runs f, which asks the cluster file system. It waits for as long as
// RetryFor and ctx allow and no longer, because a call into a FUSE mount that hangs
// cannot be interrupted. Where an outage is known, f is not run.
func (r *Registrar) reach(ctx context.Context, op string, vmid VMID, f func(context.Context) error) error {
	if r.Local {
		return r.wrap(op, vmid, f(ctx))
	}
	if err := r.checkOutage(ctx, op, vmid); err != nil {
		return err
	}
	return r.bound(ctx, op, vmid, f, nil)
}

func (r *Registrar) checkOutage(ctx context.Context, op string, vmid VMID) error {
	if r.Local {
		return nil
	}
	if err := r.outage().check(ctx, r.RetryFor); err != nil {
		return &Error{Op: op, VMID: vmid, Kind: ErrUnreachable, Err: err, Hint: hintUnreachable}
	}
	return nil
}

// bound is reach for who has made sure that no outage is known; late, unless nil, is
// called after an f that nobody waited for any more.
func (r *Registrar) bound(ctx context.Context, op string, vmid VMID, f func(context.Context) error, late func(error)) error {
	if r.Local {
		return r.wrap(op, vmid, f(ctx))
	}
	bounded, cancel := context.WithTimeout(ctx, r.RetryFor)
	// A machine that is slow is no outage: something small is asked before the end.
	var answers atomic.Bool
	small := time.AfterFunc(r.RetryFor*3/4, func() { answers.Store(r.outage().ended()) })
	defer small.Stop()
	var mu sync.Mutex // guards abandoned, and that done is filled only while it is false
	abandoned := false
	done := make(chan error, 1)
	go func() {
		defer cancel()
		var err error
		quietly(func() { err = r.wrap(op, vmid, f(bounded)) })
		mu.Lock()
		if !abandoned {
			done <- err
			mu.Unlock()
			return
		}
		mu.Unlock()
		if late != nil {
			late(err)
		}
	}()
	var err error
	select {
	case err = <-done:
	case <-bounded.Done():
		mu.Lock()
		select {
		case err = <-done:
		default:
			abandoned = true
			err = &Error{Op: op, VMID: vmid, Kind: ErrUnreachable, Err: bounded.Err(), Hint: hintUnreachable}
		}
		mu.Unlock()
	}
	// A caller in a hurry has proved nothing, and a file system whose database failed does answer.
	if errors.Is(err, ErrUnreachable) && !isBroken(err) && ctx.Err() == nil && !answers.Load() {
		r.outage().begin()
	}
	return err
}

func (r *Registrar) outage() outage {
	return outage{note: filepath.Join(r.StateDir, "away"), root: r.Root}
}
