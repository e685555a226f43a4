// Package null gives containers the host's null device in a way that they cannot spoil.
//
// A container's processes get it as their streams and over masked paths. Whoever holds the host's own /dev/null may
// change its mode as far as he is root, and liblxc does so unasked: it gives streams that are not what the container's
// root has at /dev/null to the container, with mode 0700. A root with a link there would take /dev/null away from
// everybody on the host but root. A read-only mount forbids that, and does not keep anybody from writing to the device.
package null

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/mounttree"
)

// Tree is a detached read-only mount of the device. The caller closes it.
func Tree() (*os.File, error) {
	tree, err := mounttree.Clone(os.DevNull, false)
	if err != nil {
		return nil, err
	}
	attr := mounttree.Attr{Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
	if err := mounttree.SetAttr(tree, attr); err != nil {
		_ = tree.Close()
		return nil, err
	}
	return tree, nil
}

// Open opens the device for reading and writing through a Tree of its own. The caller closes it.
func Open() (*os.File, error) {
	tree, err := Tree()
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	// The link leads to the very file and mount of the descriptor.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", tree.Fd()), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	return f, nil
}
