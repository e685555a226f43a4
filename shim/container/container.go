package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/cgroup"
	"github.com/pvelxc/pvelxc/shim/program"
)

// cleanupTimeout bounds work that must be done whatever became of the request
// that caused it.
const cleanupTimeout = 30 * time.Second

// drainTimeout bounds how long a delete waits for a slow reader of the output.
const drainTimeout = 10 * time.Second

// endTimeout bounds how long a delete waits for the monitor of a container without processes.
const endTimeout = 5 * time.Second

// cleanupContext outlives its request: what it is for must not be left half done.
func cleanupContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
}

// Config is what a container is created from.
type Config struct {
	// ID is unique in Namespace, which is containerd's.
	ID, Namespace string
	// Bundle is the absolute path of the OCI bundle.
	Bundle string
	// Rootfs are the snapshotter's mounts; none when the bundle holds the root itself.
	Rootfs []*types.Mount
	Stdio  Stdio
	// Checkpoint is the path of a checkpoint to restore; refused where not empty.
	Checkpoint string
	// Options are the runtime options as containerd sent them; nil for none. Whoever
	// fills in Settings has taken them into account: Create does not look at them.
	Options *anypb.Any
	// Settings are the node's; the zero value is DefaultSettings.
	Settings Settings
	// Registrar makes the container known to the host; nil for nobody.
	Registrar Registrar
	// Pod is the sandbox that the shim holds for the container; nil for none.
	Pod Pod
	// Events takes the events of the container and its processes, in order. It must
	// not block.
	Events func(event any)
}

// Pod is what the containers of a pod share.
type Pod interface {
	// Join changes the specification of one of its containers.
	Join(spec *specs.Spec) error
}

// Container is one container.
type Container struct {
	id, namespace, bundle string
	settings              Settings
	dirs                  dirs
	spec                  *specs.Spec
	plan                  *oci2lxc.Plan
	joined                *oci2lxc.IDMap // of the user namespace that the specification joins
	idMaps                *idMaps        // while it is created
	group                 *cgroup.Group
	filter                *program.Seccomp
	notify                bool
	emit                  func(any)
	init                  *Process
	monitor               *monitor
	program               *program.Program // PID 1's
	mayReboot             atomic.Bool      // some process has CAP_SYS_BOOT
	stopOOM               func()           // tells what there is to tell; nil before there is a watch
	log                   *log.Entry
	registrar             Registrar
	registration          Registration // nil for a container that is not registered

	// state and its file are written by create alone, then read only.
	state state

	mu          sync.Mutex // guards what follows
	execs       map[string]*Process
	specs       map[string]*specs.Process // of execs that were not started
	memoryLimit *int64                    // in bytes, as last set; nil for none
	limits      *specs.LinuxResources     // as last told to the registration
	told        chan struct{}             // closed when the registration was told all; nil before
	dismantled  chan error                // of the dismantling after the exit; nil before
	deleted     bool
}

// ID is the container's id.
func (c *Container) ID() string { return c.id }

// Pid is the init's process id in the shim's PID namespace.
func (c *Container) Pid() int { return c.init.State().Pid }

