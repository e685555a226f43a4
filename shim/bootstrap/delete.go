package bootstrap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/shim/layout"
)

// delete answers for a container of which nothing is left: containerd runs `delete` after each regular deletion, too. done is false
// when there is something to do, or when it cannot be told.
func (in *Invocation) delete(stdout io.Writer) (done bool, err error) {
	bundle := in.Bundle
	if bundle == "" {
		bundle = "."
	}
	if exists(layout.Home(layout.Root, in.Namespace, in.ID)) || exists(layout.Sandbox(layout.Root, in.Namespace, in.ID)) {
		return false, nil
	}
	// What is mounted where no container is was never taken over by a shim. The call is the test: it changes nothing where nothing is
	// mounted, and only what must be done where something is.
	err = unix.Unmount(filepath.Join(bundle, "rootfs"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	// A shim whose container this was the last of has ended; one of a pod goes on; one that containerd never got to know, because it
	// died, ends now; one that has died itself has left its socket. One that holds a sandbox is told otherwise.
	isSandbox := !exists(filepath.Join(bundle, specFile))
	if socket, ok := ParseAddress(ReadAddress(bundle)); ok && exists(socket.Path()) && (isSandbox || !in.dismiss(socket)) {
		return false, nil
	}
	const killed = 128 + uint32(unix.SIGKILL)
	if _, err := stdout.Write(encodeDeleted(0, killed, time.Now())); err != nil {
		return false, fmt.Errorf("answer: %w", err)
	}
	return true, nil
}

// exists is also true of what cannot be looked at.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}
