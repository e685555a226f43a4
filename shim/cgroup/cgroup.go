package cgroup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Group is the cgroups of one container. Its methods may be called from several
// goroutines.
type Group struct {
	mode        oci2lxc.CgroupMode
	config      oci2lxc.Cgroup
	hierarchies []hierarchy

	// writing serializes Apply, Update, Freeze, Thaw, Kill and Signal: two writers
	// of limits would interleave their files, and a thaw after a signal must not
	// undo somebody's freeze.
	writing sync.Mutex
	// cancelFreeze ends a Freeze that waits, so that Kill never waits for a process
	// that will not stop.
	cancelFreeze atomic.Pointer[context.CancelCauseFunc]

	watchesMu sync.Mutex
	// watches are the stop functions of running OOM watches, guarded by watchesMu.
	watches map[*watch]func()
}

// Open returns the Group that c describes on a host with the given layout. It
// touches nothing: the cgroups need not exist yet, and may exist already (after a
// crash of the shim). A path that is not strictly below the cgroup root unwraps to
// errdefs.ErrInvalidArgument.
func Open(mode oci2lxc.CgroupMode, c oci2lxc.Cgroup) (*Group, error) {
	for _, p := range []string{c.Path, c.Monitor, c.Pivot} {
		if !filepath.IsLocal(p) || filepath.Clean(p) != p || p == "." || strings.ContainsAny(p, "\x00\n") {
			return nil, fmt.Errorf("cgroup path %q must be clean and below the cgroup root: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	if c.Systemd && (c.Slice == "" || !strings.HasSuffix(c.Scope, ".scope")) {
		return nil, fmt.Errorf("systemd cgroup needs a slice and a scope, have %q and %q: %w", c.Slice, c.Scope, errdefs.ErrInvalidArgument)
	}
	if c.Systemd && mode != oci2lxc.CgroupUnified {
		return nil, fmt.Errorf("the systemd cgroup driver needs cgroup v2 (hint: set SystemdCgroup = false, or boot with systemd.unified_cgroup_hierarchy=1): %w", errdefs.ErrNotImplemented)
	}
	h, err := hierarchies(mode)
	if err != nil {
		return nil, err
	}
	return &Group{mode: mode, config: c, hierarchies: h, watches: map[*watch]func(){}}, nil
}

// Exists says whether the container's leaf exists in any hierarchy.
func (g *Group) Exists() bool {
	return slices.ContainsFunc(g.hierarchies, func(h hierarchy) bool { return isDir(h.dir(g.config.Path)) })
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// unified is the leaf's v2 directory; empty when there is none.
func (g *Group) unified() string {
	for _, h := range g.hierarchies {
		if dir := h.dir(g.config.Path); h.v2 && isDir(dir) {
			return dir
		}
	}
	return ""
}

// v1 is the leaf's directory in the v1 hierarchy of a controller; empty when the
// hierarchy or the directory does not exist.
func (g *Group) v1(controller string) string {
	for _, h := range g.hierarchies {
		if dir := h.dir(g.config.Path); !h.v2 && slices.Contains(h.controllers, controller) && isDir(dir) {
			return dir
		}
	}
	return ""
}

// members is the directory whose processes are the container's: on v1 hosts the
// freezer's, since Freeze and Kill must speak of the same processes.
func (g *Group) members() string {
	if g.mode != oci2lxc.CgroupUnified {
		if dir := g.v1("freezer"); dir != "" {
			return dir
		}
		for _, h := range g.hierarchies {
			if dir := h.dir(g.config.Path); isDir(dir) {
				return dir
			}
		}
	}
	return g.unified()
}
