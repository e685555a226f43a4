package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Prepare makes the parents of the container's, the monitor's and the pivot's
// groups, and on v2 enables the controllers in them. With the systemd driver it
// does nothing: PrepareScope does all. A parent that cannot pass on a controller
// which the container's limits need unwraps to errdefs.ErrFailedPrecondition.
func (g *Group) Prepare(context.Context) error {
	if g.config.Systemd {
		return nil
	}
	needed := g.neededControllers(g.config.Resources)
	for _, h := range g.hierarchies {
		for _, path := range []string{g.config.Path, g.config.Monitor, g.config.Pivot} {
			var want []need
			if g.mode == oci2lxc.CgroupUnified && path == g.config.Path {
				want = needed
			}
			if err := prepareParents(h, filepath.Dir(path), want); err != nil {
				return fmt.Errorf("prepare cgroup %s: %w", h.dir(filepath.Dir(path)), err)
			}
		}
	}
	return nil
}

// prepareParents makes parent, relative to the root of h, from the top down.
func prepareParents(h hierarchy, parent string, needed []need) error {
	done := "."
	if h.v2 {
		if err := enableControllers(h.dir(done), needed); err != nil {
			return err
		}
	}
	if parent == "." {
		return nil
	}
	for element := range strings.SplitSeq(parent, "/") {
		above := h.dir(done)
		done = filepath.Join(done, element)
		dir := h.dir(done)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		switch {
		case h.v2:
			if err := enableControllers(dir, needed); err != nil {
				return err
			}
		case slices.Contains(h.controllers, "cpuset"):
			if err := inheritCpuset(above, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// inheritCpuset makes a v1 cpuset usable: one without cpus and mems takes no
// process, and liblxc's leaf gets its own from clone_children of its parent.
func inheritCpuset(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := readFile(dir, name)
		if err != nil {
			return err
		}
		if value != "" {
			continue
		}
		if value, err = readFile(parent, name); err != nil {
			return err
		}
		if err := writeFile(dir, name, value); err != nil {
			return err
		}
	}
	return writeFile(dir, "cgroup.clone_children", "1")
}

// enableControllers passes all controllers that the cgroup at dir has on to its
// children: the needed ones so that limits work, the others for their statistics,
// as far as they go.
func enableControllers(dir string, needed []need) error {
	available, enabled, err := controllers(dir)
	if err != nil {
		return err
	}
	for _, n := range needed {
		if !slices.Contains(available, n.controller) {
			return n.missing(dir)
		}
	}
	var add []string
	for _, name := range available {
		if !slices.Contains(enabled, name) {
			add = append(add, "+"+name)
		}
	}
	if len(add) == 0 {
		return nil
	}
	missing := func(name string) int {
		return slices.IndexFunc(needed, func(n need) bool { return "+"+n.controller == name })
	}
	// A cgroup with processes of its own, unless it is the root, gives its children
	// no controllers. The kernel would take the threaded ones (cpu, pids), and then
	// let no process into the children.
	if pid := anyProcess(dir); pid != 0 && dir != root {
		if i := slices.IndexFunc(add, func(name string) bool { return missing(name) >= 0 }); i >= 0 {
			return needed[missing(add[i])].busy(dir, pid)
		}
		return nil
	}
	if writeFile(dir, "cgroup.subtree_control", strings.Join(add, " ")) == nil {
		return nil
	}
	// One that cannot be enabled spoils the others: one by one, then.
	for _, name := range add {
		if err := writeFile(dir, "cgroup.subtree_control", name); err != nil && missing(name) >= 0 {
			return needed[missing(name)].failed(dir, err)
		}
	}
	return nil
}

// anyProcess is one of the processes in the cgroup itself, 0 if there is none.
func anyProcess(dir string) int {
	data, err := readFile(dir, "cgroup.procs")
	if err != nil {
		return 0
	}
	if pids, err := parsePids(data); err == nil && len(pids) > 0 {
		return pids[0]
	}
	return 0
}

func controllers(dir string) (available, enabled []string, err error) {
	a, err := readFile(dir, "cgroup.controllers")
	if err != nil {
		return nil, nil, err
	}
	e, err := readFile(dir, "cgroup.subtree_control")
	if err != nil {
		return nil, nil, err
	}
	return strings.Fields(a), strings.Fields(e), nil
}

// need is a limit and the controller that it needs.
type need struct {
	// controller is the v2 or v1 name, limit the field of the specification, file
	// and value what would be written.
	controller, limit, file, value string
}

func (n need) missing(dir string) error {
	return fmt.Errorf("%s needs %s = %s, but cgroup %s does not have the %s controller (hint: see cgroup.controllers in it and cgroup.subtree_control above it): %w",
		n.limit, n.file, n.value, dir, n.controller, errdefs.ErrFailedPrecondition)
}

func (n need) busy(dir string, pid int) error {
	return fmt.Errorf("%s needs %s = %s, but process %d is in cgroup %s itself, so its children cannot have the %s controller (hint: move the process to a cgroup of its own, or choose another cgroup parent): %w",
		n.limit, n.file, n.value, pid, dir, n.controller, errdefs.ErrFailedPrecondition)
}

func (n need) failed(dir string, err error) error {
	return fmt.Errorf("%s needs %s = %s: enable the %s controller in cgroup %s: %w", n.limit, n.file, n.value, n.controller, dir, err)
}
