package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// writer makes the tar of a comparison: what containerd's archive.ChangeWriter makes of the same changes.
type writer struct {
	tar    *tar.Writer
	root   int
	newest *time.Time
	// source is the first name written of a file with several, by inode; waiting are names, not written, of those
	// of which no name was, as they are unchanged.
	source  map[uint64]string
	waiting map[uint64][]string
	// written are the directories that have an entry.
	written map[string]struct{}
	buf     []byte
}

func newWriter(w io.Writer, root int, newest *time.Time) *writer {
	return &writer{
		tar: tar.NewWriter(w), root: root, newest: newest, source: map[uint64]string{}, waiting: map[uint64][]string{},
		written: map[string]struct{}{}, buf: make([]byte, 256<<10),
	}
}

func (w *writer) close() error {
	if err := w.tar.Close(); err != nil {
		return fmt.Errorf("write the layer: %w", err)
	}
	return nil
}

// deleted writes a whiteout.
func (w *writer) deleted(at string) error {
	epoch := time.Unix(0, 0).UTC()
	return w.put(at, &tar.Header{
		Typeflag: tar.TypeReg, Name: join(parentOf(at), whiteoutPrefix+path.Base(at)), ModTime: epoch, AccessTime: epoch, ChangeTime: epoch,
	})
}

// changed writes an entry for a name that is new or different. With unchanged, it is one of several names of a file, which
// is written as a link when another of them is written, now or later.
func (w *writer) changed(dir int, n *node, above string, unchanged bool) error {
	at := join(above, n.name)
	h, err := w.header(dir, n, at)
	if err != nil {
		return fmt.Errorf("/%s: %w", at, err)
	}
	if h == nil {
		return nil
	}
	var others []string
	if n.linked() {
		if source, ok := w.source[n.stat.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, source, 0
		} else {
			if unchanged {
				w.waiting[n.stat.Ino] = append(w.waiting[n.stat.Ino], at)
				return nil
			}
			w.source[n.stat.Ino] = at
			others = w.waiting[n.stat.Ino]
			delete(w.waiting, n.stat.Ino)
		}
	}
	if err := w.entry(dir, n.name, at, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg && h.Size > 0 {
		if err := w.content(dir, n.name, h.Size); err != nil {
			return fmt.Errorf("/%s: %w", at, err)
		}
	}
	for _, other := range others {
		h.Name, h.Typeflag, h.Linkname, h.Size = other, tar.TypeLink, at, 0
		if err := w.put(other, h); err != nil {
			return err
		}
	}
	return nil
}

// entry adds what has to be read from the file, and writes a header.
func (w *writer) entry(dir int, name, at string, h *tar.Header) error {
	c, err := capability(dir, name)
	if err != nil {
		return fmt.Errorf("/%s: %w", at, err)
	}
	if len(c) > 0 {
		h.PAXRecords = map[string]string{xattrPrefix + xattrCapability: string(c)}
	}
	return w.put(at, h)
}

// put writes a header, after those of the directories above it.
func (w *writer) put(at string, h *tar.Header) error {
	if err := w.parents(parentOf(at)); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		w.written[at] = struct{}{}
	}
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write the layer: /%s: %w", at, err)
	}
	return nil
}

func (w *writer) parents(at string) error {
	if at == "" {
		return nil
	}
	if _, done := w.written[at]; done {
		return nil
	}
	w.written[at] = struct{}{}
	if err := w.parents(parentOf(at)); err != nil {
		return err
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(w.root, at, &how)
	if err != nil {
		return fmt.Errorf("open the upper /%s: %w", at, err)
	}
	defer unix.Close(fd)
	n := node{name: path.Base(at)}
	if err := unix.Fstat(fd, &n.stat); err != nil {
		return fmt.Errorf("/%s: %w", at, err)
	}
	h, err := w.header(fd, &n, at)
	if err != nil {
		return fmt.Errorf("/%s: %w", at, err)
	}
	return w.entry(fd, ".", at, h)
}

// header describes a file; nil for a socket, which no layer has.
func (w *writer) header(dir int, n *node, at string) (*tar.Header, error) {
	st := &n.stat
	h := &tar.Header{
		Name: at, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), Format: tar.FormatPAX,
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, at+"/"
	case unix.S_IFLNK:
		to, err := target(dir, n.name)
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, to
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFSOCK:
		return nil, nil
	default:
		return nil, fmt.Errorf("a file of unknown kind, mode %#o", st.Mode)
	}
	if w.newest != nil && h.ModTime.After(*w.newest) {
		h.ModTime = *w.newest
	}
	h.ModTime = h.ModTime.Truncate(time.Second)
	return h, nil
}

// content writes a file's. One that grows meanwhile is cut.
func (w *writer) content(dir int, name string, size int64) error {
	fd, err := openFile(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for left := size; left > 0; {
		n, err := readFull(fd, w.buf[:min(left, int64(len(w.buf)))])
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("it got shorter while it was read (hint: pause the container)")
		}
		left -= int64(n)
		if _, err := w.tar.Write(w.buf[:n]); err != nil {
			return fmt.Errorf("write the layer: %w", err)
		}
	}
	return nil
}
