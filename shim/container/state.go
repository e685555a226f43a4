package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/layout"
	"github.com/pvelxc/pvelxc/shim/rdt"
)

// stateVersion is the schema of state.json. A shim reads the states of its own
// and of all former versions, because `delete` may be newer than the shim.
const stateVersion = 1

// state is what Cleanup needs to take a container away after its shim is gone. It
// is written before the monitor starts and again when a pid becomes known.
type state struct {
	Version   int    `json:"version"`
	ID        string `json:"id"`
	Namespace string `json:"namespace"`
	Bundle    string `json:"bundle"`
	// Rootfs is where the root is mounted; empty when the bundle brought its own.
	Rootfs string `json:"rootfs,omitempty"`
	// LXCPath and Name are LXC's for the container.
	LXCPath string `json:"lxcpath"`
	Name    string `json:"name"`
	// Registration is the Registrar's record; empty for a container that is not
	// registered. In the file it follows updates.
	Registration json.RawMessage `json:"registration,omitempty"`
	// Monitor and Init are the processes; nil until they exist.
	Monitor *procRef `json:"monitor,omitempty"`
	Init    *procRef `json:"init,omitempty"`
	// Cgroup and CgroupMode reopen the container's cgroups.
	Cgroup     stateCgroup        `json:"cgroup"`
	CgroupMode oci2lxc.CgroupMode `json:"cgroupMode"`
	// Rdt is the container's place in resctrl; nil for none.
	Rdt *rdt.Group `json:"rdt,omitempty"`
	// Poststop are the hooks that the specification wants after the container is
	// gone, whoever removes it.
	Poststop    []specs.Hook      `json:"poststop,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// stateCgroup is an oci2lxc.Cgroup without its limits: nobody reads them back, and to
// learn to write them takes encoding/json as long as the root is mounted in.
type stateCgroup struct {
	Systemd                            bool
	Slice, Scope, Path, Monitor, Pivot string
}

func stateOf(g oci2lxc.Cgroup) stateCgroup {
	return stateCgroup{Systemd: g.Systemd, Slice: g.Slice, Scope: g.Scope, Path: g.Path, Monitor: g.Monitor, Pivot: g.Pivot}
}

func (s stateCgroup) plan() oci2lxc.Cgroup {
	return oci2lxc.Cgroup{
		Systemd: s.Systemd, Slice: s.Slice, Scope: s.Scope, Path: s.Path, Monitor: s.Monitor, Pivot: s.Pivot,
		Resources: new(specs.LinuxResources),
	}
}

// procRef names a process so that a recycled pid is not taken for it.
type procRef struct {
	Pid int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat, in clock ticks since boot.
	StartTime uint64 `json:"startTime"`
}

// dirs are the places of one container on the host.
type dirs struct {
	home string // Root/lxc/<namespace>/<id>
	// lxcpath and name are what LXC's tools find the container by: home's own parts,
	// or those of its registration.
	lxcpath, name string
}

func dirsOf(root, namespace, id string) dirs {
	home := layout.Home(root, namespace, id)
	return dirs{home: home, lxcpath: filepath.Dir(home), name: id}
}

func (d dirs) state() string  { return filepath.Join(d.home, "state.json") }
func (d dirs) config() string { return filepath.Join(d.home, "config") }
func (d dirs) exit() string   { return filepath.Join(d.home, "exit") }
func (d dirs) log() string    { return filepath.Join(d.home, "lxc.log") }

// deleting is a file that is there once the container is registered no more.
func (d dirs) deleting() string { return filepath.Join(d.home, "deleting") }

// make creates the container's directory. A mapped root must be able to walk
// through it, hence 0711; the files in it are 0600.
func (d dirs) make() error {
	if err := os.MkdirAll(filepath.Dir(d.home), 0o711); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if err := os.Mkdir(d.home, 0o711); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return nil
}

// remove takes the directory away, and the lock file that liblxc keeps for every
// lxcpath and name that it has seen (/run/lxc/lock/<lxcpath>/.<name>).
func (d dirs) remove() error {
	lock := filepath.Join("/run/lxc/lock", d.lxcpath, "."+d.name)
	if err := os.Remove(lock); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove liblxc's lock file: %w", err)
	}
	if err := os.RemoveAll(d.home); err != nil {
		return fmt.Errorf("remove state directory: %w", err)
	}
	// The namespace's directory goes with its last container, and not before.
	_ = os.Remove(filepath.Dir(d.home))
	_ = os.Remove(filepath.Dir(lock))
	return nil
}

func (s *state) write(path string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if err := replaceFile(path, data); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func readState(path string) (*state, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	s := new(state)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read state %s: %w", path, err)
	}
	if s.Version < 1 || s.Version > stateVersion {
		return nil, fmt.Errorf("read state %s: schema version %d is not known to this shim (1..%d)", path, s.Version, stateVersion)
	}
	return s, nil
}

// replaceFile writes a file that a reader sees whole or not at all.
func replaceFile(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// readExit reads the status that the monitor left behind; ok is false when there
// is none.
func readExit(path string) (status uint32, ok bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 8)
	return uint32(n), err == nil
}

// refOf describes a live process.
func refOf(pid int) (*procRef, error) {
	start, err := startTime(pid)
	if err != nil {
		return nil, err
	}
	return &procRef{Pid: pid, StartTime: start}, nil
}
