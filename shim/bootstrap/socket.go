package bootstrap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const scheme = "unix://"

// backlog is how many connections wait for a shim that does not serve yet; the kernel lowers it to its own limit.
const backlog = 4096

// Socket is the path of a shim's socket.
type Socket string

// socketFor names the socket of a group by a hash, as containerd's own shims do; the runtime's name keeps us off theirs. dir must be
// short: the kernel takes 107 bytes.
func socketFor(dir, containerd, namespace, group string) (Socket, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("socket directory %q is not absolute: %w", dir, errdefs.ErrInvalidArgument)
	}
	name := sha256.Sum256([]byte(filepath.Join(containerd, namespace, Runtime) + "/" + group))
	path := filepath.Join(dir, fmt.Sprintf("%x", name))
	if limit := len(unix.RawSockaddrUnix{}.Path) - 1; len(path) > limit {
		return "", fmt.Errorf("socket path %s is longer than %d bytes: %w (hint: shorten socket_dir in containerd's config)", path, limit,
			errdefs.ErrInvalidArgument)
	}
	return Socket(path), nil
}

// ParseAddress is the inverse of Address.
func ParseAddress(address string) (Socket, bool) {
	path, ok := strings.CutPrefix(address, scheme)
	return Socket(path), ok && filepath.IsAbs(path)
}

// Path is the socket's place in the filesystem.
func (s Socket) Path() string { return string(s) }

// Address is the path as containerd has it.
func (s Socket) Address() string { return scheme + string(s) }

// Remove takes the name away; who is connected stays connected.
func (s Socket) Remove() { _ = os.Remove(string(s)) }

// Lock keeps other starts and deletes off the sockets of the directory: two of them must not both find a dead socket, or one remove
// what the other has just made. The directory itself is locked, so no lock file is left behind.
func (s Socket) Lock() (unlock func(), err error) {
	path := filepath.Dir(string(s))
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create socket directory: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock socket directory: %w", err)
	}
	for {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { _ = dir.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			_ = dir.Close()
			return nil, fmt.Errorf("lock socket directory %s: %w", path, err)
		}
	}
}

// listen makes the socket, in place of a dead one. The caller holds the lock and has found nobody serving it.
func (s Socket) listen() (*os.File, error) {
	if err := os.Remove(string(s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove dead socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create shim socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), string(s))
	if err := s.bind(fd); err != nil {
		_ = file.Close()
		s.Remove()
		return nil, fmt.Errorf("create shim socket: %w", err)
	}
	return file, nil
}

func (s Socket) bind(fd int) error {
	// The mode of the name is that of the socket, less the umask, so it is never wider.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: string(s)}); err != nil {
		return err
	}
	return unix.Listen(fd, backlog)
}
