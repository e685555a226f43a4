package cgroup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules: eBPF on v2, devices.allow on v1
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Apply sets the limits of the container's leaf, which liblxc has made, while its
// init is parked. A limit whose controller the leaf does not have unwraps to
// errdefs.ErrFailedPrecondition and names controller, file and value.
func (g *Group) Apply(context.Context) error {
	if g.config.Resources == nil {
		return nil
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	return g.write(g.config.Resources)
}

// Update changes the limits that r sets and leaves the others as they are. Device
// rules are the exception: where r has some, they replace the old ones.
func (g *Group) Update(ctx context.Context, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	r, err := g.complete(r)
	if err != nil {
		return err
	}
	if err := g.updateScope(ctx, r); err != nil {
		return err
	}
	return g.write(r)
}

// complete adds to an update what the kernel has already, where a new value has no
// meaning without it.
func (g *Group) complete(r *specs.LinuxResources) (*specs.LinuxResources, error) {
	completed := *r
	if m := r.Memory; m != nil && m.Swap != nil && *m.Swap > 0 && (m.Limit == nil || *m.Limit == 0) && g.mode == oci2lxc.CgroupUnified {
		limit, err := g.memoryMax()
		if err != nil {
			return nil, err
		}
		memory := *m
		memory.Limit = &limit
		completed.Memory = &memory
	}
	if c := r.CPU; c != nil && c.Idle == nil && c.Shares != nil {
		if idle, err := readFile(g.cpu(), "cpu.idle"); err == nil && idle == "1" {
			cpu := *c
			cpu.Shares = nil
			completed.CPU = &cpu
		}
	}
	return &completed, nil
}

func (g *Group) cpu() string {
	if g.mode == oci2lxc.CgroupUnified {
		return g.unified()
	}
	return g.v1("cpu")
}

// memoryMax is the present memory.max, -1 for none.
func (g *Group) memoryMax() (int64, error) {
	text, err := readFile(g.unified(), "memory.max")
	if err != nil {
		return 0, err
	}
	if text == "max" {
		return -1, nil
	}
	var limit int64
	if _, err := fmt.Sscan(text, &limit); err != nil {
		return 0, fmt.Errorf("read memory.max %q: %w", text, err)
	}
	return limit, nil
}

func (g *Group) write(r *specs.LinuxResources) error {
	if !g.Exists() {
		return fmt.Errorf("set limits of cgroup %s: it does not exist: %w", g.config.Path, errdefs.ErrNotFound)
	}
	converted, err := convert(g.mode, r)
	if err != nil {
		return err
	}
	if err := g.check(g.neededControllers(r)); err != nil {
		return err
	}
	if g.mode == oci2lxc.CgroupUnified {
		err = writeV2(g.unified(), converted)
	} else {
		err = g.writeV1(converted)
	}
	if err != nil {
		return fmt.Errorf("set limits of cgroup %s: %w", g.config.Path, err)
	}
	return nil
}

// check finds a limit that would have no file to be written to.
func (g *Group) check(needed []need) error {
	if len(needed) == 0 {
		return nil
	}
	if g.mode != oci2lxc.CgroupUnified {
		for _, n := range needed {
			if g.v1(n.controller) == "" {
				return n.missing(g.config.Path)
			}
		}
		return nil
	}
	dir := g.unified()
	have, err := readFile(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	for _, n := range needed {
		if !slices.Contains(strings.Fields(have), n.controller) {
			return n.missing(dir)
		}
	}
	return nil
}

func writeV2(dir string, r *cgroups.Resources) error {
	manager, err := fs2.NewManager(&cgroups.Cgroup{Resources: r}, dir)
	if err != nil {
		return err
	}
	if err := manager.Set(r); err != nil {
		return err
	}
	return writeNoPids(dir, r)
}

func (g *Group) writeV1(r *cgroups.Resources) error {
	paths := map[string]string{}
	for _, h := range g.hierarchies {
		for _, controller := range h.controllers {
			if dir := h.dir(g.config.Path); !h.v2 && isDir(dir) {
				paths[controller] = dir
			}
		}
	}
	manager, err := fs.NewManager(&cgroups.Cgroup{Resources: r}, paths)
	if err != nil {
		return err
	}
	if err := manager.Set(r); err != nil {
		return err
	}
	return writeNoPids(paths["pids"], r)
}

// writeNoPids makes a limit of 0 a real 0, as runtime-spec 1.3 has it: the library
// writes 1, for systemd's sake.
func writeNoPids(dir string, r *cgroups.Resources) error {
	if r.PidsLimit == nil || *r.PidsLimit != 0 {
		return nil
	}
	return writeFile(dir, "pids.max", "0")
}
