package task

import (
	"fmt"
	"maps"
	"sync"

	"github.com/containerd/errdefs"
)

// registry holds the containers of this shim. Its lock is never held across a call to a container, so State answers while another
// container, or the same one, is busy.
type registry struct {
	mu         sync.Mutex
	containers map[string]Container // nil: reserved, being created
	held       bool                 // by a sandbox, for as long as it is not cleared
	closed     bool
	reserved   uint64 // how often an id was taken
}

// reserve takes an id for a container about to be created.
func (r *registry) reserve(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("create container %s: the shim is shutting down: %w", id, errdefs.ErrUnavailable)
	}
	if _, ok := r.containers[id]; ok {
		return fmt.Errorf("create container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if r.containers == nil {
		r.containers = map[string]Container{}
	}
	r.containers[id] = nil
	r.reserved++
	return nil
}

// fill makes a reserved container known.
func (r *registry) fill(id string, c Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[id] = c
}

// remove forgets a container or a reservation.
func (r *registry) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
}

// get finds a container. One that is still being created is not there yet.
func (r *registry) get(id string) (Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

// closeIfEmpty ends the registry when it has neither containers nor reservations. It reports whether it is closed.
func (r *registry) closeIfEmpty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.containers) == 0 && !r.held {
		r.closed = true
	}
	return r.closed
}

// hold keeps a registry open that is empty.
func (r *registry) hold() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	r.held = true
	return nil
}

func (r *registry) isHeld() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}

// close lets no more containers in.
func (r *registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// all are the containers that there are, by their ids; one that is still being created is not there yet.
func (r *registry) all() map[string]Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := maps.Clone(r.containers)
	maps.DeleteFunc(all, func(_ string, c Container) bool { return c == nil })
	return all
}

// generation says which containers there have been: it changes with each new one.
func (r *registry) generation() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reserved
}

// closeIfStillEmpty is closeIfEmpty, unless there was another container since the generation.
func (r *registry) closeIfStillEmpty(generation uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.containers) == 0 && !r.held && r.reserved == generation {
		r.closed = true
	}
	return r.closed
}

// isClosed reports whether the shim is on its way out.
func (r *registry) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}
