package seccomp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// store keeps frames as files named by their keys. Who may write there decides
// what containers may do, so it is used only as a directory of root's that nobody
// else can enter.
//
// It keeps the frames that were used last: whoever may make containers may make up a
// profile for each, and the directory is memory of the host's.
type store struct{ dir string }

// kept is how many frames stay. A node has a few profiles, of some kilobytes each.
const kept = 64

// load returns nil for a frame that is not there or not whole.
func (s store) load(key string) *Filter {
	root, err := s.open()
	if err != nil {
		return nil
	}
	defer root.Close()
	file, err := root.OpenFile(key, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, int64(MaxFrame)+1))
	if err != nil {
		return nil
	}
	filter, err := Decode(data)
	if err != nil {
		return nil
	}
	now := time.Now()
	_ = root.Chtimes(key, now, now) // its use, for prune
	return filter
}

// save writes a frame so that others see all of it or nothing.
func (s store) save(key string, frame []byte) error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	root, err := s.open()
	if err != nil {
		return err
	}
	defer root.Close()
	temporary := fmt.Sprintf("%s.%d", key, os.Getpid())
	file, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		// A process with our number died here.
		_ = root.Remove(temporary)
		file, err = root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return err
	}
	_, err = file.Write(frame)
	if err = errors.Join(err, file.Close()); err == nil {
		err = root.Rename(temporary, key)
	}
	if err != nil {
		return errors.Join(err, root.Remove(temporary))
	}
	return prune(root)
}

// prune removes all but the files that were used last; those of processes that died
// while they wrote go with them.
func prune(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	infos, err := dir.Readdir(-1)
	if err != nil || len(infos) <= kept {
		return err
	}
	slices.SortFunc(infos, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var errs []error
	for _, info := range infos[kept:] {
		if err := root.Remove(info.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// open opens the directory and sees that it is what it should be.
func (s store) open() (*os.Root, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		root.Close()
		return nil, os.NewSyscallError("fstat", err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		root.Close()
		return nil, fmt.Errorf("%s is not private (owner %d, mode %o)", s.dir, st.Uid, st.Mode&0o777)
	}
	return root, nil
}
