package layer

import (
	"archive/tar"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setter sets attributes of one file.
type setter struct {
	owner func(uid, gid int) error
	xattr func(name string, value []byte) error
	mode  func(mode uint32) error
}

// describeFile gives a new regular file what its entry says, through a descriptor that can write.
func describeFile(fd int, h *tar.Header) error {
	return describeBy(fd, h, setter{
		owner: func(uid, gid int) error { return unix.Fchown(fd, uid, gid) },
		xattr: func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) },
		mode:  func(mode uint32) error { return unix.Fchmod(fd, mode) },
	})
}

// describe is the same for everything else, a symbolic link included, through a descriptor of O_PATH.
func describe(fd int, h *tar.Header) error {
	at := procFD(fd)
	return describeBy(fd, h, setter{
		owner: func(uid, gid int) error {
			return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		},
		xattr: func(name string, value []byte) error { return unix.Setxattr(at, name, value, 0) },
		mode:  func(mode uint32) error { return unix.Chmod(at, mode) },
	})
}

// describeBy sets what is not as the entry says. To look is cheaper than to set, which on most file systems is a
// transaction even where it changes nothing. A change of owner clears file capabilities and setuid bits, an access control
// list among the extended attributes changes the mode: so the order matters, and the mode follows both.
func describeBy(fd int, h *tar.Header, set setter) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// A link's file may have capabilities, which the link's entry takes from it unless it has them too.
	changed := int(st.Uid) != h.Uid || int(st.Gid) != h.Gid || h.Typeflag == tar.TypeLink
	if changed {
		if err := set.owner(h.Uid, h.Gid); err != nil {
			return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
		}
	}
	kind := st.Mode & unix.S_IFMT
	err := xattrs(h, func(name string, value []byte) error {
		changed = true
		err := set.xattr(name, value)
		if err == unix.EPERM && strings.HasPrefix(name, "user.") && kind != unix.S_IFREG && kind != unix.S_IFDIR {
			// Only files and directories have these (xattr(7)).
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	mode := uint32(h.Mode & 0o7777)
	if kind != unix.S_IFLNK && (changed || st.Mode&0o7777 != mode) {
		if err := set.mode(mode); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	if h.Typeflag == tar.TypeDir {
		// At the end, when nothing is made in it any more.
		return nil
	}
	return setTimes(fd, accessTime(h), bound(h.ModTime))
}

// xattrs sets the extended attributes of an entry. Those that only an administrator may see, and those that this
// filesystem does not have, are left out.
func xattrs(h *tar.Header, set func(string, []byte) error) error {
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok || strings.HasPrefix(name, "trusted.") {
			continue
		}
		if err := set(name, []byte(v)); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return nil
}

// Times outside of what a 64-bit timespec of nanoseconds holds are the epoch, as containerd has it.
var (
	minTime = time.Unix(0, 0)
	maxTime = time.Unix(0, 1<<63-1)
)

func bound(t time.Time) time.Time {
	if t.Before(minTime) || t.After(maxTime) {
		return minTime
	}
	return t
}

// accessTime is never older than the time of modification.
func accessTime(h *tar.Header) time.Time {
	if h.AccessTime.Before(h.ModTime) {
		return bound(h.ModTime)
	}
	return bound(h.AccessTime)
}

// setTimes sets those of what fd is open on, in whatever way.
func setTimes(fd int, atime, mtime time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(atime.UnixNano()), unix.NsecToTimespec(mtime.UnixNano())}
	if err := unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}
