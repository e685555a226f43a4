package mounttree

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A tree is in build's mount namespace, and never in the test's.
func TestApart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	source, target := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := Clone(source, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for range 20 { // enough to meet the main thread
		copied, err := Apart(target, []*os.File{tree}, func() (*os.File, error) {
			if _, err := os.Stat(filepath.Join(target, "file")); err != nil {
				t.Errorf("the tree is not attached: %v", err)
			}
			return Clone(target, false)
		})
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(int(copied.Fd()), "file", &st, 0); err != nil {
			t.Errorf("the result outlives its namespace: %v", err)
		}
		copied.Close()
		if _, err := os.Stat(filepath.Join(target, "file")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the tree is attached in the host's namespace: %v", err)
		}
		if tree, err = Clone(source, false); err != nil {
			t.Fatal(err)
		}
	}
}
