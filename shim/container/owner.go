package container

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// OwnerOf is the user namespace that owns a namespace (ioctl_ns(2)); nil when that is the host's.
func OwnerOf(path string) (*os.File, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	defer ns.Close()
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("find the owner of namespace %s: %w", path, err)
	}
	owner := os.NewFile(uintptr(fd), "user namespace of "+path)
	info, err1 := owner.Stat()
	own, err2 := os.Stat("/proc/self/ns/user")
	if err := errors.Join(err1, err2); err != nil {
		_ = owner.Close()
		return nil, fmt.Errorf("find the owner of namespace %s: %w", path, err)
	}
	if os.SameFile(info, own) {
		_ = owner.Close()
		return nil, nil
	}
	return owner, nil
}

// CheckUnprivileged refuses a container or a pod that is to be in a user namespace of the node's choice while its network namespace
// was made outside of any: the root of the one has no right to enter the other, nor to mount its /sys. containerd's CRI makes that of a
// pod so, unless the pod itself asks for a user namespace.
func CheckUnprivileged(spec *specs.Spec) error {
	if spec.Linux == nil {
		return nil
	}
	network := ""
	for _, ns := range spec.Linux.Namespaces {
		switch ns.Type {
		case specs.UserNamespace:
			return nil
		case specs.NetworkNamespace:
			network = ns.Path
		}
	}
	if network == "" {
		return nil
	}
	owner, err := OwnerOf(network)
	if owner != nil {
		return owner.Close()
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("unprivileged = true: network namespace %s belongs to the host's root, and the container's may not enter it: %w (hint: hostUsers: false in the pod, which needs no option)",
		network, errdefs.ErrFailedPrecondition)
}
