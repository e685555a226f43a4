package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/program"
	"github.com/pvelxc/pvelxc/shim/reaper"
)

// made are the namespaces that pvelxc-init makes and the shim then holds.
var made = []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace}

// makeNamespaces makes the pod's namespaces and holds them.
func (s *Sandbox) makeNamespaces(ctx context.Context) error {
	user, err := s.userNamespace()
	if err != nil {
		return err
	}
	if user != nil {
		s.keep(specs.UserNamespace, user)
	}
	if !s.makesAny() {
		return s.ready(0)
	}
	in := program.SandboxInput{Plan: s.plan, User: user}
	if s.netns != "" {
		if in.Network, err = os.Open(s.netns); err != nil {
			return fmt.Errorf("open the pod's network namespace: %w", err)
		}
		defer in.Network.Close()
	}
	p, err := program.Sandbox(in)
	if err != nil {
		return err
	}
	return s.run(ctx, p)
}

func (s *Sandbox) makesAny() bool {
	for _, kind := range made {
		if s.plan.Namespace(kind).Mode == oci2lxc.NamespaceNew {
			return true
		}
	}
	return false
}

// run lets pvelxc-init carry out the program.
func (s *Sandbox) run(ctx context.Context, p *program.Program) (err error) {
	conn, peer, err := program.Pair()
	if err != nil {
		return err
	}
	defer func() {
		if conn != nil {
			_ = conn.Close() // which ends pvelxc-init
		}
	}()
	known := reaper.Expect()
	defer known()
	pid, exits, err := s.programs.StartSandbox(peer)
	_ = peer.Close()
	if err != nil {
		return err
	}
	d := dialogue{conn: conn, program: p}
	if _, err := d.expect(ctx, program.MsgHello); err != nil {
		return err
	}
	if err := conn.SendProgram(ctx, p); err != nil {
		return err
	}
	holds := s.plan.Namespace(specs.PIDNamespace).Mode == oci2lxc.NamespaceNew
	if holds {
		// From here on it is another process, the child of the first.
		msg, err := d.expect(ctx, program.MsgDone)
		if err != nil {
			return err
		}
		pid, exits = msg.PID, reaper.Watch(msg.PID)
	}
	if _, err := d.expect(ctx, program.MsgSync); err != nil {
		return err
	}
	if err := s.open(pid); err != nil {
		return err
	}
	if !holds {
		return s.ready(0)
	}
	if err := conn.Send(ctx, program.MsgGo, 0); err != nil {
		return err
	}
	if _, err := d.expect(ctx, program.MsgDone); err != nil {
		return err
	}
	// Nothing that it says from now on is heard: the pod's processes may be able to speak for it.
	gone := make(chan struct{})
	s.mu.Lock()
	s.hold, s.gone, conn = conn, gone, nil
	s.mu.Unlock()
	go func() {
		exit := <-exits
		s.end(exit.Code())
		close(gone)
	}()
	return s.ready(pid)
}

func (s *Sandbox) ready(pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.status.ExitedAt.IsZero() {
		return errors.New("PID 1 of the pod has ended")
	}
	s.status.Pid, s.status.CreatedAt = pid, time.Now()
	return nil
}

// open opens the new namespaces of a process that is ours.
func (s *Sandbox) open(pid int) error {
	for _, kind := range made {
		if s.plan.Namespace(kind).Mode != oci2lxc.NamespaceNew {
			continue
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kernelNames[kind]))
		if err != nil {
			return fmt.Errorf("hold the pod's %s namespace: %w", kind, err)
		}
		s.keep(kind, f)
	}
	return nil
}

func (s *Sandbox) keep(kind specs.LinuxNamespaceType, f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[kind] = f
}

// userNamespace is that of the pod; nil for the host's. containerd has made one together with a network namespace of such a pod,
// and that owns the network: it is the pod's.
func (s *Sandbox) userNamespace() (*os.File, error) {
	if s.plan.IDMap == nil {
		return nil, nil
	}
	if s.netns != "" && s.pod.IDMap != nil {
		owner, err := container.OwnerOf(s.netns)
		if owner != nil || err != nil {
			return owner, err
		}
	}
	return s.programs.NewUserNS(s.plan.IDMap)
}

// hostRoot is the id on the host of root in a user namespace; the overflow id where it has none.
func hostRoot(ids []specs.LinuxIDMapping) uint32 {
	for _, m := range ids {
		if m.ContainerID == 0 && m.Size > 0 {
			return m.HostID
		}
	}
	const overflow = 65534
	return overflow
}

// relative is a control group's path below the root of its hierarchy.
func relative(group string) string { return strings.TrimPrefix(path.Clean("/"+group), "/") }

// dialogue is that with pvelxc-init.
type dialogue struct {
	conn    *program.Conn
	program *program.Program
}

// expect waits for a message of a type; no other comes in a dialogue that goes well.
func (d dialogue) expect(ctx context.Context, want program.MessageType) (*program.Message, error) {
	msg, err := d.conn.Recv(ctx)
	if errors.Is(err, io.EOF) {
		return nil, errors.New("pvelxc-init ended before the namespaces were there")
	}
	if err != nil {
		return nil, err
	}
	msg.Close()
	switch msg.Type {
	case want:
		return msg, nil
	case program.MsgError:
		return nil, d.program.Error(msg)
	}
	return nil, fmt.Errorf("pvelxc-init: unexpected message %d (arg %d); are pvelxc-init and the shim of one version?", msg.Type, msg.Arg)
}
