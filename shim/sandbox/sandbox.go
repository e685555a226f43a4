package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/cgroup"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/layout"
	"github.com/pvelxc/pvelxc/shim/program"
)

// endTimeout bounds how long a stop waits for the last process of a PID namespace.
const endTimeout = 10 * time.Second

// Config is what a sandbox is made from.
type Config struct {
	// ID is unique in Namespace, which is containerd's.
	ID, Namespace string
	// Bundle is the absolute path of containerd's directory for the sandbox.
	Bundle string
	// NetNS is the path of the pod's network namespace; empty for the host's.
	NetNS string
	Pod   *Pod
	// Settings are the node's.
	Settings container.Settings
}

// Status is the state of a sandbox at one moment.
type Status struct {
	// Pid is PID 1 of the pod's PID namespace; 0 where the containers share none.
	Pid int
	// CreatedAt is when it became ready, ExitedAt when it ended; zero before.
	CreatedAt, ExitedAt time.Time
	// ExitStatus is 0 after a stop, else that of PID 1.
	ExitStatus uint32
}

// Ready says whether containers can be made in the sandbox.
func (s Status) Ready() bool { return !s.CreatedAt.IsZero() && s.ExitedAt.IsZero() }

// Sandbox is the sandbox of one pod.
type Sandbox struct {
	id       string
	netns    string
	pod      *Pod
	spec     *specs.Spec
	plan     *oci2lxc.Plan
	programs *container.Programs
	files    files
	exited   chan struct{} // closed when status has its end
	log      *log.Entry

	changing sync.Mutex // Start, Stop and Remove go one after the other

	mu     sync.Mutex // guards what follows
	status Status
	held   map[specs.LinuxNamespaceType]*os.File
	hold   *program.Conn // to PID 1; nil without one
	gone   chan struct{} // closed when PID 1 has ended; nil without one
}

// New checks what is asked for; it makes nothing.
func New(ctx context.Context, c Config) (*Sandbox, error) {
	spec, err := c.Pod.spec(c.ID, c.NetNS)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", c.ID, err)
	}
	if c.Settings.Unprivileged != nil {
		if err := container.CheckUnprivileged(spec); err != nil {
			return nil, fmt.Errorf("create sandbox %s: %w", c.ID, err)
		}
	}
	p, err := plan(c, spec)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", c.ID, err)
	}
	netns := c.NetNS
	if c.Pod.Network != NamespacePod {
		netns = ""
	}
	return &Sandbox{
		id:       c.ID,
		netns:    netns,
		pod:      c.Pod,
		spec:     spec,
		plan:     p,
		programs: c.Settings.Programs,
		files:    filesOf(layout.Sandbox(c.Settings.Root, c.Namespace, c.ID), p.IDMap),
		exited:   make(chan struct{}),
		held:     make(map[specs.LinuxNamespaceType]*os.File),
		log:      log.G(ctx).WithField("sandbox", c.ID).WithField("namespace", c.Namespace),
	}, nil
}

// ID is the sandbox's id.
func (s *Sandbox) ID() string { return s.id }

// Spec is what a pause container would have been made from. It is for those who look, such as NRI plugins.
func (s *Sandbox) Spec() *specs.Spec { return s.spec }

// Status never blocks.
func (s *Sandbox) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Start makes what the pod's containers share. When it fails, nothing is left.
func (s *Sandbox) Start(ctx context.Context) (err error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if status := s.Status(); !status.CreatedAt.IsZero() || !status.ExitedAt.IsZero() {
		return fmt.Errorf("start sandbox %s: it has been started before: %w", s.id, errdefs.ErrFailedPrecondition)
	}
	defer func() {
		if err == nil {
			return
		}
		s.release()
		err = errors.Join(fmt.Errorf("start sandbox %s: %w", s.id, err), s.files.remove())
	}()
	if err := s.files.make(s.pod); err != nil {
		return err
	}
	return s.makeNamespaces(ctx)
}

// Stop ends the sandbox: no container can be made in it any more, and a PID namespace that its containers share ends with them. It
// may be repeated, and does nothing to one that has ended.
func (s *Sandbox) Stop() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.end(0)
	s.mu.Lock()
	gone := s.gone
	s.mu.Unlock()
	if gone == nil {
		return
	}
	select {
	case <-gone: // and with it every process of its namespace
	case <-time.After(endTimeout):
		s.log.Warn("PID 1 of the pod does not end")
	}
}

// end notes the sandbox's end, once, and lets go of what it holds.
func (s *Sandbox) end(status uint32) {
	s.mu.Lock()
	if s.status.ExitedAt.IsZero() {
		s.status.ExitedAt, s.status.ExitStatus = time.Now(), status
		close(s.exited)
	}
	s.mu.Unlock()
	s.release()
}

// release closes what is held: that ends PID 1, and each namespace that nobody else has.
func (s *Sandbox) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold != nil {
		_ = s.hold.Close()
		s.hold = nil
	}
	for kind, f := range s.held {
		_ = f.Close()
		delete(s.held, kind)
	}
}

// Wait waits for the end of the sandbox.
func (s *Sandbox) Wait(ctx context.Context) (Status, error) {
	select {
	case <-s.exited:
		return s.Status(), nil
	case <-ctx.Done():
		return Status{}, fmt.Errorf("wait for sandbox %s: %w", s.id, context.Cause(ctx))
	}
}

// Remove stops the sandbox and takes the rest of it away. It may be repeated.
func (s *Sandbox) Remove() error {
	s.Stop()
	s.changing.Lock()
	defer s.changing.Unlock()
	if err := s.files.remove(); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", s.id, err)
	}
	return nil
}

// Metrics are containerd's, of the control group that all containers of the pod are in.
func (s *Sandbox) Metrics() (any, error) {
	parent := relative(s.pod.CgroupParent)
	if parent == "" {
		return nil, fmt.Errorf("metrics of sandbox %s: its pod has no control group of its own: %w", s.id, errdefs.ErrFailedPrecondition)
	}
	group, err := cgroup.Open(cgroup.Mode(), oci2lxc.Cgroup{Path: parent, Monitor: parent, Pivot: parent})
	if err != nil {
		return nil, fmt.Errorf("metrics of sandbox %s: %w", s.id, err)
	}
	metrics, err := group.Stats()
	if err != nil {
		return nil, fmt.Errorf("metrics of sandbox %s: %w", s.id, err)
	}
	return metrics, nil
}
