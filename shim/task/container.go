package task

import (
	"context"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/shim/container"
)

// Container is what the service needs of a container; package container's doc has the semantics. An empty exec id is the init.
type Container interface {
	Pid() int
	Process(execID string) (Process, error)
	AddExec(ctx context.Context, config container.ExecConfig) error
	Start(ctx context.Context, execID string) (pid int, err error)
	Kill(ctx context.Context, execID string, signal syscall.Signal, all bool) error
	Delete(ctx context.Context, execID string) (container.Exit, error)
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Update(ctx context.Context, resources *specs.LinuxResources) error
	Stats(ctx context.Context) (any, error)
	Pids(ctx context.Context) ([]container.ProcessInfo, error)
	Checkpoint(ctx context.Context, path string, options *anypb.Any) error
}

// Process is one process of a container. State never blocks.
type Process interface {
	State() container.State
	Wait(ctx context.Context) (container.Exit, error)
	Resize(ctx context.Context, width, height uint16) error
	CloseStdin(ctx context.Context) error
}

// CreateFunc makes a container: the seam between the service and the engine.
type CreateFunc func(ctx context.Context, config container.Config) (Container, error)

// LXC makes a CreateFunc of the engine's own: only the type of the result differs.
func LXC(create func(context.Context, container.Config) (*container.Container, error)) CreateFunc {
	return func(ctx context.Context, config container.Config) (Container, error) {
		c, err := create(ctx, config)
		if err != nil {
			return nil, err
		}
		return lxc{c}, nil
	}
}

// lxc narrows the type of Process.
type lxc struct{ *container.Container }

func (c lxc) Process(execID string) (Process, error) {
	p, err := c.Container.Process(execID)
	if err != nil {
		return nil, err
	}
	return p, nil
}
