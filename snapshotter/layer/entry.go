package layer

import (
	"archive/tar"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// create makes an entry of the layer, in place of what is there: only a directory stays when it is to be one.
func (a *applier) create(d *directory, base string, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg:
		return a.file(d, base, h)
	case tar.TypeDir:
		err := unix.Mkdirat(d.fd, base, 0o700)
		if err == unix.EEXIST && !isDir(d.fd, base) {
			if err = a.remove(d, base); err == nil {
				err = unix.Mkdirat(d.fd, base, 0o700)
			}
		}
		if err != nil && err != unix.EEXIST {
			return err
		}
	case tar.TypeSymlink:
		if err := a.replace(d, base, func() error { return unix.Symlinkat(h.Linkname, d.fd, base) }); err != nil {
			return err
		}
	case tar.TypeLink:
		if err := a.link(d, base, h); err != nil {
			return fmt.Errorf("link to %q: %w", h.Linkname, err)
		}
	case tar.TypeBlock, tar.TypeChar, tar.TypeFifo:
		mode, dev, err := device(h)
		if err != nil {
			return err
		}
		if err := a.replace(d, base, func() error { return unix.Mknodat(d.fd, base, mode, dev) }); err != nil {
			return err
		}
	case tar.TypeXGlobalHeader:
		return a.remove(d, base)
	default:
		return fmt.Errorf("type %q of a tar entry: %w", h.Typeflag, ErrInvalid)
	}
	fd, err := unix.Openat(d.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return describe(fd, h)
}

// replace makes something where, as a rule, there is nothing yet.
func (a *applier) replace(d *directory, base string, fn func() error) error {
	err := fn()
	if err != unix.EEXIST {
		return err
	}
	if err := a.remove(d, base); err != nil {
		return err
	}
	return fn()
}

// link makes a hard link to what the layer or one below it has.
func (a *applier) link(d *directory, base string, h *tar.Header) error {
	dir, target := path.Split(h.Linkname)
	if target == ".." {
		return fmt.Errorf("a directory: %w", ErrInvalid)
	}
	return a.replace(d, base, func() error {
		at, err := a.resolve(dir)
		if err != nil {
			return err
		}
		target := target
		if target == "" || target == "." {
			at, target = parentOf(at), path.Base(at)
		}
		fd, err := a.open(at, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Linkat(fd, target, d.fd, base, 0)
	})
}

func device(h *tar.Header) (mode uint32, dev int, err error) {
	mode = uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	default:
		mode |= unix.S_IFIFO
	}
	if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
		return 0, 0, fmt.Errorf("device number %d:%d: %w", h.Devmajor, h.Devminor, ErrInvalid)
	}
	return mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))), nil
}

// file makes a regular file and all that is to know of it through its one descriptor.
func (a *applier) file(d *directory, base string, h *tar.Header) error {
	var fd int
	err := a.replace(d, base, func() (err error) {
		fd, err = unix.Openat(d.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	if a.buf == nil {
		a.buf = make([]byte, 256<<10)
	}
	err = a.copy(fd)
	if err == nil {
		err = describeFile(fd, h)
	}
	if e := unix.Close(fd); err == nil {
		err = e
	}
	return err
}

// copy writes the entry's content.
func (a *applier) copy(fd int) error {
	for {
		n, err := a.tar.Read(a.buf)
		for b := a.buf[:n]; len(b) > 0; {
			m, err := unix.Write(fd, b)
			if err != nil && err != unix.EINTR {
				return err
			}
			b = b[max(m, 0):]
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the layer: %w", err)
		}
	}
}

// describeFile sets owner, attributes, mode and times through a descriptor that can write. The order matters: a change of
// owner clears file capabilities and setuid bits.
func describeFile(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	err := xattrs(h, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	if err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return setTimes(fd, accessTime(h), bound(h.ModTime))
}

// describe is the same for everything else, a symbolic link included, through a descriptor of O_PATH.
func describe(fd int, h *tar.Header) error {
	at := procFD(fd)
	if err := unix.Fchownat(fd, "", h.Uid, h.Gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	err := xattrs(h, func(name string, value []byte) error {
		err := unix.Setxattr(at, name, value, 0)
		if err == unix.EPERM && strings.HasPrefix(name, "user.") && kind != unix.S_IFREG && kind != unix.S_IFDIR {
			// Only files and directories have these (xattr(7)).
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if kind != unix.S_IFLNK {
		if err := unix.Chmod(at, uint32(h.Mode&0o7777)); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
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

func isDir(dir int, base string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
