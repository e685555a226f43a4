package pve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// store is the files of the cluster file system, or of a directory like it. Its
// methods return bare errors of the system; their callers say what for.
type store struct {
	root, node string
	local      bool // a plain directory: nothing is mounted at root
}

func (s store) dir(node string) string { return filepath.Join(s.root, "nodes", node, "lxc") }

func (s store) path(node string, vmid VMID) string {
	return filepath.Join(s.dir(node), vmid.String()+".conf")
}

// temp is where a conf's next content is written. One name for each VMID is
// enough under its lock, and a leftover is found again.
func (s store) temp(vmid VMID) string { return s.path(s.node, vmid) + tempSuffix }

const tempSuffix = ".tmp.pvelxc"

// quorate asks as PVE does: without quorum pmxcfs takes the write permissions of
// everything away, links included.
func (s store) quorate() bool {
	info, err := os.Lstat(filepath.Join(s.root, "local"))
	return err == nil && info.Mode()&0o200 != 0
}

// retry runs f again while pmxcfs is restarting, until ctx ends: it returns before that,
// to say why. f must be idempotent.
func (s store) retry(ctx context.Context, f func() error) error {
	deadline, bounded := ctx.Deadline()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := s.explain(f())
		if !isGone(err) || bounded && time.Now().Add(pause).After(deadline) || !sleep(ctx, pause) {
			return err
		}
	}
}

// explain tells a missing file from a missing file system: while pmxcfs is stopped
// its mount point is an empty directory, which must not pass for "no such conf".
func (s store) explain(err error) error {
	if s.local || !errors.Is(err, unix.ENOENT) {
		return err
	}
	if _, missing := os.Lstat(filepath.Join(s.root, "local")); missing != nil {
		return fmt.Errorf("%s is not mounted: %w", s.root, unix.ENOTCONN)
	}
	return err
}

// sleep reports whether ctx outlived d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// create makes an empty conf that is nowhere in the cluster yet, and opens it. It
// fails with EEXIST where the VMID is taken, by a virtual machine or on another node
// too.
func (s store) create(vmid VMID) (fd int, err error) {
	return open(s.path(s.node, vmid), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o640)
}

// replace writes a conf's new content beside it; commit is asked for leave before
// the one becomes the other.
func (s store) replace(vmid VMID, data []byte, commit func() error) error {
	temp := s.temp(vmid)
	fd, err := open(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	if err := finish(temp, fd, data, true); err != nil {
		return errors.Join(err, remove(temp))
	}
	if err := commit(); err != nil {
		return errors.Join(err, remove(temp))
	}
	if err := ignoreEINTR(func() error { return unix.Rename(temp, s.path(s.node, vmid)) }); err != nil {
		return errors.Join(&os.PathError{Op: "rename", Path: temp, Err: err}, remove(temp))
	}
	return nil
}

// finish writes data with one call and closes fd. sync is for a rename that follows: on
// a plain file system the new name must not come to disk before the content.
func finish(path string, fd int, data []byte, sync bool) error {
	var n int
	err := ignoreEINTR(func() (err error) { n, err = unix.Write(fd, data); return err })
	if err == nil && n < len(data) {
		err = unix.ENOSPC
	}
	if err == nil && sync {
		err = ignoreEINTR(func() error { return unix.Fdatasync(fd) })
	}
	// FUSE reports late errors here. The descriptor is gone whatever close says.
	if closed := unix.Close(fd); err == nil && !errors.Is(closed, unix.EINTR) {
		err = closed
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// read reads a conf of any node.
func (s store) read(node string, vmid VMID) ([]byte, error) {
	return readFile(unix.AT_FDCWD, s.path(node, vmid), make([]byte, 4096))
}

// readFile reads into buf as far as it goes: one read for a usual conf, and no
// stat. On FUSE each step is a round trip, and a node may have a thousand confs.
func readFile(dir int, path string, buf []byte) ([]byte, error) {
	fd, err := openAt(dir, path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	used := 0
	for {
		var n int
		if err := ignoreEINTR(func() (err error) { n, err = unix.Read(fd, buf[used:]); return err }); err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		used += n
		if n == 0 || used < len(buf) {
			return buf[:used:used], nil // a short read of a regular file is its end
		}
		if used > conf.MaxSize {
			return nil, &os.PathError{Op: "read", Path: path, Err: unix.EFBIG}
		}
		buf = append(buf, make([]byte, len(buf))...)
	}
}

func open(path string, flags int, mode uint32) (fd int, err error) {
	return openAt(unix.AT_FDCWD, path, flags, mode)
}

func openAt(dir int, path string, flags int, mode uint32) (fd int, err error) {
	err = ignoreEINTR(func() (err error) {
		fd, err = unix.Openat(dir, path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// remove unlinks path; its absence is success.
func remove(path string) error {
	if err := ignoreEINTR(func() error { return unix.Unlink(path) }); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

func ignoreEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// guests reads .vmlist: the node of every guest in the cluster. A directory has none;
// there the names in the only node's directory are all.
func (s store) guests() (map[VMID]string, error) {
	data, err := os.ReadFile(filepath.Join(s.root, ".vmlist"))
	if errors.Is(err, os.ErrNotExist) {
		return s.guestsOf(s.node)
	}
	if err != nil {
		return nil, err
	}
	var list struct {
		IDs map[string]struct {
			Node string `json:"node"`
		} `json:"ids"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read .vmlist: %w", err)
	}
	guests := make(map[VMID]string, len(list.IDs))
	for id, guest := range list.IDs {
		if vmid, err := ParseVMID(id); err == nil {
			guests[vmid] = guest.Node
		}
	}
	return guests, nil
}

func (s store) guestsOf(node string) (map[VMID]string, error) {
	names, _, err := s.names(node)
	if err != nil {
		return nil, err
	}
	guests := make(map[VMID]string, len(names))
	for _, vmid := range names {
		guests[vmid] = node
	}
	return guests, nil
}

// names lists the confs of a node, and those of which a next content lies about.
func (s store) names(node string) (confs, temps []VMID, err error) {
	dir, err := os.Open(s.dir(node))
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if vmid, ok := cutVMID(name, ".conf"); ok {
			confs = append(confs, vmid)
		} else if vmid, ok := cutVMID(name, ".conf"+tempSuffix); ok {
			temps = append(temps, vmid)
		}
	}
	return confs, temps, nil
}

// nodes lists the cluster's nodes.
func (s store) nodes() ([]string, error) {
	dir, err := os.Open(filepath.Join(s.root, "nodes"))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}
