// Package conformance is the test that every zfs.Backend passes: Run for the models and for real pools alike.
package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// Run tests b below the file system parent, which exists, has mountpoint "legacy" and no children.
func Run(t *testing.T, b zfs.Backend, parent string) {
	for name, fn := range map[string]func(*testing.T, zfs.Backend, string){
		"Create":       create,
		"Snapshot":     snapshot,
		"Clone":        clone,
		"Rollback":     rollback,
		"Destroy":      destroy,
		"DestroyOrder": destroyOrder,
		"Lists":        lists,
		"Properties":   properties,
		"Objects":      objects,
		"Space":        space,
		"Errors":       failures,
		"Context":      canceled,
		"Parallel":     parallel,
		"Descends":     descends,
	} {
		t.Run(name, func(t *testing.T) {
			ds := parent + "/" + strings.ToLower(name)
			if err := b.Create(t.Context(), ds, nil); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { destroyAll(t, b, ds) })
			fn(t, b, ds)
		})
	}
}

func destroyAll(t *testing.T, b zfs.Backend, root string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	var all []zfs.Info
	var walk func(string)
	walk = func(ds string) {
		snaps, err := b.Snapshots(ctx, ds)
		if err != nil {
			t.Error(err)
		}
		all = append(all, snaps...)
		children, err := b.Children(ctx, ds)
		if err != nil {
			t.Error(err)
		}
		for _, c := range children {
			all = append(all, c)
			walk(c.Name)
		}
	}
	walk(root)
	// Clones after their origins, snapshots after their file systems: so backwards.
	sort.SliceStable(all, func(i, j int) bool { return all[i].CreateTXG > all[j].CreateTXG })
	for range 3 {
		var names []string
		for _, i := range all {
			names = append(names, i.Name)
		}
		failed, err := b.Destroy(ctx, append(names, root))
		if err != nil {
			t.Fatal(err)
		}
		if len(failed) == 0 {
			return
		}
	}
	t.Errorf("objects below %s stay", root)
}

// in mounts a file system or snapshot for the time of fn.
func in(t *testing.T, b zfs.Backend, name string, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	m := b.Mount(name, false)
	c := mount.Mount{Type: m.Type, Source: m.Source, Options: m.Options}
	if err := c.Mount(dir); err != nil {
		t.Fatalf("mount %s: %v", name, err)
	}
	defer func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", name, err)
		}
	}()
	fn(dir)
}

func write(t *testing.T, b zfs.Backend, name, file string, size int) {
	t.Helper()
	in(t, b, name, func(dir string) {
		data := make([]byte, size)
		// Nothing that compression makes smaller.
		_, _ = rand.Read(data)
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

func files(t *testing.T, b zfs.Backend, name string) []string {
	t.Helper()
	l := []string{}
	in(t, b, name, func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			l = append(l, e.Name())
		}
	})
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, what string, err, kind error) {
	t.Helper()
	var e *zfs.Error
	if !errors.As(err, &e) || !errors.Is(err, kind) {
		t.Errorf("%s: error %v, want an *Error of kind %v", what, err, kind)
	}
}
