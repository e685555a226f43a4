package mounttree

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Apart runs build where the detached trees are attached, in a mount namespace that
// lasts no longer than the call: before Linux 6.15 a filesystem made of others, such
// as overlay, takes only mounts of its maker's namespace (clone_private_mount in
// fs/namespace.c). Nobody else sees them, and a crash leaves nothing. They are piled
// up on the directory dir, so build reaches them by descriptor (/proc/self/fd/N)
// alone; what it returns must be detached. It must leave no goroutine behind.
func Apart(dir string, trees []*os.File, build func() (*os.File, error)) (tree *os.File, err error) {
	onOwnThread(func() {
		if err = attachApart(dir, trees); err == nil {
			tree, err = build()
		}
	})
	return tree, err
}

func attachApart(dir string, trees []*os.File) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	// The host's mounts are still peers of their copies here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts of a new namespace private: %w", err)
	}
	for _, tree := range trees {
		if err := Attach(tree, dir); err != nil {
			return err
		}
	}
	return nil
}

// onOwnThread runs work on a thread that ends with it, so that work may change what a
// thread cannot change back.
func onOwnThread(work func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread would not end. Held here, it leaves the work to another.
			defer runtime.UnlockOSThread()
			onOwnThread(work)
			return
		}
		work()
	}()
	<-done
}
