// Package probe chooses the backend that this machine's OpenZFS takes.
package probe

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/cli"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/ioctl"
)

// Open opens the backend "ioctl" or "cli"; with "auto" ioctl where the loaded module's version is known, else cli.
func Open(ctx context.Context, name string) (zfs.Backend, error) {
	switch name {
	case "ioctl":
		return openIoctl()
	case "cli":
		return openCLI(ctx)
	case "auto":
		b, err := openIoctl()
		if err == nil {
			return b, nil
		}
		c, cliErr := openCLI(ctx)
		if cliErr != nil {
			return nil, fmt.Errorf("no backend works: %w", errors.Join(err, cliErr))
		}
		return c, nil
	}
	return nil, fmt.Errorf("backend %q: want auto, ioctl or cli: %w", name, errdefs.ErrInvalidArgument)
}

// The two keep a nil pointer from becoming an interface that is not nil.
func openIoctl() (zfs.Backend, error) {
	b, err := ioctl.New()
	if err != nil {
		return nil, fmt.Errorf("backend ioctl: %w", err)
	}
	return b, nil
}

func openCLI(ctx context.Context) (zfs.Backend, error) {
	b, err := cli.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("backend cli: %w", err)
	}
	return b, nil
}
