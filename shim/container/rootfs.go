package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/mounttree"
	"github.com/pvelxc/pvelxc/oci2lxc"
)

// mountRootfs puts the container's root at target, from the mounts that the
// snapshotter gave, or as it lies there when it gave none. With an id map, and a
// root that belongs to the host's root, the ids are mapped on the way, so that no
// file is ever chowned; a snapshotter that mapped them itself is left alone.
//
// mounted says that unmountRootfs must be called.
func mountRootfs(mounts []*types.Mount, target string, ids *oci2lxc.IDMap, maps *idMaps) (mounted bool, err error) {
	if len(mounts) > 0 {
		if err := os.Mkdir(target, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
			return false, fmt.Errorf("make rootfs mountpoint: %w", err)
		}
		if ids != nil {
			done, err := mountMappedOverlay(mounts, target, ids, maps)
			if done || err != nil {
				return done, err
			}
		}
		if err := mount.All(mount.FromProto(mounts), target); err != nil {
			return false, fmt.Errorf("mount rootfs: %w", errors.Join(err, unmountRootfs(target)))
		}
		mounted = true
	}
	need, err := needsMap(target, ids)
	if err != nil || !need {
		return mounted, err
	}
	if err := mapInPlace(target, ids, maps, mounted); err != nil {
		if mounted {
			err = errors.Join(err, unmountRootfs(target))
		}
		return false, err
	}
	return true, nil
}

// unmountRootfs is idempotent. It detaches: whatever still uses the root, an
// admin's shell for example, must not keep the container from being deleted.
func unmountRootfs(target string) error {
	for { // one mount may lie on another; those below go along
		switch err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil, unix.EINTR:
		case unix.EINVAL, unix.ENOENT: // nothing is mounted there
			return nil
		default:
			return fmt.Errorf("unmount rootfs %s: %w", target, err)
		}
	}
}

// needsMap says whether the root at target is still in the host's ids.
func needsMap(target string, ids *oci2lxc.IDMap) (bool, error) {
	if ids == nil {
		return false, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(target, &st); err != nil {
		return false, fmt.Errorf("rootfs %s: %w", target, err)
	}
	root, ok := hostID(ids.UIDs, 0)
	return ok && root != 0 && st.Uid == 0, nil
}

// hostID is the id on the host of an id in the container.
func hostID(ids []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range ids {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// mapInPlace puts an idmapped copy of what is at target over, or in place of, it.
func mapInPlace(target string, ids *oci2lxc.IDMap, maps *idMaps, replace bool) error {
	userns, err := maps.userNS(ids)
	if err != nil {
		return fmt.Errorf("map rootfs ids: %w", err)
	}
	tree, err := mounttree.Clone(target, true)
	if err != nil {
		return fmt.Errorf("map rootfs ids: %w", err)
	}
	defer tree.Close()
	if err := mounttree.SetAttr(tree, mounttree.Attr{UserNS: userns, Recursive: true}); err != nil {
		return fmt.Errorf("map rootfs ids: %w (hint: use a snapshotter whose filesystem can, such as pvelxc, or run the container privileged)", err)
	}
	if replace {
		if err := unmountRootfs(target); err != nil {
			return err
		}
	}
	return mounttree.Attach(tree, target)
}

// mountMappedOverlay mounts an overlay root from idmapped layers: the overlay
// itself cannot be idmapped, its layers can (Linux 5.19). done is false when the
// mounts are anything else, or are mapped already.
func mountMappedOverlay(mounts []*types.Mount, target string, ids *oci2lxc.IDMap, maps *idMaps) (done bool, err error) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return false, nil
	}
	layers := parseOverlay(mounts[0].Options)
	if layers == nil {
		return false, nil
	}
	if need, err := needsMap(layers.top(), ids); err != nil || !need {
		return false, err
	}
	userns, err := maps.userNS(ids)
	if err != nil {
		return false, fmt.Errorf("map rootfs ids: %w", err)
	}
	var open files
	defer func() { open.close() }()
	mapped := func(dir string) (string, error) {
		tree, err := mounttree.Clone(dir, false)
		if err != nil {
			return "", err
		}
		open = append(open, tree)
		if err := mounttree.SetAttr(tree, mounttree.Attr{UserNS: userns}); err != nil {
			return "", err
		}
		return fmt.Sprintf("/proc/self/fd/%d", tree.Fd()), nil
	}
	var params []mounttree.Param
	for _, dir := range layers.lower {
		p, err := mapped(dir)
		if err != nil {
			return false, fmt.Errorf("map rootfs ids: %w", err)
		}
		params = append(params, mounttree.Param{Key: "lowerdir+", Value: p})
	}
	if layers.upper != "" {
		// Upper and work must be of one mount, so their common parent is mapped.
		p, err := mapped(filepath.Dir(layers.upper))
		if err != nil {
			return false, fmt.Errorf("map rootfs ids: %w", err)
		}
		params = append(params,
			mounttree.Param{Key: "upperdir", Value: p + "/" + filepath.Base(layers.upper)},
			mounttree.Param{Key: "workdir", Value: p + "/" + filepath.Base(layers.work)})
	}
	params = append(params, layers.rest...)
	tree, err := mounttree.Apart(target, open, func() (*os.File, error) {
		if err := becomeRootOf(ids); err != nil {
			return nil, err
		}
		return mounttree.New("overlay", "overlay", params, 0)
	})
	if err != nil {
		return false, fmt.Errorf("mount rootfs with mapped ids: %w", err)
	}
	defer tree.Close()
	if err := mounttree.Attach(tree, target); err != nil {
		return false, err
	}
	return true, nil
}

// becomeRootOf gives the calling thread, for ever, the map's root as its filesystem
// ids: with the host's, which the mapped upper directory cannot store, overlay could
// make nothing in it and would be read-only. All capabilities stay.
func becomeRootOf(ids *oci2lxc.IDMap) error {
	uid, mapped := hostID(ids.UIDs, 0)
	gid, too := hostID(ids.GIDs, 0)
	if !mapped || !too {
		return nil
	}
	if _, err := unix.SetfsgidRetGid(int(gid)); err != nil {
		return fmt.Errorf("take group %d: %w", gid, err)
	}
	if _, err := unix.SetfsuidRetUid(int(uid)); err != nil {
		return fmt.Errorf("take user %d: %w", uid, err)
	}
	// A filesystem uid other than 0 drops some from the effective set (capabilities(7)).
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	return nil
}

// overlayLayers are the options of an overlay mount.
type overlayLayers struct {
	lower       []string
	upper, work string
	rest        []mounttree.Param
}

func (l *overlayLayers) top() string {
	if l.upper != "" {
		return l.upper
	}
	return l.lower[0]
}

// parseOverlay takes the options of an overlay mount apart; nil when it is not one
// whose layers can be mapped here.
func parseOverlay(options []string) *overlayLayers {
	l := new(overlayLayers)
	for _, o := range options {
		key, value, has := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			if strings.Contains(value, "::") || strings.Contains(value, `\`) {
				return nil // data-only layers and escaped colons
			}
			l.lower = strings.Split(value, ":")
		case "upperdir":
			l.upper = value
		case "workdir":
			l.work = value
		case "uidmap", "gidmap":
			return nil // containerd maps the layers itself
		case "rw", "ro":
		default:
			l.rest = append(l.rest, mounttree.Param{Key: key, Value: value, Flag: !has})
		}
	}
	if len(l.lower) == 0 || (l.upper != "" && filepath.Dir(l.upper) != filepath.Dir(l.work)) {
		return nil
	}
	return l
}
