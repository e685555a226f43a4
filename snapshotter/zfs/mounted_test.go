package zfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// On a mount namespace of its own, where nobody else mounts: tmpfs stands for zfs.
func TestMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	dir := t.TempDir()
	result := make(chan error)
	go func() {
		// The thread ends with this goroutine.
		runtime.LockOSThread()
		result <- mounted(dir)
	}()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

func mounted(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	m := &Mounted{list: "/proc/thread-self/mountinfo", fstype: "tmpfs"}
	defer m.Close()
	mount := func(source, name string) error {
		at := dir + "/" + name
		return errors.Join(os.MkdirAll(at, 0o700), unix.Mount(source, at, "tmpfs", 0, "nr_inodes=100"))
	}
	want := func(source string, n uint64, kind error) error {
		got, err := m.Objects(source)
		if got != n || !errors.Is(err, kind) || (err == nil) != (kind == nil) {
			return fmt.Errorf("objects of %s: %d, %v; want %d, %v", source, got, err, n, kind) //nolint:errorlint // nil as a rule
		}
		return nil
	}
	if err := want("pool/a", 0, ErrUnsupported); err != nil {
		return err
	}
	if err := errors.Join(mount("pool/a", "a"), mount("pool/b", "b"), os.WriteFile(dir+"/a/file", nil, 0o600)); err != nil {
		return err
	}
	for range 100 {
		// The root directory is one of them.
		if err := errors.Join(want("pool/a", 2, nil), want("pool/b", 1, nil), want("pool/c", 0, ErrUnsupported)); err != nil {
			return err
		}
	}
	if m.reads != 2 {
		return fmt.Errorf("the list was read %d times for one change", m.reads)
	}
	// Something else lies over it: what is counted is never another's.
	if err := mount("pool/c", "a"); err != nil {
		return err
	}
	if err := errors.Join(want("pool/a", 0, ErrUnsupported), want("pool/c", 1, nil)); err != nil {
		return err
	}
	if err := errors.Join(unix.Unmount(dir+"/a", 0), want("pool/a", 2, nil), want("pool/c", 0, ErrUnsupported)); err != nil {
		return err
	}
	// Each change is seen, whatever else of this process waits for descriptors meanwhile.
	for range 20 {
		if err := errors.Join(mount("pool/d", "d"), want("pool/d", 1, nil), unix.Unmount(dir+"/d", 0)); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
		if err := want("pool/d", 0, ErrUnsupported); err != nil {
			return err
		}
	}
	return errors.Join(unix.Unmount(dir+"/a", 0), unix.Unmount(dir+"/b", 0), want("pool/a", 0, ErrUnsupported))
}
