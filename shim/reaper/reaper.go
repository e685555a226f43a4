// Package reaper collects the exit of every child of this process.
//
// The shim has three kinds of children: those it starts itself, siblings that a helper forks for it with CLONE_PARENT (whose pid
// arrives in a message, perhaps after their death), and orphans it inherits as a subreaper. One wait4(-1) loop serves all three, so
// nothing else in the process may wait for a child: os/exec's Run, Output and Wait would lose their race against the loop. Use Start or
// Run of this package.
//
// The state is the process's, because children are: hence functions, not a type.
package reaper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is the end of one child.
type Exit struct {
	// Pid is the child's process id in the shim's PID namespace.
	Pid int
	// Status is the wait status as wait4(2) reported it.
	Status unix.WaitStatus
	// At is when the exit was collected.
	At time.Time
}

// Code codes the status as shells and containerd do: the exit status, or 128 plus the number of the deadly signal.
func (e Exit) Code() uint32 {
	if e.Status.Signaled() {
		return 128 + uint32(e.Status.Signal())
	}
	return uint32(e.Status.ExitStatus())
}

var (
	// births is held for reading while a child exists whose pid is not recorded yet, and for writing while exits are collected. So
	// no exit is ever seen between a fork and its registration.
	births sync.RWMutex

	// mu guards the maps below. Lock order: births, mu.
	mu       sync.Mutex
	watchers = map[int]chan Exit{}
	kept     = map[int]Exit{} // exits of unknown children, while windows > 0
	windows  int
)

// loop starts the collecting goroutine on first use.
var loop = sync.OnceFunc(func() {
	// One slot is enough: each wake-up collects everything there is.
	sigchld := make(chan os.Signal, 1)
	signal.Notify(sigchld, unix.SIGCHLD)
	go func() {
		for {
			collect()
			<-sigchld
		}
	}()
})

// Start starts cmd and returns a channel that yields its exit once. It is safe for children that exit at once. After the exit the
// caller calls Release to free what os/exec holds.
func Start(cmd *exec.Cmd) (<-chan Exit, error) {
	loop()
	births.RLock()
	defer births.RUnlock()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	mu.Lock()
	defer mu.Unlock()
	return register(cmd.Process.Pid), nil
}

// ForkExec starts the program at path and returns its pid and a channel that yields its exit once. It is Start without what os/exec
// has beside it: no files are opened, no goroutines started, and no child is forked to try out pidfds, which the first exec.Cmd of a
// process does.
func ForkExec(path string, args []string, attr *syscall.ProcAttr) (pid int, exits <-chan Exit, err error) {
	loop()
	births.RLock()
	defer births.RUnlock()
	if pid, err = syscall.ForkExec(path, args, attr); err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", path, err)
	}
	mu.Lock()
	defer mu.Unlock()
	return pid, register(pid), nil
}

// Release waits for the copying goroutines of a collected cmd and frees its pidfd. Grandchildren that hold its output open
// delay it, at most for cmd.WaitDelay if that is set.
func Release(cmd *exec.Cmd) error {
	err := cmd.Wait()
	_ = cmd.Process.Release() // a failed Wait keeps the pidfd
	// The loop has taken the status, which is what Wait complains about.
	if err == nil || errors.Is(err, unix.ECHILD) {
		return nil
	}
	return fmt.Errorf("release %s: %w", cmd.Path, err)
}

// Run starts cmd, waits for its exit and for the copying of its output. When ctx ends first, cmd is killed and the error wraps
// ctx's. An exit status other than 0 is no error.
func Run(ctx context.Context, cmd *exec.Cmd) (Exit, error) {
	exits, err := Start(cmd)
	if err != nil {
		return Exit{}, err
	}
	var cause error
	var exit Exit
	select {
	case exit = <-exits:
	case <-ctx.Done():
		cause = fmt.Errorf("run %s: %w", cmd.Path, context.Cause(ctx))
		_ = cmd.Process.Kill()
		exit = <-exits
		if cmd.WaitDelay == 0 {
			cmd.WaitDelay = time.Second // a grandchild may hold the output open
		}
	}
	return exit, errors.Join(cause, Release(cmd))
}

// Watch returns a channel that yields the exit of the child pid once. A child forked by a helper may be gone before its pid is known;
// call Watch within the window of an Expect that was opened before the fork, and its exit is kept. One watcher per child.
func Watch(pid int) <-chan Exit {
	loop()
	mu.Lock()
	defer mu.Unlock()
	if exit, ok := kept[pid]; ok {
		delete(kept, pid)
		exits := make(chan Exit, 1)
		exits <- exit
		return exits
	}
	return register(pid)
}

// Expect opens a window: until done is called, exits of children nobody watches are kept for Watch. Outside of any window they
// are dropped, so the orphans a subreaper inherits cost nothing, and a recycled pid cannot meet an old exit. done may be called twice.
func Expect() (done func()) {
	loop()
	mu.Lock()
	defer mu.Unlock()
	windows++
	return sync.OnceFunc(func() {
		mu.Lock()
		defer mu.Unlock()
		if windows--; windows == 0 {
			clear(kept)
		}
	})
}

// Hold keeps children from being collected until release is called, which must be soon: until then the pid of a child is its own, unless
// its watcher has its exit already.
func Hold() (release func()) {
	births.RLock()
	return births.RUnlock
}

// SetSubreaper makes this process the parent of its descendants' orphans (PR_SET_CHILD_SUBREAPER of prctl(2)).
func SetSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	loop()
	return nil
}

// register records a watcher; mu is held.
func register(pid int) <-chan Exit {
	exits := make(chan Exit, 1)
	watchers[pid] = exits
	return exits
}

// collect waits for all children that have exited and hands their exits over.
func collect() {
	births.Lock()
	defer births.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 { // ECHILD: no children at all
			return
		}
		deliver(Exit{Pid: pid, Status: status, At: time.Now()})
	}
}

func deliver(exit Exit) {
	mu.Lock()
	defer mu.Unlock()
	if exits, ok := watchers[exit.Pid]; ok {
		delete(watchers, exit.Pid)
		exits <- exit // has a slot for the one value it ever gets
		return
	}
	if windows > 0 {
		kept[exit.Pid] = exit
	}
}
