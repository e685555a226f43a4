package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/log"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	// whiteoutOpaque hides what lower layers have in its directory.
	whiteoutOpaque = ".wh..wh..opq"
	// xattrPrefix is that of PAX records that are extended attributes.
	xattrPrefix     = "SCHILY.xattr."
	xattrCapability = "security.capability"
)

// ErrInvalid is a layer that no tool writes, or one that means harm.
var ErrInvalid = errors.New("invalid layer")

// Apply unpacks a layer, an uncompressed tar, onto the tree below root. It gives the number of entries that were
// applied. Reads end with the end of the archive: what follows it is the caller's to read.
func Apply(ctx context.Context, root *os.File, r io.Reader) (int, error) {
	t := newTree(root)
	defer t.close()
	f := newFiller()
	defer f.close()
	a := applier{tree: t, filler: f, tar: tar.NewReader(r), unpacked: map[string]struct{}{}, opaque: map[string]struct{}{}, noDevices: userns.RunningInUserNS()}
	for {
		if err := ctx.Err(); err != nil {
			return a.entries, err
		}
		h, err := a.tar.Next()
		if err == io.EOF {
			if err := f.wait(); err != nil {
				return a.entries, err
			}
			return a.entries, a.finish()
		}
		if err != nil {
			return a.entries, fmt.Errorf("read the layer: %w", err)
		}
		if err := a.apply(ctx, h); err != nil {
			return a.entries, entryError(h.Name, err)
		}
		if err := f.failed(); err != nil {
			return a.entries, err
		}
	}
}

// applier is one Apply.
type applier struct {
	*tree
	filler  *filler
	tar     *tar.Reader
	entries int
	// unpacked are the paths that the layer had entries for.
	unpacked map[string]struct{}
	// opaque are the directories whose marker was seen.
	opaque map[string]struct{}
	// dirs get their times at the end, when nothing is made in them any more.
	dirs      []times
	noDevices bool
	buf       []byte
}

// times are those of one directory.
type times struct {
	path         string
	atime, mtime time.Time
}

func (a *applier) apply(ctx context.Context, h *tar.Header) error {
	if a.noDevices && (h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeChar) {
		log.G(ctx).WithField("entry", h.Name).Warn("a device node is left out: this is a user namespace")
		return nil
	}
	name := clean(h.Name)
	if name == "" {
		return nil
	}
	a.begin()
	base := path.Base(name)
	d, err := a.parent(parentOf(name))
	if err != nil {
		return err
	}
	if rest, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return a.whiteout(d, base, rest)
	}
	if err := a.create(d, base, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		a.dirs = append(a.dirs, times{name, accessTime(h), bound(h.ModTime)})
	}
	a.unpacked[join(d.path, base)] = struct{}{}
	a.entries++
	return nil
}

// whiteout removes what a marker hides.
func (a *applier) whiteout(d *directory, base, hidden string) error {
	if base != whiteoutOpaque {
		if hidden == "" || hidden == "." || hidden == ".." {
			return fmt.Errorf("it hides no name: %w", ErrInvalid)
		}
		return a.remove(d, hidden)
	}
	if _, done := a.opaque[d.path]; done {
		return nil
	}
	a.opaque[d.path] = struct{}{}
	return a.empty(d)
}

// empty removes what is in a directory and below, unless the layer had an entry for it.
func (a *applier) empty(d *directory) error {
	names, err := readNames(d.fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		at := join(d.path, n)
		if _, ours := a.unpacked[at]; !ours {
			if err := a.remove(d, n); err != nil {
				return err
			}
			continue
		}
		fd, err := unix.Openat(d.fd, n, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOTDIR {
			continue
		}
		if err != nil {
			return err
		}
		err = a.empty(&directory{fd: fd, path: at})
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// finish sets the times of directories.
func (a *applier) finish() error {
	for _, d := range a.dirs {
		if err := a.finishDir(d); err != nil {
			return entryError(d.path, err)
		}
	}
	return nil
}

func (a *applier) finishDir(d times) error {
	fd, err := a.open(d.path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		// Replaced by something else, or behind a link.
		at, err := a.resolve(d.path)
		if err != nil {
			return err
		}
		if fd, err = a.open(at, unix.O_PATH); err != nil {
			return err
		}
	}
	defer unix.Close(fd)
	return setTimes(fd, d.atime, d.mtime)
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}
