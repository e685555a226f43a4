package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Info is what the state file of a container tells, without asking its shim.
type Info struct {
	Namespace, ID, Bundle string
	// LXCPath and Name are LXC's for the container.
	LXCPath, Name string
	// Pid is its init's; 0 before there was one.
	Pid int
	// Alive says that the init exists, parked or running.
	Alive bool
	// Registration is the Registrar's record; empty for a container that is not
	// registered.
	Registration json.RawMessage
	Annotations  map[string]string
}

// List reads the states of all containers of this host, below root (DefaultRoot
// when empty). A state that cannot be read is an error: it is not a container that
// is gone.
func List(root string) ([]Info, error) {
	if root == "" {
		root = DefaultRoot
	}
	paths, err := filepath.Glob(filepath.Join(root, "lxc", "*", "*", "state.json"))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var list []Info
	for _, path := range paths {
		s, err := readState(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		list = append(list, s.info())
	}
	return list, nil
}

func (s *state) info() Info {
	i := Info{
		Namespace: s.Namespace, ID: s.ID, Bundle: s.Bundle, LXCPath: s.LXCPath, Name: s.Name,
		Registration: s.Registration, Annotations: s.Annotations,
	}
	if s.Init != nil {
		i.Pid, i.Alive = s.Init.Pid, s.Init.alive()
	}
	return i
}

// alive says whether the very process exists, and is more than a zombie's pid.
func (r *procRef) alive() bool {
	start, err := startTime(r.Pid)
	return err == nil && start == r.StartTime
}
