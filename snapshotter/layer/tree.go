package layer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is a directory that is written to. Paths are relative to it and clean, "" is the tree itself.
type tree struct {
	root int
	// dirs caches directories by the path they were asked for under, for as long as nothing is removed.
	dirs  map[string]*directory
	stale bool
}

// directory is an open directory (O_PATH).
type directory struct {
	fd int
	// path has no symbolic link in it.
	path string
}

const (
	// maxDirs bounds the descriptors that the cache holds.
	maxDirs = 64
	// maxLinks is that of containerd; Linux stops at 40.
	maxLinks = 255
)

func newTree(root *os.File) *tree {
	return &tree{root: int(root.Fd()), dirs: map[string]*directory{}}
}

// begin is called before an entry: the directories that were open for the one before may be closed.
func (t *tree) begin() {
	if t.stale || len(t.dirs) >= maxDirs {
		t.close()
	}
}

// close closes the directories of the cache.
func (t *tree) close() {
	for _, d := range t.dirs {
		unix.Close(d.fd)
	}
	clear(t.dirs)
	t.stale = false
}

// open opens what a path without symbolic links names: its last component may be one, and is not followed.
func (t *tree) open(name string, flags uint64) (int, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(t.root, name, &how)
		// EAGAIN: something was renamed meanwhile.
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// parent gives the directory that an entry lies in. What is missing of it is made, mode 0755, as a layer need not have
// entries for its directories.
func (t *tree) parent(name string) (*directory, error) {
	if d, ok := t.dirs[name]; ok {
		return d, nil
	}
	d := &directory{path: name}
	var err error
	if d.fd, err = t.open(name, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		if d.path, err = t.resolve(name); err != nil {
			return nil, err
		}
		if d.fd, err = t.make(d.path); err != nil {
			return nil, err
		}
	}
	t.dirs[name] = d
	return d, nil
}

// make opens a directory and makes it and those above where they are missing.
func (t *tree) make(name string) (int, error) {
	fd, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != unix.ENOENT || name == "" {
		return fd, err
	}
	above, err := t.make(parentOf(name))
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	base := path.Base(name)
	if err := unix.Mkdirat(above, base, 0o755); err != nil && err != unix.EEXIST {
		return -1, err
	}
	// Whatever the umask is.
	if err := unix.Fchmodat(above, base, 0o755, 0); err != nil {
		return -1, err
	}
	return t.open(name, unix.O_PATH|unix.O_DIRECTORY)
}

var errLinks = errors.New("too many symbolic links")

// resolve follows the symbolic links in a path, all components included, as the kernel would if the tree were "/". What is
// no directory is taken for one, which it may become.
func (t *tree) resolve(name string) (string, error) {
	rest := strings.Split(name, "/")
	at, links := "", 0
	for len(rest) > 0 {
		c := rest[0]
		rest = rest[1:]
		next := clean(at + "/" + c)
		target, err := t.readlink(next)
		if err != nil {
			return "", err
		}
		if target == "" {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", errLinks
		}
		if strings.HasPrefix(target, "/") {
			at = ""
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}

// readlink gives the target of a symbolic link, and "" for everything else, what does not exist included.
func (t *tree) readlink(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	fd, err := t.open(name, unix.O_PATH)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// remove removes a directory's entry and all below it. Nothing there is no error.
func (t *tree) remove(d *directory, base string) error {
	err := unix.Unlinkat(d.fd, base, 0)
	if err == unix.ENOENT {
		return nil
	}
	// Directories of the cache may have lain below it, or behind the link that it was.
	t.stale = true
	if err != unix.EISDIR {
		return err
	}
	r, err := os.OpenRoot(procFD(d.fd))
	if err != nil {
		return err
	}
	defer r.Close()
	return r.RemoveAll(base)
}

// clean gives the path below the root that "/" + name means, without a leading slash.
func clean(name string) string { return path.Clean("/" + name)[1:] }

func parentOf(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ""
	}
	return name[:i]
}

// procFD is a path for what a descriptor is open on, of calls that take no descriptor of O_PATH.
func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// entryError says which entry of the layer failed.
func entryError(name string, err error) error { return fmt.Errorf("entry %q: %w", name, err) }
