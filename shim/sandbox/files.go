package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/mounttree"
	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/layout"
)

// shmSize is the size of a pod's /dev/shm in bytes, containerd's.
const shmSize = 64 << 20

// files are those that the containers of a pod share, in a directory of the sandbox's own.
type files struct {
	dir string
	// uid and gid are those of the pod's root on the host, where that is not the host's own; else -1.
	uid, gid int
}

func filesOf(dir string, ids *oci2lxc.IDMap) files {
	f := files{dir: dir, uid: -1, gid: -1}
	if ids != nil {
		f.uid, f.gid = int(hostRoot(ids.UIDs)), int(hostRoot(ids.GIDs))
	}
	return f
}

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

// make makes the directory and all that is in it.
func (f files) make(p *Pod) error {
	if err := os.MkdirAll(filepath.Dir(f.dir), 0o711); err != nil {
		return fmt.Errorf("make the sandbox's directory: %w", err)
	}
	if err := os.Mkdir(f.dir, 0o711); err != nil {
		return fmt.Errorf("make the sandbox's directory: %w", err)
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return fmt.Errorf("copy the host's file of host names: %w", err)
	}
	resolv, err := p.resolvConf()
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		text []byte
	}{{"hosts", hosts}, {"resolv.conf", resolv}, {"hostname", []byte(p.hostname() + "\n")}} {
		if err := f.write(file.name, file.text); err != nil {
			return err
		}
	}
	if p.IPC == NamespaceNode {
		return nil
	}
	return f.mountShm()
}

func (f files) write(name string, text []byte) error {
	if err := os.WriteFile(f.path(name), text, 0o644); err != nil { //nolint:gosec // every user of the pod reads it
		return fmt.Errorf("write the sandbox's %s: %w", name, err)
	}
	if err := os.Chown(f.path(name), f.uid, f.gid); err != nil {
		return fmt.Errorf("give the sandbox's %s to the pod: %w", name, err)
	}
	return nil
}

// resolvConf is the text of resolv.conf(5).
func (p *Pod) resolvConf() ([]byte, error) {
	if p.DNS == nil {
		text, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			return nil, fmt.Errorf("copy the host's resolv.conf: %w", err)
		}
		return text, nil
	}
	var b strings.Builder
	if len(p.DNS.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(p.DNS.Searches, " "))
	}
	for _, server := range p.DNS.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(p.DNS.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(p.DNS.Options, " "))
	}
	return []byte(b.String()), nil
}

func (f files) mountShm() error {
	if err := os.Mkdir(f.path("shm"), 0o700); err != nil {
		return fmt.Errorf("make the pod's /dev/shm: %w", err)
	}
	params := []mounttree.Param{{Key: "mode", Value: "1777"}, {Key: "size", Value: strconv.Itoa(shmSize)}}
	if f.uid >= 0 {
		params = append(params, mounttree.Param{Key: "uid", Value: strconv.Itoa(f.uid)}, mounttree.Param{Key: "gid", Value: strconv.Itoa(f.gid)})
	}
	tree, err := mounttree.New("tmpfs", "shm", params, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fmt.Errorf("make the pod's /dev/shm: %w", err)
	}
	defer tree.Close()
	if err := mounttree.Attach(tree, f.path("shm")); err != nil {
		return fmt.Errorf("make the pod's /dev/shm: %w", err)
	}
	return nil
}

// remove takes all of it away. It may be repeated.
func (f files) remove() error {
	for {
		err := unix.Unmount(f.path("shm"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // nothing is mounted there
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("unmount the pod's /dev/shm: %w", err)
		}
	}
	if err := os.RemoveAll(f.dir); err != nil {
		return fmt.Errorf("remove the sandbox's directory: %w", err)
	}
	// The directories above go with the last sandbox, and not before.
	_ = os.Remove(filepath.Dir(f.dir))
	_ = os.Remove(filepath.Dir(filepath.Dir(f.dir)))
	return nil
}

// Cleanup takes away what is left of a sandbox whose shim is gone; its namespaces have gone with it. It may be repeated, and does
// nothing where there was no sandbox.
func Cleanup(_ context.Context, root, namespace, id string) error {
	if err := (files{dir: layout.Sandbox(root, namespace, id)}).remove(); err != nil {
		return fmt.Errorf("clean up sandbox %s: %w", id, err)
	}
	return nil
}
