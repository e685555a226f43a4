package cgroup

import (
	"fmt"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Stats returns what containerd-shim-runc-v2 returns for the same cgroup: a
// *stats.Metrics of github.com/containerd/cgroups/v3/cgroup2/stats, or of
// cgroup1/stats on v1 and hybrid hosts. A cgroup that is gone unwraps to
// errdefs.ErrNotFound.
func (g *Group) Stats() (any, error) {
	if !g.Exists() {
		return nil, fmt.Errorf("statistics of cgroup %s: %w", g.config.Path, errdefs.ErrNotFound)
	}
	if g.mode == oci2lxc.CgroupUnified {
		manager, err := cgroup2.Load("/" + g.config.Path)
		if err != nil {
			return nil, fmt.Errorf("load cgroup %s: %w", g.config.Path, err)
		}
		metrics, err := manager.Stat()
		if err != nil {
			return nil, fmt.Errorf("statistics of cgroup %s: %w", g.config.Path, err)
		}
		return metrics, nil
	}
	group, err := cgroup1.Load(cgroup1.StaticPath("/"+g.config.Path), cgroup1.WithHierarchy(cgroup1.Default))
	if err != nil {
		return nil, fmt.Errorf("load cgroup %s: %w", g.config.Path, err)
	}
	// Kernels lack some files (memory.kmem.* since 5.16): those values stay 0.
	metrics, err := group.Stat(cgroup1.IgnoreNotExist)
	if err != nil {
		return nil, fmt.Errorf("statistics of cgroup %s: %w", g.config.Path, err)
	}
	return metrics, nil
}
