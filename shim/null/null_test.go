package null

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDevice(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a mount is made")
	}
	before, err := os.Stat(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.WriteString("gone"); n != 4 || err != nil {
		t.Errorf("written: %d, %v", n, err)
	}
	if n, _ := f.Read(make([]byte, 1)); n != 0 {
		t.Error("something was read")
	}
	mode := uint32(before.Mode().Perm()) // the same: nothing is spoilt where the test fails
	fd := int(f.Fd())
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	for what, change := range map[string]func() error{
		"fchmod": func() error { return unix.Fchmod(fd, mode) },
		"chmod":  func() error { return unix.Chmod(path, mode) },
		"fchown": func() error { return unix.Fchown(fd, 0, 0) },
		"utimes": func() error { return unix.UtimesNano(path, make([]unix.Timespec, 2)) },
	} {
		if err := change(); err != unix.EROFS {
			t.Errorf("%s: %v, want %v", what, err, unix.EROFS)
		}
	}
}
