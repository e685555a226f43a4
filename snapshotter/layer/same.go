package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// capability reads the file capabilities of a name, nil when it has none.
func capability(dir int, name string) ([]byte, error) {
	buf := make([]byte, 64)
	for {
		n, err := unix.Lgetxattr(procFD(dir)+"/"+name, xattrCapability, buf)
		switch err {
		case nil:
			return buf[:n], nil
		case unix.ENODATA, unix.ENOTSUP:
			return nil, nil
		case unix.ERANGE:
			buf = make([]byte, 2*len(buf))
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
func openFile(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, errors.Join(err, errors.New("it is no regular file any more"))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// sameContent compares two files of the same size. Files of the same kind that are not regular hold nothing.
func sameContent(lower, upper int, name string) (bool, error) {
	l, err := openFile(lower, name)
	if err != nil {
		return false, err
	}
	defer l.Close()
	u, err := openFile(upper, name)
	if err != nil {
		return false, err
	}
	defer u.Close()
	const size = 128 << 10
	buf := make([]byte, 2*size)
	for {
		n, lerr := io.ReadFull(l, buf[:size])
		m, uerr := io.ReadFull(u, buf[size:])
		if !bytes.Equal(buf[:n], buf[size:size+m]) {
			return false, nil
		}
		if lerr == nil && uerr == nil {
			continue
		}
		for _, err := range []error{lerr, uerr} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		return true, nil
	}
}
