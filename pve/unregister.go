package pve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// Unregister removes what PVE left in the LXC path, and the conf, wherever in the
// cluster PVE moved it. A container that is not registered is success, so it may
// be called again. A conf that is somebody else's stays, with what is in the LXC
// path of its node: ErrForeign. Other errors: ErrBusy, ErrNoQuorum, ErrUnreachable.
func (r *Registrar) Unregister(ctx context.Context, reg Registration) (err error) {
	defer r.observe("unregister", &err)()
	if reg.VMID == 0 {
		return nil
	}
	return r.unregister(ctx, reg, "")
}

// unregister removes a registration; with a digest, only while its conf has it.
func (r *Registrar) unregister(ctx context.Context, reg Registration, digest string) error {
	return r.locked(ctx, "unregister", reg.VMID, func(ctx context.Context) error {
		return r.store.retry(ctx, func() error { return r.takeOut(reg, digest) })
	})
}

func (r *Registrar) takeOut(reg Registration, digest string) error {
	node, data, err := r.locate(reg.VMID)
	err = r.store.explain(err)
	if errors.Is(err, unix.ENOENT) {
		return r.clearOrphaned(reg.VMID)
	}
	if err != nil {
		return err
	}
	if node == r.Node {
		data = r.orMeant(reg.VMID, data)
	}
	if _, err := r.own(reg, data); err != nil {
		if node != r.Node {
			// Its container is on that node; here is what was ours.
			err = errors.Join(err, r.clearOrphaned(reg.VMID))
		}
		return err
	}
	if digest != "" && conf.Digest(data) != digest {
		return &Error{Kind: ErrConflict}
	}
	// The conf goes last: until then nobody is given the VMID, and a crash between the
	// two is found by Reconcile.
	if err := r.clear(reg.VMID); err != nil {
		return err
	}
	return errors.Join(remove(r.store.path(node, reg.VMID)), remove(r.intent(reg.VMID)))
}

// clearOrphaned is clear for a container whose conf is gone: of a container that runs
// under the VMID nothing is taken.
func (r *Registrar) clearOrphaned(vmid VMID) error {
	running, err := r.running()
	if err != nil || running[vmid] {
		return err
	}
	return r.clear(vmid)
}

// clear removes what is left of a container beside its conf: what PVE and we put into
// the LXC path, and the next content of the conf that a crash kept from becoming it.
func (r *Registrar) clear(vmid VMID) error {
	if err := clearDir(r.LXCPath, vmid.String()); err != nil {
		return err
	}
	return remove(r.store.temp(vmid))
}

// locate finds a conf on this node, else where the cluster says it is.
func (r *Registrar) locate(vmid VMID) (node string, data []byte, err error) {
	data, err = r.store.read(r.Node, vmid)
	if r.Local || !errors.Is(err, unix.ENOENT) {
		return r.Node, data, err
	}
	guests, listErr := r.store.guests()
	if listErr != nil {
		return "", nil, listErr
	}
	node, ok := guests[vmid]
	if !ok || !nodeName.MatchString(node) {
		return "", nil, err
	}
	data, err = r.store.read(node, vmid)
	return node, data, err
}

// maxDepth bounds the directories below an LXC directory. PVE leaves files, and empty
// directories that were mount points.
const maxDepth = 4

// clearDir removes the directory name in path with what is in it. It follows no link,
// enters no mount, and fails with EBUSY where something is mounted: behind a mount
// may lie a container's files.
func clearDir(path, name string) error {
	parent, err := open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := clearAt(parent, name, maxDepth); err != nil {
		return fmt.Errorf("remove %s/%s: %w", path, name, err)
	}
	return nil
}

func clearAt(parent int, name string, depth int) error {
	fd, err := unix.Openat2(parent, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case err == unix.ENOENT:
		return nil
	case err == unix.EXDEV:
		return fmt.Errorf("%s is a mount: %w", name, unix.EBUSY)
	case err == unix.ENOTDIR || err == unix.ELOOP:
		return gone(unix.Unlinkat(parent, name, 0))
	case err != nil:
		return fmt.Errorf("open %s: %w", name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	if depth == 0 {
		return fmt.Errorf("%s is too deep: %w", name, unix.ENOTEMPTY)
	}
	names, err := dir.Readdirnames(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, entry := range names {
		if err := clearAt(fd, entry, depth-1); err != nil {
			return err
		}
	}
	return gone(unix.Unlinkat(parent, name, unix.AT_REMOVEDIR))
}

// gone takes ENOENT for success.
func gone(err error) error {
	if err == unix.ENOENT {
		return nil
	}
	return err
}