// Process finds a process; the empty exec id is the init.
func (c *Container) Process(execID string) (*Process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[execID]
	if !ok {
		return nil, fmt.Errorf("exec %s of container %s: %w", execID, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}

// Kill signals a process, or with all every process of the container.
func (c *Container) Kill(ctx context.Context, execID string, sig syscall.Signal, all bool) error {
	p, err := c.Process(execID)
	if err != nil {
		return err
	}
	if !all || execID != "" {
		if err := p.signal(sig); err != nil {
			return err
		}
		return c.thawKilled(ctx, sig)
	}
	if c.init.State().Status == StatusStopped {
		return fmt.Errorf("%s: process already finished: %w", c.init, errdefs.ErrNotFound)
	}
	if sig == syscall.SIGKILL {
		err = c.group.Kill(ctx)
	} else {
		err = c.group.Signal(ctx, sig)
	}
	if err != nil {
		return fmt.Errorf("signal all of container %s: %w", c.id, err)
	}
	return c.thawKilled(ctx, sig)
}

// thawKilled lets a SIGKILL to a paused container take effect: a frozen process
// of cgroup v1 dies when it is thawed, and not before.
func (c *Container) thawKilled(ctx context.Context, sig syscall.Signal) error {
	if sig != syscall.SIGKILL || c.init.State().Status != StatusPaused {
		return nil
	}
	if err := c.group.Thaw(ctx); err != nil {
		return fmt.Errorf("thaw container %s: %w", c.id, err)
	}
	return nil
}

// Pause freezes all processes of the container.
func (c *Container) Pause(ctx context.Context) error {
	if s := c.init.State().Status; s != StatusRunning {
		return fmt.Errorf("pause container %s: it is %s: %w", c.id, s, errdefs.ErrFailedPrecondition)
	}
	if err := c.group.Freeze(ctx); err != nil {
		return fmt.Errorf("pause container %s: %w", c.id, err)
	}
	c.init.setPaused(true, func() { c.emit(&events.TaskPaused{ContainerID: c.id}) })
	return nil
}

// Resume thaws what Pause froze.
func (c *Container) Resume(ctx context.Context) error {
	if s := c.init.State().Status; s != StatusPaused {
		return fmt.Errorf("resume container %s: it is %s: %w", c.id, s, errdefs.ErrFailedPrecondition)
	}
	if err := c.group.Thaw(ctx); err != nil {
		return fmt.Errorf("resume container %s: %w", c.id, err)
	}
	c.init.setPaused(false, func() { c.emit(&events.TaskResumed{ContainerID: c.id}) })
	return nil
}

func (p *Process) setPaused(paused bool, emit func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = paused
	emit()
}

// Update changes limits; a field that r leaves unset stays as it is.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	checked, warnings, err := oci2lxc.ConvertResources(c.withMemoryLimit(c.withoutKnownDevices(r)), c.options())
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	c.warn(warnings)
	if err := c.group.Update(ctx, checked); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	c.mu.Lock()
	if m := checked.Memory; m != nil && m.Limit != nil {
		c.memoryLimit = m.Limit
	}
	before := c.limits
	after := mergeLimits(before, checked)
	c.limits = after
	c.mu.Unlock()
	c.tell("update", func(ctx context.Context, r Registration) error {
		return errors.Join(r.Update(ctx, before, after), c.recordAgain(r))
	})
	return nil
}

// withoutKnownDevices leaves out device rules that are those of the specification:
// clients send all resources back with the one that they change.
func (c *Container) withoutKnownDevices(r *specs.LinuxResources) *specs.LinuxResources {
	l := c.spec.Linux
	if r == nil || l == nil || l.Resources == nil || !reflect.DeepEqual(r.Devices, l.Resources.Devices) {
		return r
	}
	rest := *r
	rest.Devices = nil
	return &rest
}

// withMemoryLimit completes an update of memory.swap alone: the value counts memory
// as well, so the conversion needs the limit that is in force.
func (c *Container) withMemoryLimit(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil || r.Memory == nil || r.Memory.Swap == nil || r.Memory.Limit != nil {
		return r
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.memoryLimit == nil {
		return r
	}
	full, memory := *r, *r.Memory
	memory.Limit = c.memoryLimit
	full.Memory = &memory
	return &full
}

// Stats returns containerd's metrics of the host's cgroup version.
func (c *Container) Stats(context.Context) (any, error) {
	m, err := c.group.Stats()
	if err != nil {
		return nil, fmt.Errorf("stats of container %s: %w", c.id, err)
	}
	return m, nil
}

// Pids lists the container's processes, those in child cgroups included.
//
// Of a container that has ended it is a failed precondition. containerd, when it comes back, asks for them, takes a task
// without any for a leak and forgets how it ended; from 2.4 on an error of another kind than "not found" keeps the task.
func (c *Container) Pids(context.Context) ([]ProcessInfo, error) {
	if c.init.State().Status == StatusStopped {
		return nil, fmt.Errorf("processes of container %s: it has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	pids, err := c.group.Pids()
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", c.id, err)
	}
	if len(pids) == 0 { // its monitor is about to say so
		return nil, fmt.Errorf("processes of container %s: it is ending: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	execs := slices.Collect(maps.Values(c.execs))
	c.mu.Unlock()
	ids := make(map[int]string, len(execs))
	for _, p := range execs {
		if s := p.State(); s.Status == StatusRunning {
			ids[s.Pid] = s.ExecID
		}
	}
	infos := make([]ProcessInfo, len(pids))
	for i, pid := range pids {
		infos[i] = ProcessInfo{Pid: pid, ExecID: ids[pid]}
	}
	return infos, nil
}

// Delete removes a process that has ended, or one that never started.
func (c *Container) Delete(ctx context.Context, execID string) (Exit, error) {
	p, err := c.Process(execID)
	if err != nil {
		return Exit{}, err
	}
	if execID != "" {
		return c.deleteExec(ctx, p)
	}
	c.awaitMonitor(ctx)
	switch s := p.State().Status; s {
	case StatusStopped:
	case StatusCreated:
		if err := c.Kill(ctx, "", syscall.SIGKILL, true); err != nil && !errdefs.IsNotFound(err) {
			return Exit{}, err
		}
		if _, err := p.Wait(ctx); err != nil {
			return Exit{}, err
		}
	default:
		return Exit{}, fmt.Errorf("delete container %s: it is %s: %w", c.id, s, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	again := c.deleted
	c.deleted = true
	c.mu.Unlock()
	if again {
		return Exit{}, fmt.Errorf("container %s: %w", c.id, errdefs.ErrNotFound)
	}
	c.closeStreams(ctx, p)
	ctx, cancel := cleanupContext(ctx)
	defer cancel()
	if err := c.destroy(ctx); err != nil {
		c.mu.Lock()
		c.deleted = false // a repeat may succeed
		c.mu.Unlock()
		return Exit{}, fmt.Errorf("delete container %s: %w", c.id, err)
	}
	exit := p.State().Exit
	c.emit(deleteEvent(c.id, "", exit))
	return exit, nil
}

// awaitMonitor waits, for a while, for the end of a container that has no processes any more but whose monitor has not ended: whoever
// saw it without processes takes it for ended, and deletes it once.
func (c *Container) awaitMonitor(ctx context.Context) {
	if c.init.State().Status == StatusStopped {
		return
	}
	if pids, err := c.group.Pids(); err != nil || len(pids) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	_, _ = c.init.Wait(ctx)
}

// closeStreams lets the readers have what is still in the pipes, then ends the streams.
func (c *Container) closeStreams(ctx context.Context, p *Process) {
	streams := p.stdio()
	if streams == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := streams.Drain(ctx); err != nil {
		c.log.WithField("exec_id", p.execID).WithError(err).Warn("output was cut off")
	}
	streams.Close()
}

// warn logs fields that have no effect.
func (c *Container) warn(warnings []oci2lxc.Warning) {
	for _, w := range warnings {
		c.log.WithField("field", w.Field).Warn(w.Reason)
	}
}
