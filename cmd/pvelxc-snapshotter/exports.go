package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/mounttree"
)

// exportsDir is where the root dataset is mounted, below the state directory.
func exportsDir(state string) string { return filepath.Join(state, "exports") }

// mountExports mounts the root dataset, read-only, at a path that the kubelet asks for the capacity of images: of a ZFS
// mount it takes the space of the dataset and all below it. There is nothing to see in it. It stays when this program
// ends, as the path is containerd's; a mount that is there is left alone.
func mountExports(root, dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("exports: %w", err)
	}
	there, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil {
		return fmt.Errorf("exports: %w", err)
	}
	if len(there) > 0 {
		if there[0].FSType == "zfs" && there[0].Source == root {
			return nil
		}
		return fmt.Errorf("exports: %s is a mount of %s (hint: umount %[1]s)", dir, there[0].Source)
	}
	tree, err := mounttree.New("zfs", root, nil, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fmt.Errorf("exports: %w", err)
	}
	defer tree.Close()
	if err := mounttree.Attach(tree, dir); err != nil {
		return fmt.Errorf("exports: %w", err)
	}
	return nil
}
