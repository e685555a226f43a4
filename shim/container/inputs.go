package container

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/mounttree"
	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/null"
	"github.com/pvelxc/pvelxc/shim/program"
	"github.com/pvelxc/pvelxc/shim/seccomp"
)

// inputs are the descriptors that the programs take along.
type inputs struct {
	trees   map[int]*os.File
	devices map[string]*os.File
	join    map[specs.LinuxNamespaceType]*os.File
	null    *os.File
	cgroups files
	filter  *program.Seccomp
	notify  bool
}

// open fills in all that does not depend on the container's pid.
func (in *inputs) open(ctx context.Context, c *Container) (err error) {
	if in.trees, err = openTrees(c.plan, c.idMaps); err != nil {
		return err
	}
	if in.devices, err = openDeviceTrees(c.plan); err != nil {
		return err
	}
	if len(c.plan.Setup.MaskedPaths) > 0 {
		if in.null, err = null.Tree(); err != nil {
			return err
		}
	}
	in.join = make(map[specs.LinuxNamespaceType]*os.File)
	for _, ns := range c.plan.Namespaces {
		if ns.Mode != oci2lxc.NamespaceJoin {
			continue
		}
		f, err := openNamespace(ns.Type, ns.Path)
		if err != nil {
			return err
		}
		// The others are joined by liblxc, which takes a namespace of any kind.
		if ns.Type != specs.CgroupNamespace && ns.Type != specs.TimeNamespace {
			_ = f.Close()
			continue
		}
		in.join[ns.Type] = f
	}
	if c.plan.Seccomp != nil {
		f, err := seccomp.Compile(ctx, c.plan.Seccomp)
		if err != nil {
			return fmt.Errorf("linux.seccomp: %w", err)
		}
		in.filter, in.notify = &program.Seccomp{Flags: f.Flags, Filter: f.Program}, f.Notify
	}
	return nil
}

func (in *inputs) joins() []program.JoinNamespace {
	var list []program.JoinNamespace
	for t, f := range in.join {
		list = append(list, program.JoinNamespace{Type: t, File: f})
	}
	return list
}

func (in *inputs) close() {
	for _, f := range in.trees {
		_ = f.Close()
	}
	for _, f := range in.devices {
		_ = f.Close()
	}
	for _, f := range in.join {
		_ = f.Close()
	}
	if in.null != nil {
		_ = in.null.Close()
	}
	in.cgroups.close()
}

// openCgroups makes the trees for cgroup mounts, from the cgroups that the
// container is in by now.
func (in *inputs) openCgroups(c *Container, pid int) (map[int]program.CgroupTrees, error) {
	trees := make(map[int]program.CgroupTrees)
	for i, m := range c.plan.Mounts {
		if m.Kind != oci2lxc.MountCgroup {
			continue
		}
		own := c.plan.Namespace(specs.CgroupNamespace).Mode != oci2lxc.NamespaceHost
		if c.state.CgroupMode == oci2lxc.CgroupUnified && own {
			trees[i] = program.CgroupTrees{} // the hook mounts cgroup2 anew
			continue
		}
		t, err := in.openCgroup(c, m, pid)
		if err != nil {
			return nil, fmt.Errorf("mount %s (mounts[%d]): %w", m.Destination, m.Index, err)
		}
		trees[i] = t
	}
	return trees, nil
}

func (in *inputs) openCgroup(c *Container, m oci2lxc.Mount, pid int) (t program.CgroupTrees, err error) {
	paths, err := c.group.Controllers(pid)
	if err != nil {
		return t, err
	}
	for name, path := range paths {
		tree, err := mounttree.Clone(path, false)
		if err != nil {
			return t, err
		}
		in.cgroups = append(in.cgroups, tree)
		attr := mounttree.Attr{Set: m.AttrSet | m.RecAttrSet | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
		if err := mounttree.SetAttr(tree, attr); err != nil {
			return t, err
		}
		if name == "" {
			t.Unified = tree
			continue
		}
		h := program.CgroupController{Name: name, Tree: tree}
		if parts := strings.Split(name, ","); len(parts) > 1 {
			h.Links = parts
		}
		t.Controllers = append(t.Controllers, h)
	}
	return t, nil
}
