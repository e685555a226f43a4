// Package task serves containerd's task service for the containers of one shim: version 3, and version 2 for containerd 1.7.
//
// It is thin. It finds the container, translates messages and errors, and knows nothing of how containers work. The two versions
// have the same messages on the wire under two names, so one set of methods serves both. The Go types are those of version 2, whose
// package comes without gRPC, which would double the shim's size.
package task

import (
	"context"
	"fmt"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/pvelxc/pvelxc/shim/container"
)

// Config is what a Service needs.
type Config struct {
	// Namespace is containerd's, and that of all containers of this shim.
	Namespace string
	// Create makes containers.
	Create CreateFunc
	// Expect is told when a container will soon be created; it must not block, and may be nil.
	Expect func()
	// Pod is the sandbox that the containers belong to; it, and what it returns, may be nil.
	Pod func() container.Pod
	// Events takes the containers' events; it must not block.
	Events func(event any)
	// Shutdown is called once, when the shim is asked to end and has no containers. It must not block.
	Shutdown func()
	// Patience is for how long an empty shim waits to be asked; 0 for a minute.
	Patience time.Duration
}

// defaultPatience is far more than containerd takes from the answer to a deletion to its request for the end, and from the start of a
// pod's shim to a container in it.
const defaultPatience = time.Minute

// Service is the task service.
type Service struct {
	config     Config
	containers registry
	shutdown   sync.Once
}

// New returns a service without containers.
func New(config Config) *Service {
	return &Service{config: config}
}

var empty = &emptypb.Empty{}

// Create makes a container and parks its init.
func (s *Service) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	if err := s.containers.reserve(r.ID); err != nil {
		return nil, err
	}
	var pod container.Pod
	if s.config.Pod != nil {
		pod = s.config.Pod()
	}
	c, err := s.config.Create(ctx, container.Config{
		ID:         r.ID,
		Namespace:  s.config.Namespace,
		Bundle:     r.Bundle,
		Rootfs:     r.Rootfs,
		Stdio:      container.Stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Checkpoint: r.Checkpoint,
		Options:    r.Options,
		Pod:        pod,
		Events:     s.config.Events,
	})
	if err != nil {
		s.containers.remove(r.ID)
		return nil, err
	}
	s.containers.fill(r.ID, c)
	return &api.CreateTaskResponse{Pid: uint32(c.Pid())}, nil
}

// Start runs the parked init, or an exec.
func (s *Service) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	pid, err := c.Start(ctx, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &api.StartResponse{Pid: uint32(pid)}, nil
}

// Delete removes a stopped container or exec.
func (s *Service) Delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	exit, err := c.Delete(ctx, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		s.containers.remove(r.ID)
		s.endUnasked(ctx)
	}
	return &api.DeleteResponse{Pid: uint32(exit.Pid), ExitStatus: exit.Status, ExitedAt: timestamp(exit.At)}, nil
}

// Exec reserves an exec's id; Start runs it.
func (s *Service) Exec(ctx context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	spec, err := decodeProcess(r.Spec)
	if err != nil {
		return nil, fmt.Errorf("exec %s of container %s: %w", r.ExecID, r.ID, err)
	}
	return empty, c.AddExec(ctx, container.ExecConfig{
		ID:    r.ExecID,
		Stdio: container.Stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Spec:  spec,
	})
}

// State tells a process's state; containerd gives it two seconds.
func (s *Service) State(_ context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	state := p.State()
	id := state.ID
	if r.ExecID != "" {
		id = r.ExecID
	}
	return &api.StateResponse{
		ID:         id,
		Bundle:     state.Bundle,
		Pid:        uint32(state.Pid),
		Status:     statusOf(state.Status),
		Stdin:      state.Stdio.Stdin,
		Stdout:     state.Stdio.Stdout,
		Stderr:     state.Stdio.Stderr,
		Terminal:   state.Stdio.Terminal,
		ExitStatus: state.Exit.Status,
		ExitedAt:   timestamp(state.Exit.At),
		ExecID:     r.ExecID,
	}, nil
}

