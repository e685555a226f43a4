package container

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/program"
	"github.com/pvelxc/pvelxc/shim/reaper"
	"github.com/pvelxc/pvelxc/shim/stdio"
)

// Programs are the C programs of the shim's own build. They are held open from its
// start: an upgrade replaces the files of a pod that goes on, and its shim must not
// talk to programs of another version (docs/adr/0007).
type Programs struct{ Init, Monitor Executable }

// Executable is a program file that is held open.
type Executable struct {
	// Path is where it was found; another file may be there now.
	Path string
	file *os.File
}

// run is a path by which this process and a child that inherits its descriptors can
// execute the program.
func (e Executable) run() string { return fmt.Sprintf("/proc/self/fd/%d", e.file.Fd()) }

// StartSandbox starts pvelxc-init to make the namespaces of a pod (program.Sandbox), with its end of the
// connection.
func (p *Programs) StartSandbox(peer *os.File) (pid int, exits <-chan reaper.Exit, err error) {
	return p.startSandbox(&syscall.SysProcAttr{Setsid: true}, peer)
}

// startSandbox gives pvelxc-init the null device for its streams: a number from 0 to 2 that is free would be that of the
// next file it opens, and stay open where it holds namespaces.
func (p *Programs) startSandbox(attr *syscall.SysProcAttr, peer *os.File) (int, <-chan reaper.Exit, error) {
	streams, err := stdio.NullChild()
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", p.Init.Path, err)
	}
	defer streams.Close()
	return p.startInit(attr, "sandbox", streams, peer)
}

// NewUserNS makes a user namespace with a map, in which groups may be set. It lives as long
// as somebody has it open.
func (p *Programs) NewUserNS(ids *oci2lxc.IDMap) (*os.File, error) {
	conn, peer, err := program.Pair()
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	defer conn.Close() // it waits to be spoken to until then
	pid, _, err := p.startSandbox(&syscall.SysProcAttr{
		Setsid: true, Cloneflags: syscall.CLONE_NEWUSER, UidMappings: sysMap(ids.UIDs), GidMappings: sysMap(ids.GIDs), GidMappingsEnableSetgroups: true,
	}, peer)
	_ = peer.Close()
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return f, nil
}

func sysMap(ids []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	list := make([]syscall.SysProcIDMap, len(ids))
	for i, m := range ids {
		list[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	return list
}

// startInit starts pvelxc-init in a role that a container's processes may look at: it is
// executed from a read-only mount, so that none of them can write to the host's file
// through /proc/PID/exe (CVE-2019-5736).
func (p *Programs) startInit(attr *syscall.SysProcAttr, role string, child stdio.Child, peer *os.File) (int, <-chan reaper.Exit, error) {
	tree, err := initTree(p.Init)
	if err != nil {
		return 0, nil, err
	}
	defer tree.Close()
	file, err := above(tree)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", p.Init.Path, err)
	}
	defer file.Close()
	return spawnWith(attr, Executable{Path: p.Init.Path, file: file}, []string{role, "3"}, child, peer)
}

// findPrograms opens the programs beside the running executable.
var findPrograms = sync.OnceValues(func() (*Programs, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the shim's own path: %w", err)
	}
	p := new(Programs)
	for name, to := range map[string]*Executable{"pvelxc-init": &p.Init, "pvelxc-monitor": &p.Monitor} {
		path := filepath.Join(filepath.Dir(self), name)
		file, err := openProgram(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w (hint: pvelxc-init and pvelxc-monitor belong beside %s)", path, err, self)
		}
		*to = Executable{Path: path, file: file}
	}
	return p, nil
})

// openProgram opens a program for execution.
func openProgram(path string) (*os.File, error) {
	file, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return above(file)
}

// above duplicates the descriptor of a program to one that a child cannot get another file
// in the place of, before it executes the program.
func above(file *os.File) (*os.File, error) {
	const lowest = 10
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, lowest)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}
