package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/mounttree"
	"github.com/pvelxc/pvelxc/oci2lxc"
)

// files is a set of descriptors that live and die together.
type files []*os.File

func (f files) close() {
	for _, file := range f {
		_ = file.Close()
	}
}

// openTrees makes the detached mounts that the plan's mounts need from the host,
// by index into plan.Mounts. Attributes and id map are set; the mount hook sets the
// propagation and moves them.
func openTrees(plan *oci2lxc.Plan, maps *idMaps) (_ map[int]*os.File, err error) {
	trees := make(map[int]*os.File)
	defer func() {
		if err != nil {
			for _, t := range trees {
				_ = t.Close()
			}
		}
	}()
	for i, m := range plan.Mounts {
		tree, err := openTree(m, plan.IDMap, maps)
		if err != nil {
			return nil, fmt.Errorf("mount %s (mounts[%d]): %w", m.Destination, m.Index, err)
		}
		if tree != nil {
			trees[i] = tree
		}
	}
	return trees, nil
}

// openTree makes the detached mount of one MountTree or MountHostFS; other kinds
// need none.
func openTree(m oci2lxc.Mount, containerMap *oci2lxc.IDMap, maps *idMaps) (tree *os.File, err error) {
	switch m.Kind {
	case oci2lxc.MountTree:
		tree, err = mounttree.Clone(m.Source, m.Recursive)
	case oci2lxc.MountHostFS:
		params := make([]mounttree.Param, len(m.Params))
		for i, p := range m.Params {
			params[i] = mounttree.Param{Key: p.Key, Value: p.Value, Flag: p.Flag}
		}
		tree, err = mounttree.New(m.FSType, m.Source, params, m.AttrSet)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := setTreeAttrs(tree, m, containerMap, maps); err != nil {
		_ = tree.Close()
		return nil, err
	}
	return tree, nil
}

// setTreeAttrs applies what the mount wants for itself, then what it wants for all
// mounts below. A clone stays a peer of the host's mount until the mount hook sets
// the propagation, just before it moves the tree (program.Hook).
func setTreeAttrs(tree *os.File, m oci2lxc.Mount, containerMap *oci2lxc.IDMap, maps *idMaps) error {
	own := mounttree.Attr{Set: m.AttrSet, Clear: m.AttrClear}
	if m.IDMap != nil {
		ids := m.IDMap
		if len(ids.UIDs) == 0 && len(ids.GIDs) == 0 {
			ids = containerMap
		}
		if ids == nil {
			return fmt.Errorf("idmap without mappings needs a user namespace of the container's own")
		}
		userns, err := maps.userNS(ids)
		if err != nil {
			return err
		}
		if err := mounttree.SetAttr(tree, mounttree.Attr{UserNS: userns, Recursive: m.IDMapRecursive}); err != nil {
			return err
		}
	}
	if err := mounttree.SetAttr(tree, own); err != nil {
		return err
	}
	return mounttree.SetAttr(tree, mounttree.Attr{Set: m.RecAttrSet, Clear: m.RecAttrClear, Recursive: true})
}

// openDeviceTrees makes detached mounts of the host's device nodes, for user
// namespaces, where mknod(2) is refused. The node must be what the plan says: a
// path on the host proves nothing.
func openDeviceTrees(plan *oci2lxc.Plan) (_ map[string]*os.File, err error) {
	if plan.IDMap == nil {
		return nil, nil
	}
	trees := make(map[string]*os.File)
	defer func() {
		if err != nil {
			for _, t := range trees {
				_ = t.Close()
			}
		}
	}()
	for _, d := range plan.Devices {
		if d.Type == 'p' {
			continue
		}
		tree, err := mounttree.Clone(d.Path, false)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w (hint: in a user namespace only devices that exist on the host can be given)", d.Path, err)
		}
		trees[d.Path] = tree
		var st unix.Stat_t
		if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Path, err)
		}
		kind := map[byte]uint32{'c': unix.S_IFCHR, 'b': unix.S_IFBLK}[d.Type]
		if st.Mode&unix.S_IFMT != kind || int64(unix.Major(st.Rdev)) != d.Major || int64(unix.Minor(st.Rdev)) != d.Minor {
			return nil, fmt.Errorf("device %s: the host's is %d:%d and not the %c %d:%d asked for",
				d.Path, unix.Major(st.Rdev), unix.Minor(st.Rdev), d.Type, d.Major, d.Minor)
		}
	}
	return trees, nil
}
