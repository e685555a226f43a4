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
	"time"

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
	kept(t, func() {
		_, err := layer.Apply(t.Context(), root, bytes.NewReader(pack(t, l)))
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `entry "d/f`) {
			t.Errorf("apply: %v", err)
		}
	})
}

// A layer that ends anywhere leaves no descriptor open.
func TestApplyCutCloses(t *testing.T) {
	needsRoot(t)
	raw := pack(t, []entry{{kind: tar.TypeReg, name: "x", data: strings.Repeat("x", 5000)}, {kind: tar.TypeReg, name: "y", data: strings.Repeat("y", 100_000)}})
	for _, n := range []int{1600, 3000, 10_000, 50_000, len(raw) - 600} {
		root := open(t, t.TempDir())
		kept(t, func() {
			if _, err := layer.Apply(t.Context(), root, bytes.NewReader(raw[:n])); err == nil && n < len(raw)-1024 {
				t.Errorf("%d bytes of a layer are applied", n)
			}
		})
	}
}

// kept sees that there are no more descriptors and goroutines after fn than there were.
func kept(t *testing.T, fn func()) {
	t.Helper()
	fds := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(names)
	}
	before, goroutines := fds(), runtime.NumGoroutine()
	fn()
	if after := fds(); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	// One that was waited for may have a last step to do.
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d goroutines, before %d", runtime.NumGoroutine(), goroutines)
			return
		}
	}
}
