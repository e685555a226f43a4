package task

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
)

// Hold keeps the shim while it has no containers, for a sandbox that it has itself. It fails when the shim is on its way out.
func (s *Service) Hold() error { return s.containers.hold() }

// KillAll ends every container.
func (s *Service) KillAll(ctx context.Context) error {
	var errs []error
	for _, c := range s.containers.all() {
		// One that has ended is not found.
		if err := c.Kill(ctx, "", syscall.SIGKILL, true); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Clear ends and deletes every container, and takes no more. It may be repeated.
func (s *Service) Clear(ctx context.Context) error {
	s.containers.close()
	errs := []error{s.KillAll(ctx)}
	for id, c := range s.containers.all() {
		if err := remove(ctx, c); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete container %s: %w", id, err))
			continue
		}
		s.containers.remove(id)
	}
	return errors.Join(errs...)
}

func remove(ctx context.Context, c Container) error {
	p, err := c.Process("")
	if err != nil {
		return err
	}
	if _, err := p.Wait(ctx); err != nil {
		return err
	}
	_, err = c.Delete(ctx, "")
	return err
}

// End ends the shim, whatever it has.
func (s *Service) End() { s.shutdown.Do(s.config.Shutdown) }

// EndIfEmpty ends the shim when it has neither containers nor a sandbox.
func (s *Service) EndIfEmpty() {
	if s.containers.closeIfEmpty() {
		s.shutdown.Do(s.config.Shutdown)
	}
}