// Wait waits for a process's exit.
func (s *Service) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &api.WaitResponse{ExitStatus: exit.Status, ExitedAt: timestamp(exit.At)}, nil
}

// Kill signals a process or all processes.
func (s *Service) Kill(ctx context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	return empty, c.Kill(ctx, r.ExecID, syscall.Signal(r.Signal), r.All)
}

// Pause freezes a container.
func (s *Service) Pause(ctx context.Context, r *api.PauseRequest) (*emptypb.Empty, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	return empty, c.Pause(ctx)
}

// Resume thaws a container.
func (s *Service) Resume(ctx context.Context, r *api.ResumeRequest) (*emptypb.Empty, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	return empty, c.Resume(ctx)
}

// ResizePty sets a terminal's size.
func (s *Service) ResizePty(ctx context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Width > math.MaxUint16 || r.Height > math.MaxUint16 {
		return nil, fmt.Errorf("terminal of %dx%d is too large (65535 at most): %w", r.Width, r.Height, errdefs.ErrInvalidArgument)
	}
	return empty, p.Resize(ctx, uint16(r.Width), uint16(r.Height))
}

// CloseIO ends a process's input.
func (s *Service) CloseIO(ctx context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !r.Stdin {
		return empty, nil
	}
	return empty, p.CloseStdin(ctx)
}

// Pids lists a container's processes, and says which are execs.
func (s *Service) Pids(ctx context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	processes, err := c.Pids(ctx)
	if err != nil {
		return nil, err
	}
	return encodePids(processes)
}

// Update changes a container's limits.
func (s *Service) Update(ctx context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	resources, err := decodeResources(r.Resources)
	if err != nil {
		return nil, fmt.Errorf("update container %s: %w", r.ID, err)
	}
	return empty, c.Update(ctx, resources)
}

// Stats returns a container's metrics.
func (s *Service) Stats(ctx context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := c.Stats(ctx)
	if err != nil {
		return nil, err
	}
	return encodeStats(stats)
}

// Checkpoint dumps a container with CRIU.
func (s *Service) Checkpoint(ctx context.Context, r *api.CheckpointTaskRequest) (*emptypb.Empty, error) {
	c, err := s.containers.get(r.ID)
	if err != nil {
		return nil, err
	}
	return empty, c.Checkpoint(ctx, r.Path, r.Options)
}

// Connect tells the shim's pid, and the container's. It answers for unknown containers too, with pid 0: a `start` that joins this shim
// asks before its container is made. A shim on its way out is unavailable. No `start` joins a shim with a sandbox of its own: who asks
// is a containerd that has been restarted.
func (s *Service) Connect(_ context.Context, r *api.ConnectRequest) (*api.ConnectResponse, error) {
	response := &api.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, err := s.containers.get(r.ID); err == nil {
		response.TaskPid = uint32(c.Pid())
	} else if s.containers.isClosed() {
		return nil, fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	} else if s.config.Expect != nil && !s.containers.isHeld() {
		s.config.Expect()
	}
	return response, nil
}

// Shutdown ends the shim if it has no containers. containerd calls it after each task's deletion.
func (s *Service) Shutdown(context.Context, *api.ShutdownRequest) (*emptypb.Empty, error) {
	s.EndIfEmpty()
	return empty, nil
}

// endUnasked ends a shim without containers that nobody will ask to: a containerd that gave up on the deletion before it was done, or
// that died after it, has no request for the end to send, and knows the shim no more.
func (s *Service) endUnasked(ctx context.Context) {
	generation := s.containers.generation()
	end := func() {
		if s.containers.closeIfStillEmpty(generation) {
			s.shutdown.Do(s.config.Shutdown)
		}
	}
	if ctx.Err() != nil {
		end()
		return
	}
	patience := s.config.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	time.AfterFunc(patience, end)
}

func (s *Service) process(id, execID string) (Process, error) {
	c, err := s.containers.get(id)
	if err != nil {
		return nil, err
	}
	return c.Process(execID)
}
