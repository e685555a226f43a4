package layer

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CompareOptions are those of Compare.
type CompareOptions struct {
	// NewestTime bounds the times of modification in the layer, for reproducible builds; nil: no bound.
	NewestTime *time.Time
	// Descends says that the upper tree was once the lower one: it is a later state of the same ZFS dataset, or of a
	// clone of it. Then a file of the same inode number and time of change is the same file and is unchanged, whatever
	// it holds, and is not read. No program can set the time of change (ctime).
	Descends bool
}

// Compare writes the layer that, applied to the lower tree, makes the upper one: an uncompressed tar with whiteouts. Both
// are open directories. Like containerd's differ it leaves out sockets and all extended attributes but file capabilities,
// and takes files for equal whose size, owner, mode and time of modification are, where that has nanoseconds.
func Compare(ctx context.Context, w io.Writer, lower, upper *os.File, o CompareOptions) error {
	c := &comparison{writer: newWriter(w, int(upper.Fd()), o.NewestTime), ctx: ctx, descends: o.Descends}
	if err := c.both(int(lower.Fd()), int(upper.Fd()), ""); err != nil {
		return err
	}
	return c.close()
}

// comparison is one Compare.
type comparison struct {
	*writer
	ctx      context.Context //nolint:containedctx // one call's, over a recursion
	descends bool
}

// node is one name in a directory.
type node struct {
	name string
	stat unix.Stat_t
}

func (n *node) isDir() bool { return n.stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// linked says whether a file has other names.
func (n *node) linked() bool { return !n.isDir() && n.stat.Nlink > 1 }

// nodes lists a directory in the order of names.
func nodes(dir int) ([]node, error) {
	names, err := readNames(dir)
	if err != nil {
		return nil, err
	}
	l := make([]node, 0, len(names))
	for _, name := range names {
		n := node{name: name}
		err := unix.Fstatat(dir, name, &n.stat, unix.AT_SYMLINK_NOFOLLOW)
		// A running container's file may go meanwhile.
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		l = append(l, n)
	}
	return l, nil
}

// both compares two directories, whose names merge in order.
func (c *comparison) both(lower, upper int, at string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	// The kernel reads both sides at the same time.
	var ls []node
	var lerr error
	read := make(chan struct{})
	go func() {
		defer close(read)
		ls, lerr = nodes(lower)
	}()
	us, err := nodes(upper)
	<-read
	if lerr != nil {
		return fmt.Errorf("read the lower /%s: %w", at, lerr)
	}
	if err != nil {
		return fmt.Errorf("read the upper /%s: %w", at, err)
	}
	for len(ls) > 0 || len(us) > 0 {
		var err error
		switch order(ls, us) {
		case -1:
			err = c.deleted(join(at, ls[0].name))
			ls = ls[1:]
		case 1:
			err = c.added(upper, &us[0], at)
			us = us[1:]
		default:
			err = c.compare(lower, upper, &ls[0], &us[0], at)
			ls, us = ls[1:], us[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func order(ls, us []node) int {
	switch {
	case len(us) == 0:
		return -1
	case len(ls) == 0:
		return 1
	}
	return strings.Compare(ls[0].name, us[0].name)
}

// compare is for a name that both have.
func (c *comparison) compare(lower, upper int, l, u *node, at string) error {
	same, err := c.same(lower, upper, l, u)
	if err != nil {
		return fmt.Errorf("compare /%s: %w", join(at, u.name), err)
	}
	if !same || u.linked() {
		if err := c.changed(upper, u, at, same); err != nil {
			return err
		}
	}
	switch {
	case !u.isDir():
		return nil
	case !l.isDir():
		return c.below(upper, u, at)
	}
	lfd, err := openDir(lower, l.name)
	if err != nil {
		return fmt.Errorf("open the lower /%s: %w", join(at, l.name), err)
	}
	defer unix.Close(lfd)
	ufd, err := openDir(upper, u.name)
	if err != nil {
		return fmt.Errorf("open the upper /%s: %w", join(at, u.name), err)
	}
	defer unix.Close(ufd)
	return c.both(lfd, ufd, join(at, u.name))
}

// added is for a name that only the upper tree has, and all below it.
func (c *comparison) added(upper int, u *node, at string) error {
	if err := c.changed(upper, u, at, false); err != nil || !u.isDir() {
		return err
	}
	return c.below(upper, u, at)
}

// below adds all of a directory.
func (c *comparison) below(upper int, u *node, at string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	at = join(at, u.name)
	fd, err := openDir(upper, u.name)
	if err != nil {
		return fmt.Errorf("open the upper /%s: %w", at, err)
	}
	defer unix.Close(fd)
	us, err := nodes(fd)
	if err != nil {
		return fmt.Errorf("read the upper /%s: %w", at, err)
	}
	for i := range us {
		if err := c.added(fd, &us[i], at); err != nil {
			return err
		}
	}
	return nil
}

func openDir(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// same says whether a name stands for the same in both trees. Of directories it does not look inside.
func (c *comparison) same(lower, upper int, l, u *node) (bool, error) {
	ls, us := &l.stat, &u.stat
	if ls.Dev == us.Dev && ls.Ino == us.Ino {
		return true, nil
	}
	if ls.Mode != us.Mode || ls.Uid != us.Uid || ls.Gid != us.Gid || ls.Rdev != us.Rdev {
		return false, nil
	}
	if c.descends && unchanged(ls, us) {
		return true, nil
	}
	if !u.isDir() && (ls.Size != us.Size || ls.Mtim != us.Mtim) {
		return false, nil
	}
	// Times that an archive has cut to seconds tell nothing.
	exact := u.isDir() || ls.Mtim.Nsec != 0
	if !exact && us.Mode&unix.S_IFMT == unix.S_IFREG && us.Size > 0 {
		return sameFile(lower, upper, l.name, us.Size, c.buf)
	}
	if eq, err := sameCapability(lower, upper, l.name); err != nil || !eq {
		return false, err
	}
	if !exact && us.Mode&unix.S_IFMT == unix.S_IFLNK {
		return sameTarget(lower, upper, l.name)
	}
	return true, nil
}

// unchanged is for two states of one dataset: inode and time of change are both the same.
func unchanged(ls, us *unix.Stat_t) bool {
	return ls.Ino == us.Ino && ls.Ctim == us.Ctim && ls.Mtim == us.Mtim && ls.Size == us.Size
}
