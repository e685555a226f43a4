package cgroup

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Group is the cgroups of one container. Its methods may be called from several
// goroutines.
type Group struct {
	mode   oci2lxc.CgroupMode
	config oci2lxc.Cgroup
}

// Mode says which of the three layouts the host has.
func Mode() oci2lxc.CgroupMode { return oci2lxc.CgroupHybrid }

// Open returns the Group that c describes. It touches nothing: the cgroups need
// not exist yet, and may exist already (after a crash of the shim).
func Open(mode oci2lxc.CgroupMode, c oci2lxc.Cgroup) (*Group, error) {
	return &Group{mode: mode, config: c}, nil
}

var errUnfinished = fmt.Errorf("cgroup: %w", errdefs.ErrNotImplemented)

// Prepare makes the parents of the container's and the monitor's groups.
func (g *Group) Prepare(ctx context.Context) error { return errUnfinished }

// PrepareScope asks systemd for the scope, with monitorPid as its only process,
// before liblxc starts. Without the systemd driver it does nothing.
func (g *Group) PrepareScope(ctx context.Context, monitorPid int) error { return errUnfinished }

// Apply sets the limits of the container's leaf, while its init is parked.
func (g *Group) Apply(ctx context.Context) error { return errUnfinished }

// Update changes the limits that r sets and leaves the others as they are.
func (g *Group) Update(ctx context.Context, r *specs.LinuxResources) error { return errUnfinished }

// Freeze stops every process of the container, and returns when all have stopped.
func (g *Group) Freeze(ctx context.Context) error { return errUnfinished }

// Thaw lets the processes run again.
func (g *Group) Thaw(ctx context.Context) error { return errUnfinished }

// Frozen says whether the container is frozen, or about to be.
func (g *Group) Frozen() (bool, error) { return false, errUnfinished }

// Kill sends SIGKILL to every process of the container, also to a frozen one. It
// does not wait for their end.
func (g *Group) Kill(ctx context.Context) error { return errUnfinished }

// Signal sends sig to every process of the container.
func (g *Group) Signal(ctx context.Context, sig syscall.Signal) error { return errUnfinished }

// Pids lists the processes of the container, those in child cgroups included.
func (g *Group) Pids() ([]int, error) { return nil, errUnfinished }

// Stats returns a *stats.Metrics of containerd's cgroup1 or cgroup2.
func (g *Group) Stats() (any, error) { return nil, errUnfinished }

// OOM calls fn for each time that the kernel killed a process of the container
// for want of memory, until ctx ends or the cgroup is gone. It returns as soon as
// the watch stands; an event after that is not missed.
func (g *Group) OOM(ctx context.Context, fn func()) error { return errUnfinished }

// Remove takes the container's and the monitor's groups away; what does not exist
// is no error.
func (g *Group) Remove(ctx context.Context) error { return errUnfinished }

// Exists says whether the container's leaf exists.
func (g *Group) Exists() bool { return false }

// Entry opens what an exec needs to enter the cgroups that process pid is in now:
// on v2 and hybrid hosts the v2 directory (for CLONE_INTO_CGROUP), on v1 and
// hybrid hosts also the cgroup.procs file of each hierarchy. dir is nil on a
// legacy host. The caller closes all of them.
func (g *Group) Entry(pid int) (dir *os.File, v1 []*os.File, err error) {
	return nil, nil, errUnfinished
}

// Controllers gives, for each hierarchy of the host, the path on the host of the
// cgroup that process pid is in, for the cgroup mount inside the container. The
// key is the hierarchy's name below /sys/fs/cgroup ("cpu,cpuacct", "systemd",
// "unified"); on a v2 host it is the empty string, alone.
func (g *Group) Controllers(pid int) (map[string]string, error) { return nil, errUnfinished }
