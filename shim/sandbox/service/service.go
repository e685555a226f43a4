// Package service serves containerd's sandbox service (containerd.runtime.sandbox.v1.Sandbox) for the one sandbox that a shim can
// have. It is thin, as package task is, whose containers the sandbox's are.
package service

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/shim/sandbox"
)

// Tasks are the containers of the shim.
type Tasks interface {
	// Hold keeps the shim while it has no containers. It fails when the shim is on its way out.
	Hold() error
	// KillAll ends every container.
	KillAll(ctx context.Context) error
	// Clear ends and deletes every container, and takes no more.
	Clear(ctx context.Context) error
	// End ends the shim, EndIfEmpty one without containers.
	End()
	EndIfEmpty()
}

// Config is what a Service needs.
type Config struct {
	// Namespace is containerd's.
	Namespace string
	// Create makes a sandbox from all of a Config but its settings.
	Create func(context.Context, sandbox.Config) (*sandbox.Sandbox, error)
	Tasks  Tasks
}

// Service is the sandbox service.
type Service struct {
	config Config

	mu      sync.Mutex // guards what follows
	id      string     // empty before there is a sandbox
	sandbox *sandbox.Sandbox
}

// New returns a service without a sandbox.
func New(config Config) *Service { return &Service{config: config} }

// Sandbox is the shim's; nil for none.
func (s *Service) Sandbox() *sandbox.Sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sandbox
}

// get finds the sandbox.
func (s *Service) get(id string) (*sandbox.Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil || s.id != id {
		return nil, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	return s.sandbox, nil
}

// create checks what is asked for, and makes this shim that of the sandbox.
func (s *Service) create(ctx context.Context, r createRequest) error {
	pod, err := sandbox.DecodePod(r.options)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox != nil {
		return fmt.Errorf("create sandbox %s: the shim has sandbox %s: %w", r.id, s.id, errdefs.ErrAlreadyExists)
	}
	made, err := s.config.Create(ctx, sandbox.Config{ID: r.id, Namespace: s.config.Namespace, Bundle: r.bundle, NetNS: r.netns, Pod: pod})
	if err != nil {
		return err
	}
	if err := s.config.Tasks.Hold(); err != nil {
		return fmt.Errorf("create sandbox %s: %w", r.id, err)
	}
	s.id, s.sandbox = r.id, made
	return nil
}

func (s *Service) start(ctx context.Context, id string) (*sandbox.Sandbox, error) {
	b, err := s.get(id)
	if err != nil {
		return nil, err
	}
	return b, b.Start(ctx)
}

// stop ends the sandbox. CRI has stopped the containers before; what is left of them for others has no sandbox any more.
func (s *Service) stop(ctx context.Context, id string) error {
	b, err := s.get(id)
	if err != nil {
		return err
	}
	b.Stop()
	return s.config.Tasks.KillAll(ctx)
}

// shutdown takes the sandbox away and ends the shim. containerd asks for it after a creation that failed, too: then there is none.
func (s *Service) shutdown(ctx context.Context, id string) error {
	s.mu.Lock()
	b, other := s.sandbox, s.sandbox != nil && s.id != id
	s.mu.Unlock()
	if other {
		return fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	if b == nil {
		s.config.Tasks.EndIfEmpty()
		return nil
	}
	b.Stop()
	// The containers' files are in use until they are gone.
	if err := s.config.Tasks.Clear(ctx); err != nil {
		return err // and it may be asked again
	}
	if err := b.Remove(); err != nil {
		return err
	}
	s.config.Tasks.End()
	return nil
}

func platform() *types.Platform {
	return &types.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

// createRequest is what create needs of a CreateSandboxRequest: there is no root filesystem, and CRI sends no annotations.
type createRequest struct {
	id, bundle, netns string
	options           *anypb.Any
}
