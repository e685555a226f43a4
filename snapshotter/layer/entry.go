package layer

import (
	"archive/tar"
	"fmt"
	"math"
	"path"

	"golang.org/x/sys/unix"
)

// create makes an entry of the layer, in place of what is there: only a directory stays when it is to be one.
func (a *applier) create(d *directory, base string, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg:
		return a.file(d, base, h)
	case tar.TypeDir:
		mode := uint32(h.Mode & 0o777)
		err := unix.Mkdirat(d.fd, base, mode)
		if err == unix.EEXIST && !isDir(d.fd, base) {
			if err = a.remove(d, base); err == nil {
				err = unix.Mkdirat(d.fd, base, mode)
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
		// What it says of the file comes after what the file's own entry says.
		if err := a.filler.wait(); err != nil {
			return err
		}
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

func isDir(dir int, base string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
