package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/snapshotter/layer"
)

// Files are filled beside each other, and everything is as if they were not: links to a file just made, names that are taken
// again or away at once, sizes around the one up to which that is done.
func TestApplyMany(t *testing.T) {
	needsRoot(t)
	sizes := []int{0, 1, 511, 4096, 64<<10 - 1, 64 << 10, 64<<10 + 1, 150_000}
	var l []entry
	for i := range 400 {
		name := fmt.Sprintf("a/n%d", i)
		l = append(l, entry{kind: tar.TypeReg, name: name, data: strings.Repeat(fmt.Sprint(i%10), sizes[i%len(sizes)])})
		switch i % 9 {
		case 0:
			l = append(l, entry{kind: tar.TypeLink, name: name + "-link", link: name})
		case 1:
			l = append(l, entry{kind: tar.TypeReg, name: name, data: "again"})
		case 2:
			l = append(l, entry{kind: tar.TypeReg, name: fmt.Sprintf("a/.wh.n%d", i)})
		case 3:
			l = append(l, entry{kind: tar.TypeDir, name: name}, entry{kind: tar.TypeReg, name: name + "/x", data: "below"})
		}
	}
	oracle(t, pack(t, append(l, entry{kind: tar.TypeReg, name: "b/.wh..wh..opq"})))
}

// A layer that does not fit says which entry did not, and leaves no descriptor open.
func TestApplyWithoutSpace(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	must(t, unix.Mount("small", dir, "tmpfs", 0, "size=256k"))
	defer func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	root := open(t, dir)
	var l []entry
	for i := range 200 {
		l = append(l, entry{kind: tar.TypeReg, name: fmt.Sprintf("d/f%d", i), data: strings.Repeat("x", 8000)})
	}
	fds := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(names)
	}
	before, goroutines := fds(), runtime.NumGoroutine()
	_, err := layer.Apply(t.Context(), root, bytes.NewReader(pack(t, l)))
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `entry "d/f`) {
		t.Errorf("apply: %v", err)
	}
	if after := fds(); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	if after := runtime.NumGoroutine(); after > goroutines {
		t.Errorf("%d goroutines, before %d", after, goroutines)
	}
}
