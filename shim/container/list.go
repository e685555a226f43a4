package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/cgroup"
)

// Info is what the state file of a container tells, without asking its shim.
type Info struct {
	Namespace, ID, Bundle string
	// LXCPath and Name are LXC's for the container.
	LXCPath, Name string
	// Home is the directory of its state, its LXC config and liblxc's log.
	Home string
	// Rootfs is where its root is mounted; empty when the bundle brought its own.
	Rootfs string
	// Pid is its init's; 0 before there was one. StartTime is field 22 of
	// /proc/PID/stat, in clock ticks since boot.
	Pid       int
	StartTime uint64
	// Alive says that the init exists, parked or running.
	Alive bool
	// Deleting says that the container is being taken away and is registered no more.
	Deleting bool
	// Registration is the Registrar's record; empty for a container that is not
	// registered.
	Registration json.RawMessage
	Annotations  map[string]string

	cgroup     oci2lxc.Cgroup
	cgroupMode oci2lxc.CgroupMode
}

// Started says that the user's program runs: the init exists and waits no more.
func (i Info) Started() bool { return i.Alive && !parked(i.Pid) }

// Config is the path of the LXC config that the container was started from.
func (i Info) Config() string { return dirs{home: i.Home}.config() }

// Log is the path of liblxc's log.
func (i Info) Log() string { return dirs{home: i.Home}.log() }

// Exit is the path of the file that the monitor leaves its exit status in.
func (i Info) Exit() string { return dirs{home: i.Home}.exit() }

// Status asks the kernel what the container's processes do. It is StatusStopped when
// the init is gone.
func (i Info) Status() (Status, error) {
	if !i.Alive {
		return StatusStopped, nil
	}
	if parked(i.Pid) {
		return StatusCreated, nil
	}
	group, err := cgroup.Open(i.cgroupMode, i.cgroup)
	if err != nil {
		return StatusStopped, fmt.Errorf("status of container %s: %w", i.ID, err)
	}
	frozen, err := group.Frozen()
	if err != nil {
		return StatusStopped, fmt.Errorf("status of container %s: %w", i.ID, err)
	}
	if frozen {
		return StatusPaused, nil
	}
	return StatusRunning, nil
}

// Usage reads what the container has used so far. It is the zero value when its
// cgroup is gone.
func (i Info) Usage() (cgroup.Usage, error) {
	group, err := cgroup.Open(i.cgroupMode, i.cgroup)
	if err != nil {
		return cgroup.Usage{}, fmt.Errorf("usage of container %s: %w", i.ID, err)
	}
	return group.Usage()
}

// List reads the states of all containers of this host, below root (DefaultRoot
// when empty). A state that cannot be read is an error: it is not a container that
// is gone.
func List(root string) ([]Info, error) {
	if root == "" {
		root = DefaultRoot
	}
	paths, err := filepath.Glob(filepath.Join(root, "lxc", "*", "*", "state.json"))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var list []Info
	for _, path := range paths {
		i, err := inspect(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		list = append(list, i)
	}
	return list, nil
}

// Inspect reads the state of one container, below root (DefaultRoot when empty). It
// fails with ErrNotFound for one that is not there.
func Inspect(root, namespace, id string) (Info, error) {
	if root == "" {
		root = DefaultRoot
	}
	i, err := inspect(dirsOf(root, namespace, id).state())
	if errors.Is(err, os.ErrNotExist) {
		return Info{}, fmt.Errorf("container %s/%s: %w", namespace, id, errdefs.ErrNotFound)
	}
	return i, err
}

func inspect(path string) (Info, error) {
	s, err := readState(path)
	if err != nil {
		return Info{}, err
	}
	i := s.info()
	i.Home = filepath.Dir(path)
	_, err = os.Lstat(dirs{home: i.Home}.deleting())
	i.Deleting = err == nil
	return i, nil
}

func (s *state) info() Info {
	i := Info{
		Namespace: s.Namespace, ID: s.ID, Bundle: s.Bundle, LXCPath: s.LXCPath, Name: s.Name,
		Registration: s.Registration, Annotations: s.Annotations,
		Rootfs: s.Rootfs, cgroup: s.Cgroup.plan(), cgroupMode: s.CgroupMode,
	}
	if s.Init != nil {
		i.Pid, i.StartTime, i.Alive = s.Init.Pid, s.Init.StartTime, s.Init.alive()
	}
	return i
}

// alive says whether the very process exists, and is more than a zombie's pid.
func (r *procRef) alive() bool {
	start, err := startTime(r.Pid)
	return err == nil && start == r.StartTime
}
