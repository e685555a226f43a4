package layer

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// capability reads the file capabilities of a name, nil when it has none.
func capability(dir int, name string) ([]byte, error) {
	at := procFD(dir) + "/" + name
	return xattr(func(buf []byte) (int, error) { return unix.Lgetxattr(at, xattrCapability, buf) })
}

// capabilityOf reads those of an open file.
func capabilityOf(fd int) ([]byte, error) {
	return xattr(func(buf []byte) (int, error) { return unix.Fgetxattr(fd, xattrCapability, buf) })
}

func xattr(get func([]byte) (int, error)) ([]byte, error) {
	for size := 64; ; size *= 2 {
		buf := make([]byte, size)
		n, err := get(buf)
		switch err {
		case nil:
			return buf[:n], nil
		case unix.ENODATA, unix.ENOTSUP:
			return nil, nil
		case unix.ERANGE:
			continue
		}
		return nil, fmt.Errorf("read %s: %w", xattrCapability, err)
	}
}

func sameCapability(lower, upper int, name string) (bool, error) {
	l, err := capability(lower, name)
	if err != nil {
		return false, err
	}
	u, err := capability(upper, name)
	return err == nil && bytes.Equal(l, u), err
}

func target(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", fmt.Errorf("read the link: %w", err)
	}
	return string(buf[:n]), nil
}

func sameTarget(lower, upper int, name string) (bool, error) {
	l, err := target(lower, name)
	if err != nil {
		return false, err
	}
	u, err := target(upper, name)
	return err == nil && l == u, err
}

// openFile opens a regular file for reading. What was one and is something else now, a FIFO or a link, is an error and
// neither followed nor waited for.
func openFile(dir int, name string) (int, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, errors.Join(err, errors.New("it is no regular file any more"))
	}
	return fd, nil
}

// readFull reads until buf is full or the file ends, which is no error.
func readFull(fd int, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

// sameFile compares capabilities and content of two regular files of the same size, with the help of a buffer.
func sameFile(lower, upper int, name string, size int64, buf []byte) (bool, error) {
	l, err := openFile(lower, name)
	if err != nil {
		return false, err
	}
	defer unix.Close(l)
	u, err := openFile(upper, name)
	if err != nil {
		return false, err
	}
	defer unix.Close(u)
	lc, err := capabilityOf(l)
	if err != nil {
		return false, err
	}
	uc, err := capabilityOf(u)
	if err != nil || !bytes.Equal(lc, uc) {
		return false, err
	}
	half := int64(len(buf) / 2)
	for left := size; left > 0; left -= half {
		part := min(left, half)
		n, err := readFull(l, buf[:part])
		if err != nil {
			return false, err
		}
		m, err := readFull(u, buf[half:half+part])
		if err != nil {
			return false, err
		}
		// One that got shorter meanwhile is not the same.
		if int64(n) != part || !bytes.Equal(buf[:n], buf[half:half+int64(m)]) {
			return false, nil
		}
	}
	return true, nil
}
