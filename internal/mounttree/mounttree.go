package mounttree

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Attr is what mount_setattr(2) changes.
type Attr struct {
	// Set and Clear are MOUNT_ATTR_* flags.
	Set, Clear uint64
	// Propagation is MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE; 0 leaves it.
	Propagation uint64
	// UserNS maps the ids of the mount as this user namespace does; nil leaves them.
	UserNS *os.File
	// Recursive applies all this to the mounts below as well (AT_RECURSIVE).
	Recursive bool
}

func (a Attr) empty() bool {
	return a.Set|a.Clear|a.Propagation == 0 && a.UserNS == nil
}

// Clone copies the mount at the host path source (open_tree(2) with
// OPEN_TREE_CLONE); recursive takes the mounts below it along. Symlinks in source
// are followed, as mount(8) does. The caller closes the result.
func Clone(source string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := ignoringEINTR(func() (int, error) { return unix.OpenTree(unix.AT_FDCWD, source, flags) })
	if err != nil {
		return nil, fmt.Errorf("clone mount of %s: %w", source, err)
	}
	return os.NewFile(uintptr(fd), source), nil
}

// CloneFile copies the mount of an open file, also of one that has been deleted since.
// The caller closes the result.
func CloneFile(file *os.File) (*os.File, error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	fd, err := ignoringEINTR(func() (int, error) { return unix.OpenTree(int(file.Fd()), "", flags) })
	if err != nil {
		return nil, fmt.Errorf("clone mount of %s: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// SetAttr changes the attributes of a detached mount. A filesystem that cannot be
// mapped is named in the error.
func SetAttr(tree *os.File, a Attr) error {
	if a.empty() {
		return nil
	}
	attr := unix.MountAttr{Attr_set: a.Set, Attr_clr: a.Clear, Propagation: a.Propagation}
	// The access time modes are one field of the kernel's: setting one needs the
	// whole field cleared (mount_setattr(2), MOUNT_ATTR__ATIME).
	if a.Set&unix.MOUNT_ATTR__ATIME != 0 || a.Clear&unix.MOUNT_ATTR__ATIME != 0 {
		attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
	}
	if a.UserNS != nil {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(a.UserNS.Fd())
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if a.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(int(tree.Fd()), "", flags, &attr)
	if err == nil {
		return nil
	}
	if a.UserNS != nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		return fmt.Errorf("map ids of %s: filesystem %s does not support idmapped mounts here: %w", tree.Name(), fsName(tree), err)
	}
	return fmt.Errorf("set mount attributes of %s: %w", tree.Name(), err)
}

// Param is one parameter of a new filesystem (fsconfig(2)).
type Param struct {
	Key, Value string
	// Flag says that Key stands alone (FSCONFIG_SET_FLAG).
	Flag bool
}

// New makes a filesystem and a detached mount of it in the host's namespaces. The
// kernel's own explanation is part of the error.
func New(fstype, source string, params []Param, attrSet uint64) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open filesystem type %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return nil, fmt.Errorf("%s source %s: %w%s", fstype, source, err, fsLog(fs))
		}
	}
	for _, p := range splitLayers(fstype, params) {
		if p.Flag {
			err = unix.FsconfigSetFlag(fs, p.Key)
		} else {
			err = unix.FsconfigSetString(fs, p.Key, p.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s option %s: %w%s", fstype, p.Key, err, fsLog(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("create %s filesystem of %s: %w%s", fstype, source, err, fsLog(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attrSet))
	if err != nil {
		return nil, fmt.Errorf("mount %s filesystem of %s: %w%s", fstype, source, err, fsLog(fs))
	}
	return os.NewFile(uintptr(fd), source), nil
}

// splitLayers gives overlay its lower layers one by one where their list is longer
// than a parameter can be (256 bytes with the NUL, fs/fsopen.c); "lowerdir+" is
// known since Linux 6.5. A list with escapes is left as it is.
func splitLayers(fstype string, params []Param) []Param {
	const longest = 255
	var split []Param
	for _, p := range params {
		if fstype != "overlay" || p.Key != "lowerdir" || len(p.Value) <= longest ||
			strings.Contains(p.Value, "::") || strings.Contains(p.Value, `\`) {
			split = append(split, p)
			continue
		}
		for layer := range strings.SplitSeq(p.Value, ":") {
			split = append(split, Param{Key: "lowerdir+", Value: layer})
		}
	}
	return split
}

// Attach moves a detached mount to the host path target.
func Attach(tree *os.File, target string) error {
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move mount of %s to %s: %w", tree.Name(), target, err)
	}
	return nil
}

// IsDir says whether the root of a detached mount is a directory, which decides
// what kind of mountpoint it needs.
func IsDir(tree *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", tree.Name(), err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// fsLog reads the messages that the kernel left in a filesystem context.
func fsLog(fs int) string {
	var all string
	buf := make([]byte, 1024)
	for range 8 {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		all += ": " + string(buf[:n])
	}
	return all
}

// fsName names the filesystem of f by its magic number (statfs(2)).
func fsName(f *os.File) string {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "(unknown)"
	}
	if name, ok := magic[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("with magic %#x", st.Type)
}

// magic holds the filesystems that root filesystems and volumes are found on.
var magic = map[int64]string{
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.FUSE_SUPER_MAGIC:      "fuse",
	0x2fc12fc1:                 "zfs",
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
