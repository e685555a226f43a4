package bootstrap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const scheme = "unix://"

// socket is the path of a shim's socket.
type socket string

// socketFor names the socket of a group by a hash, as containerd's own shims do; the runtime's name keeps us off theirs. dir must be
// short: the kernel takes 107 bytes.
func socketFor(dir, containerd, namespace, group string) (socket, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("socket directory %q is not absolute: %w", dir, errdefs.ErrInvalidArgument)
	}
	name := sha256.Sum256([]byte(filepath.Join(containerd, namespace, Runtime) + "/" + group))
	path := filepath.Join(dir, fmt.Sprintf("%x", name))
	if limit := len(unix.RawSockaddrUnix{}.Path) - 1; len(path) > limit {
		return "", fmt.Errorf("socket path %s is longer than %d bytes: %w (hint: shorten socket_dir in containerd's config)", path, limit,
			errdefs.ErrInvalidArgument)
	}
	return socket(path), nil
}

// parseAddress is the inverse of address.
func parseAddress(address string) (socket, bool) {
	path, ok := strings.CutPrefix(address, scheme)
	return socket(path), ok && filepath.IsAbs(path)
}

func (s socket) path() string    { return string(s) }
func (s socket) address() string { return scheme + string(s) }
func (s socket) remove()         { _ = os.Remove(string(s)) }

// lock keeps other starts and deletes off the sockets of the directory: two of them must not both find a dead socket, or one remove
// what the other has just made. The directory itself is locked, so no lock file is left behind.
func (s socket) lock() (unlock func(), err error) {
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
func (s socket) listen() (*os.File, error) {
	if err := os.Remove(string(s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove dead socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: string(s), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("create shim socket: %w", err)
	}
	listener.SetUnlinkOnClose(false) // the spawned shim goes on listening
	defer listener.Close()
	if err := os.Chmod(string(s), 0o600); err != nil {
		s.remove()
		return nil, fmt.Errorf("create shim socket: %w", err)
	}
	file, err := listener.File()
	if err != nil {
		s.remove()
		return nil, fmt.Errorf("create shim socket: %w", err)
	}
	return file, nil
}
