package program

import (
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// HookInput is what Hook needs beside the plan: all that is known only when the
// container is being made. All trees are detached mounts (open_tree(2) with
// OPEN_TREE_CLONE, or fsmount(2)), made in the host's mount namespace, each used
// once. They stay the caller's until the program was sent.
type HookInput struct {
	Plan *oci2lxc.Plan
	// Trees has a tree for every MountTree and MountHostFS, by its position in
	// Plan.Mounts. The shim has set its attributes and id mapping; the hook sets the
	// propagation. A tree's root decides whether the mountpoint is a directory.
	Trees map[int]*os.File
	// Cgroups has the trees for every MountCgroup that needs them, by position.
	Cgroups map[int]CgroupTrees
	// Devices has a tree of the host's node for a device that cannot be made with
	// mknod(2), by Device.Path: all of them when the container has a user namespace.
	Devices map[string]*os.File
	// CgroupNamespace is the one to join (NamespaceJoin), else nil.
	CgroupNamespace *os.File
	// State is the JSON for the createContainer hooks (runtime.md#state).
	State []byte
}

// CgroupTrees is what a MountCgroup shows.
type CgroupTrees struct {
	// Unified is the tree for the whole destination: the container's cgroup on a host
	// with cgroup v2 alone. nil there means: mount cgroup2 anew, in the container's own
	// cgroup namespace.
	Unified *os.File
	// Controllers are the hierarchies of a v1 or hybrid host, in order; not empty
	// means a tmpfs with one directory each.
	Controllers []CgroupController
}

// CgroupController is one hierarchy below the destination of a MountCgroup.
type CgroupController struct {
	// Name is the directory ("cpu,cpuacct", "unified").
	Name string
	// Tree is the container's group in that hierarchy.
	Tree *os.File
	// Links are the names of co-mounted controllers that point to Name.
	Links []string
}

// Hook compiles the program of the mount hook: the loopback device, mounts in order, devices, links,
// SyncMounted, createContainer hooks.
func Hook(in HookInput) (*Program, error) {
	b := new(Builder)
	b.FDs()
	b.For("root.path").Root(in.Plan.Rootfs.Path)
	if in.CgroupNamespace != nil {
		b.For("linux.namespaces").Setns(in.CgroupNamespace, unix.CLONE_NEWCGROUP)
	} else if needsCgroupNamespace(in) {
		b.For("linux.namespaces").UnshareCgroup()
	}
	// As every runtime does, and before any hook: what configures the network from
	// outside (CNI without its loopback plugin) relies on it. Whoever made a namespace
	// that is joined has done it there.
	if in.Plan.Namespace(specs.NetworkNamespace).Mode == oci2lxc.NamespaceNew {
		b.For("linux.namespaces").Loopback()
	}
	if !hasProc(in.Plan) {
		b.For("").MountFS("proc", "proc", "/proc", nil, procAttr, 0)
	}
	for i := range in.Plan.Mounts {
		if err := b.mount(in, i); err != nil {
			return nil, err
		}
	}
	for _, d := range in.Plan.Devices {
		b.For("linux.devices").device(d, in.Devices[d.Path])
	}
	b.For("")
	for _, l := range in.Plan.Links {
		b.Symlink(l.Target, l.Path)
	}
	b.Sync(SyncMounted)
	for i, h := range in.Plan.Hooks.CreateContainer {
		b.For(fmt.Sprintf("hooks.createContainer[%d]", i)).RunHook(h, in.State)
	}
	return b.Program()
}

// procAttr is how every runtime mounts /proc.
const procAttr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// hasProc tells whether the plan mounts something on /proc. Without, the hook
// mounts a procfs that pvelxc-init needs, and Init unmounts it.
func hasProc(p *oci2lxc.Plan) bool {
	return slices.ContainsFunc(p.Mounts, func(m oci2lxc.Mount) bool { return m.Destination == "/proc" })
}

// needsCgroupNamespace tells whether the hook mounts cgroup2 itself: a new mount
// shows the group of the namespace it is made in.
func needsCgroupNamespace(in HookInput) bool {
	if in.Plan.Namespace(specs.CgroupNamespace).Mode != oci2lxc.NamespaceNew {
		return false
	}
	for i, m := range in.Plan.Mounts {
		c := in.Cgroups[i]
		if m.Kind == oci2lxc.MountCgroup && c.Unified == nil && len(c.Controllers) == 0 {
			return true
		}
	}
	return false
}

func (b *Builder) mount(in HookInput, i int) error {
	m := in.Plan.Mounts[i]
	if m.Index >= 0 {
		b.For(fmt.Sprintf("mounts[%d]", m.Index))
	} else {
		b.For("")
	}
	switch m.Kind {
	case oci2lxc.MountTree, oci2lxc.MountHostFS:
		source := m.Source
		if m.Kind == oci2lxc.MountHostFS {
			source = m.FSType + " " + m.Source
		}
		flag, recursive := treePropagation(m.Propagation)
		b.MountTree(in.Trees[i], source, m.Destination, flag, recursive)
	case oci2lxc.MountNew:
		b.newFS(m)
	case oci2lxc.MountCgroup:
		return b.cgroup(in, i)
	case oci2lxc.MountRemount:
		if len(m.Params) > 0 {
			b.Configure(m.Destination, m.Params)
		}
		if m.AttrSet|m.AttrClear != 0 || m.RecAttrSet|m.RecAttrClear == 0 {
			b.Attr(m.Destination, m.AttrSet, m.AttrClear, 0, false)
		}
		if m.RecAttrSet|m.RecAttrClear != 0 {
			b.Attr(m.Destination, m.RecAttrSet, m.RecAttrClear, 0, true)
		}
	default:
		return fmt.Errorf("mounts[%d]: unknown kind %q", m.Index, m.Kind)
	}
	return nil
}

// treePropagation is what a tree of the host must have before it is moved into
// the container: no mount that a later entry makes below it may reach the host,
// unless its own propagation says so. Init sets the final values, since liblxc
// makes every mount shared in between.
func treePropagation(flag uint64) (early uint64, recursive bool) {
	switch flag {
	case unix.MS_SHARED:
		return 0, false
	case unix.MS_SLAVE:
		return unix.MS_SLAVE, true
	}
	return unix.MS_PRIVATE, true
}

func (b *Builder) newFS(m oci2lxc.Mount) {
	var flags uint32
	if m.FSType == "tmpfs" {
		if m.TmpCopyUp {
			flags |= FSCopyUp
		}
		if !slices.ContainsFunc(m.Params, func(p oci2lxc.FSParam) bool { return p.Key == "mode" }) {
			flags |= FSKeepMode
		}
	}
	b.MountFS(m.FSType, m.Source, m.Destination, m.Params, m.AttrSet|m.RecAttrSet, flags)
}

func (b *Builder) cgroup(in HookInput, i int) error {
	m, c := in.Plan.Mounts[i], in.Cgroups[i]
	attr := m.AttrSet | m.RecAttrSet
	switch {
	case len(c.Controllers) > 0:
		params := []oci2lxc.FSParam{{Key: "mode", Value: "0755"}}
		b.MountFS("tmpfs", "cgroup", m.Destination, params, attr&^unix.MOUNT_ATTR_RDONLY, 0)
		for _, h := range c.Controllers {
			if h.Name == "" || h.Name != path.Base(h.Name) || h.Name == ".." || h.Name == "." {
				return fmt.Errorf("mounts[%d]: hierarchy %q is not a file name", m.Index, h.Name)
			}
			dest := path.Join(m.Destination, h.Name)
			b.Mkdir(dest, 0o755)
			b.MountTree(h.Tree, "cgroup "+h.Name, dest, unix.MS_PRIVATE, true)
			for _, l := range h.Links {
				b.Symlink(h.Name, path.Join(m.Destination, l))
			}
		}
		if attr&unix.MOUNT_ATTR_RDONLY != 0 {
			b.Attr(m.Destination, unix.MOUNT_ATTR_RDONLY, 0, 0, false)
		}
	case c.Unified != nil:
		b.MountTree(c.Unified, "cgroup2", m.Destination, unix.MS_PRIVATE, true)
	case in.Plan.Namespace(specs.CgroupNamespace).Mode == oci2lxc.NamespaceHost:
		// A new mount would show the host's whole hierarchy.
		return fmt.Errorf("mounts[%d]: a tree of the container's cgroup is missing", m.Index)
	default:
		b.MountFS("cgroup2", "cgroup", m.Destination, nil, attr, 0)
	}
	return nil
}

func (b *Builder) device(d oci2lxc.Device, tree *os.File) {
	if tree != nil {
		b.MountTree(tree, "device "+d.Path, d.Path, unix.MS_PRIVATE, true)
		return
	}
	mode := d.Mode & 0o7777
	switch d.Type {
	case 'b':
		mode |= unix.S_IFBLK
	case 'p':
		mode |= unix.S_IFIFO
	default:
		mode |= unix.S_IFCHR
	}
	b.Mknod(d.Path, mode, uint32(d.Major), uint32(d.Minor), d.UID, d.GID)
}
