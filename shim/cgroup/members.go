package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Pids lists the processes of the container, sorted, those in child cgroups
// included. A cgroup that is gone has none.
func (g *Group) Pids() ([]int, error) {
	dir := g.members()
	if dir == "" {
		return nil, nil
	}
	return allPids(dir)
}

func sortedUnique(pids []int) []int {
	slices.Sort(pids)
	return slices.Compact(pids)
}

// Kill sends SIGKILL to every process of the container, also to one that is just
// forking and to a frozen container. It does not wait for their end. A cgroup that
// is gone is no error.
func (g *Group) Kill(ctx context.Context) error {
	if cancel := g.cancelFreeze.Load(); cancel != nil {
		(*cancel)(errKilled)
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	atomically := false
	if dir := g.unified(); dir != "" {
		// cgroup.kill, since Linux 5.14, leaves no process out and passes v2's freezer.
		err := writeFile(dir, "cgroup.kill", "1")
		if err != nil && !vanished(err) {
			return err
		}
		atomically = err == nil
		if atomically && g.mode == oci2lxc.CgroupUnified {
			return nil
		}
	}
	dir := g.members()
	if dir == "" {
		return nil
	}
	// Freezing first keeps forks from outrunning the list; where it does not succeed
	// in time, the list is read again until nobody is left. On v1 a frozen process
	// takes SIGKILL only after the thaw.
	complete := atomically || g.freezeBriefly(ctx)
	n, err := signalAll(dir, unix.SIGKILL)
	complete = complete || n == 0 // nobody is there to fork
	err = errors.Join(err, g.setFrozen(false))
	for pause := time.Millisecond; err == nil && !complete; pause = min(2*pause, 50*time.Millisecond) {
		if !sleep(ctx, pause) {
			return fmt.Errorf("kill cgroup %s: processes keep coming: %w", g.config.Path, context.Cause(ctx))
		}
		n, err = signalAll(dir, unix.SIGKILL)
		complete = n == 0
	}
	return err
}

// Signal sends sig to every process of the container. They are frozen meanwhile,
// so that none forks away from the list and no process id is reused; a container
// that was frozen before stays so.
func (g *Group) Signal(ctx context.Context, sig syscall.Signal) error {
	if sig == unix.SIGKILL {
		return g.Kill(ctx)
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	dir := g.members()
	if dir == "" {
		return nil
	}
	was, err := g.frozen()
	if err != nil {
		return err
	}
	if !was {
		g.freezeBriefly(ctx)
	}
	_, err = signalAll(dir, sig)
	if !was {
		err = errors.Join(err, g.setFrozen(false))
	}
	return err
}

// signalAll says how many processes it found.
func signalAll(dir string, sig syscall.Signal) (int, error) {
	pids, err := allPids(dir)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("send %s to process %d of cgroup %s: %w", unix.SignalName(sig), pid, dir, err))
		}
	}
	return len(pids), errors.Join(errs...)
}

// Entry opens what an exec needs to enter the cgroups that process pid is in now,
// which need not be the leaf: a systemd inside the container moves itself. dir is
// the v2 directory, for CLONE_INTO_CGROUP, nil on a host without v2; v1 are the
// cgroup.procs files of the v1 hierarchies, open for writing. The caller closes
// all of them.
func (g *Group) Entry(pid int) (dir *os.File, v1 []*os.File, err error) {
	members, err := readMembership(strconv.Itoa(pid))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			for _, file := range append(v1, dir) {
				file.Close()
			}
			dir, v1 = nil, nil
		}
	}()
	for _, m := range members {
		for _, h := range g.hierarchies {
			if !h.owns(m.controllers) {
				continue
			}
			if h.v2 {
				dir, err = os.OpenFile(h.dir(m.path), unix.O_RDONLY|unix.O_DIRECTORY, 0)
			} else {
				var procs *os.File
				procs, err = os.OpenFile(filepath.Join(h.dir(m.path), "cgroup.procs"), os.O_WRONLY, 0)
				if err == nil {
					v1 = append(v1, procs)
				}
			}
			if err != nil {
				return dir, v1, fmt.Errorf("open cgroup of process %d: %w", pid, err)
			}
		}
	}
	return dir, v1, nil
}

// Controllers gives, for each hierarchy of the host, the directory on the host of
// the cgroup that process pid is in, for the cgroup mount inside the container.
// The key is the hierarchy's name below /sys/fs/cgroup ("cpu,cpuacct", "systemd",
// "unified"); on a host with v2 alone it is the empty string.
func (g *Group) Controllers(pid int) (map[string]string, error) {
	members, err := readMembership(strconv.Itoa(pid))
	if err != nil {
		return nil, err
	}
	dirs := make(map[string]string, len(members))
	for _, m := range members {
		for _, h := range g.hierarchies {
			if h.owns(m.controllers) {
				dirs[h.name] = h.dir(m.path)
			}
		}
	}
	return dirs, nil
}

// sleep waits, and says whether ctx is still alive after it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
