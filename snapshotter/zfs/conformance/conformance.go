// Package conformance is the test that every zfs.Backend passes: Run for the models and for real pools alike.
package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/google/go-cmp/cmp"

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

func create(t *testing.T, b zfs.Backend, ds string) {
	must(t, b.Create(t.Context(), ds+"/a", map[string]string{"pvelxc:test": "yes"}))
	i, err := b.Stat(t.Context(), ds+"/a")
	must(t, err)
	if i.Name != ds+"/a" || i.GUID == 0 || i.CreateTXG == 0 || i.Origin != "" || i.Available == 0 {
		t.Errorf("a new file system: %+v", i)
	}
	if d := cmp.Diff("yes", i.Local["pvelxc:test"]); d != "" {
		t.Error(d)
	}
	if i.Mountpoint != "legacy" {
		t.Errorf("mountpoint %q is not inherited", i.Mountpoint)
	}
	if got := files(t, b, ds+"/a"); len(got) != 0 {
		t.Errorf("a new file system has %v", got)
	}
	wantKind(t, "create it again", b.Create(t.Context(), ds+"/a", nil), zfs.ErrExist)
	wantKind(t, "create without a parent", b.Create(t.Context(), ds+"/none/a", nil), zfs.ErrNotExist)
}

func snapshot(t *testing.T, b zfs.Backend, ds string) {
	value := `{"text":"tab\tline\nquote\"","utf8":"ü"}`
	write(t, b, ds, "one", 10)
	must(t, b.Snapshot(t.Context(), ds+"@s", map[string]string{"pvelxc:commit": value, "pvelxc:n": "1"}))
	write(t, b, ds, "two", 10)
	if d := cmp.Diff([]string{"one"}, files(t, b, ds+"@s")); d != "" {
		t.Error(d)
	}
	i, err := b.Stat(t.Context(), ds+"@s")
	must(t, err)
	if d := cmp.Diff(map[string]string{"pvelxc:commit": value, "pvelxc:n": "1"}, i.Local); d != "" {
		t.Errorf("properties of the snapshot (-want +got):\n%s", d)
	}
	in(t, b, ds+"@s", func(dir string) {
		if err := os.WriteFile(dir+"/x", nil, 0o600); err == nil {
			t.Error("a snapshot's mount can be written")
		}
	})
	wantKind(t, "snapshot again", b.Snapshot(t.Context(), ds+"@s", nil), zfs.ErrExist)
	wantKind(t, "snapshot of nothing", b.Snapshot(t.Context(), ds+"/none@s", nil), zfs.ErrNotExist)
}

func clone(t *testing.T, b zfs.Backend, ds string) {
	write(t, b, ds, "one", 10)
	must(t, b.Snapshot(t.Context(), ds+"@s", nil))
	must(t, b.Clone(t.Context(), ds+"@s", ds+"/c"))
	i, err := b.Stat(t.Context(), ds+"/c")
	must(t, err)
	if i.Origin != ds+"@s" {
		t.Errorf("origin %q", i.Origin)
	}
	write(t, b, ds+"/c", "two", 10)
	if d := cmp.Diff([]string{"one", "two"}, files(t, b, ds+"/c")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"one"}, files(t, b, ds)); d != "" {
		t.Error(d)
	}
	wantKind(t, "clone again", b.Clone(t.Context(), ds+"@s", ds+"/c"), zfs.ErrExist)
	wantKind(t, "clone of nothing", b.Clone(t.Context(), ds+"@none", ds+"/d"), zfs.ErrNotExist)
	wantKind(t, "clone to nowhere", b.Clone(t.Context(), ds+"@s", ds+"/none/d"), zfs.ErrNotExist)
	failed, err := b.Destroy(t.Context(), []string{ds + "@s"})
	must(t, err)
	wantKind(t, "destroy an origin", failed[ds+"@s"], zfs.ErrBusy)
}

func rollback(t *testing.T, b zfs.Backend, ds string) {
	write(t, b, ds, "one", 10)
	must(t, b.Snapshot(t.Context(), ds+"@a", nil))
	write(t, b, ds, "two", 10)
	must(t, b.Rollback(t.Context(), ds+"@a"))
	if d := cmp.Diff([]string{"one"}, files(t, b, ds)); d != "" {
		t.Error(d)
	}
	must(t, b.Snapshot(t.Context(), ds+"@b", nil))
	wantKind(t, "rollback past a snapshot", b.Rollback(t.Context(), ds+"@a"), zfs.ErrExist)
	wantKind(t, "rollback to nothing", b.Rollback(t.Context(), ds+"@none"), zfs.ErrNotExist)
}

func destroy(t *testing.T, b zfs.Backend, ds string) {
	must(t, b.Create(t.Context(), ds+"/a", nil))
	must(t, b.Create(t.Context(), ds+"/b", nil))
	must(t, b.Snapshot(t.Context(), ds+"/b@s", nil))
	must(t, b.Create(t.Context(), ds+"/c", nil))
	write(t, b, ds+"/c", "kept", 10)
	names := []string{ds + "/a", ds + "/none", ds + "/b", ds + "/none@s", ds + "/c"}
	hold, mountable := b.(interface{ SetBusy(string, bool) })
	if mountable {
		hold.SetBusy(ds+"/c", true)
	}
	in(t, b, ds+"/c", func(dir string) {
		failed, err := b.Destroy(t.Context(), names)
		must(t, err)
		wantKind(t, "destroy with a snapshot", failed[ds+"/b"], zfs.ErrBusy)
		wantKind(t, "destroy what is mounted", failed[ds+"/c"], zfs.ErrBusy)
		if len(failed) != 2 {
			t.Errorf("failed: %v", failed)
		}
		// A live root file system stays mounted and whole.
		if _, err := os.Stat(dir + "/kept"); err != nil {
			t.Error(err)
		}
	})
	if mountable {
		hold.SetBusy(ds+"/c", false)
	}
	if _, err := b.Stat(t.Context(), ds+"/a"); !zfs.IsNotExist(err) {
		t.Errorf("stat of what was destroyed: %v", err)
	}
	failed, err := b.Destroy(t.Context(), []string{ds + "/c"})
	must(t, err)
	if len(failed) != 0 {
		t.Error(failed)
	}
	if _, err := b.Destroy(t.Context(), nil); err != nil {
		t.Errorf("destroy nothing: %v", err)
	}
}

// One call destroys snapshots and file systems in its order, clones before their origins.
func destroyOrder(t *testing.T, b zfs.Backend, ds string) {
	must(t, b.Snapshot(t.Context(), ds+"@s", nil))
	names := []string{}
	for i := range 12 {
		c := fmt.Sprintf("%s/c%d", ds, i)
		must(t, b.Clone(t.Context(), ds+"@s", c))
		must(t, b.Snapshot(t.Context(), c+"@s", nil))
		names = append(names, c+"@s", c)
	}
	failed, err := b.Destroy(t.Context(), append(names, ds+"@s"))
	must(t, err)
	if len(failed) != 0 {
		t.Errorf("failed: %v", failed)
	}
	if l, err := b.Children(t.Context(), ds); err != nil || len(l) != 0 {
		t.Errorf("%d children stay, %v", len(l), err)
	}
}

func lists(t *testing.T, b zfs.Backend, ds string) {
	for _, name := range []string{"z", "a", "m"} {
		must(t, b.Create(t.Context(), ds+"/"+name, nil))
		must(t, b.Snapshot(t.Context(), ds+"@"+name, nil))
	}
	must(t, b.Create(t.Context(), ds+"/a/deep", nil))
	must(t, b.Snapshot(t.Context(), ds+"/a@other", nil))
	names := func(l []zfs.Info, err error) []string {
		t.Helper()
		must(t, err)
		s := []string{}
		for _, i := range l {
			if i.GUID == 0 || i.CreateTXG == 0 {
				t.Errorf("%+v", i)
			}
			s = append(s, strings.TrimPrefix(i.Name, ds))
		}
		return s
	}
	children := names(b.Children(t.Context(), ds))
	sort.Strings(children)
	if d := cmp.Diff([]string{"/a", "/m", "/z"}, children); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"@z", "@a", "@m"}, names(b.Snapshots(t.Context(), ds))); d != "" {
		t.Errorf("snapshots are not in the order of their making:\n%s", d)
	}
	if d := cmp.Diff([]string{}, names(b.Children(t.Context(), ds+"/m"))); d != "" {
		t.Error(d)
	}
	_, err := b.Children(t.Context(), ds+"/none")
	wantKind(t, "children of nothing", err, zfs.ErrNotExist)
	_, err = b.Snapshots(t.Context(), ds+"/none")
	wantKind(t, "snapshots of nothing", err, zfs.ErrNotExist)
}

func properties(t *testing.T, b zfs.Backend, ds string) {
	must(t, b.SetProperty(t.Context(), ds, "pvelxc:layout", "1"))
	must(t, b.SetProperty(t.Context(), ds, "refquota", "8388608"))
	must(t, b.Create(t.Context(), ds+"/a", nil))
	parent, err := b.Stat(t.Context(), ds)
	must(t, err)
	child, err := b.Stat(t.Context(), ds+"/a")
	must(t, err)
	if parent.Refquota != 8<<20 || child.Refquota != 0 {
		t.Errorf("refquota %d and of the child %d", parent.Refquota, child.Refquota)
	}
	if parent.Local["pvelxc:layout"] != "1" || child.User["pvelxc:layout"] != "1" {
		t.Errorf("user property %v, inherited %v", parent.Local, child.User)
	}
	if _, local := child.Local["pvelxc:layout"]; local {
		t.Error("an inherited property counts as local")
	}
	must(t, b.SetProperty(t.Context(), ds, "refquota", "none"))
	if parent, err = b.Stat(t.Context(), ds); err != nil || parent.Refquota != 0 {
		t.Errorf("refquota %d after none, %v", parent.Refquota, err)
	}
	wantKind(t, "set of nothing", b.SetProperty(t.Context(), ds+"/none", "pvelxc:x", "y"), zfs.ErrNotExist)
}

func objects(t *testing.T, b zfs.Backend, ds string) {
	must(t, b.Snapshot(t.Context(), ds+"@empty", nil))
	in(t, b, ds, func(dir string) {
		for i := range 20 {
			if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Lchown(fmt.Sprintf("%s/f%d", dir, i), i, i); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Link(dir+"/f0", dir+"/hard"); err != nil {
			t.Fatal(err)
		}
	})
	must(t, b.Snapshot(t.Context(), ds+"@full", nil))
	before, err := b.Objects(t.Context(), ds+"@empty")
	must(t, err)
	after, err := b.Objects(t.Context(), ds+"@full")
	must(t, err)
	if after-before != 20 {
		t.Errorf("%d objects, then %d: want 20 more", before, after)
	}
	_, err = b.Objects(t.Context(), ds+"@none")
	wantKind(t, "objects of nothing", err, zfs.ErrNotExist)
}

func space(t *testing.T, b zfs.Backend, ds string) {
	write(t, b, ds, "base", 1<<20)
	must(t, b.Snapshot(t.Context(), ds+"@s", nil))
	must(t, b.Clone(t.Context(), ds+"@s", ds+"/c"))
	write(t, b, ds+"/c", "more", 4<<20)
	must(t, b.Sync(t.Context(), zfs.Pool(ds)))
	near := func(what string, got, want uint64) {
		t.Helper()
		if got < want/2 || got > want*3/2 {
			t.Errorf("%s: %d bytes, want about %d", what, got, want)
		}
	}
	s, err := b.Stat(t.Context(), ds+"@s")
	must(t, err)
	near("written of the snapshot", s.Written, 1<<20)
	c, err := b.Stat(t.Context(), ds+"/c")
	must(t, err)
	near("usedbydataset of the clone", c.UsedByDataset, 4<<20)
	near("referenced of the clone", c.Referenced, 5<<20)
}

func failures(t *testing.T, b zfs.Backend, ds string) {
	_, err := b.Stat(t.Context(), ds+"/none")
	wantKind(t, "stat of nothing", err, zfs.ErrNotExist)
	_, err = b.Stat(t.Context(), "nosuchpool-pvelxc/a")
	wantKind(t, "stat in no pool", err, zfs.ErrNotExist)
	for _, name := range []string{"", "/", ds + "/", ds + "//a", ds + "/..", ds + "/a@", ds + "/a@b@c", ds + "/a b%c", ds + "/-x\n", "1pool/a",
		ds + "/" + strings.Repeat("x", 256), "-r"} {
		wantKind(t, fmt.Sprintf("create %q", name), b.Create(t.Context(), name, nil), zfs.ErrInvalid)
		_, err := b.Destroy(t.Context(), []string{name})
		failed, _ := b.Destroy(t.Context(), []string{name})
		if err == nil {
			err = failed[name]
		}
		wantKind(t, fmt.Sprintf("destroy %q", name), err, zfs.ErrInvalid)
	}
}

func canceled(t *testing.T, b zfs.Backend, ds string) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{
		"create":   b.Create(ctx, ds+"/a", nil),
		"snapshot": b.Snapshot(ctx, ds+"@a", nil),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if l, err := b.Children(t.Context(), ds); err != nil || len(l) != 0 {
		t.Errorf("%v, %v", l, err)
	}
}

func parallel(t *testing.T, b zfs.Backend, ds string) {
	must(t, b.Snapshot(t.Context(), ds+"@s", nil))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := fmt.Sprintf("%s/c%d", ds, i)
			for _, err := range []error{
				b.Clone(t.Context(), ds+"@s", c),
				b.Snapshot(t.Context(), c+"@one", nil),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			if failed, err := b.Destroy(t.Context(), []string{c + "@one", c}); err != nil || len(failed) != 0 {
				t.Error(failed, err)
			}
		})
	}
	wg.Wait()
}

func descends(t *testing.T, b zfs.Backend, ds string) {
	ctx := t.Context()
	for _, step := range []error{
		b.Create(ctx, ds+"/a", nil), b.Snapshot(ctx, ds+"/a@1", nil), b.Snapshot(ctx, ds+"/a@2", nil), b.Snapshot(ctx, ds+"/a@3", nil),
		b.Clone(ctx, ds+"/a@2", ds+"/b"), b.Snapshot(ctx, ds+"/b@1", nil), b.Clone(ctx, ds+"/b@1", ds+"/c"),
		b.Create(ctx, ds+"/x", nil), b.Snapshot(ctx, ds+"/x@1", nil),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	for pair, want := range map[[2]string]bool{
		{"a@1", "a"}: true, {"a@1", "a@1"}: true, {"a@1", "a@2"}: true, {"a@2", "a@1"}: false,
		{"a@2", "b"}: true, {"a@1", "b"}: true, {"a@3", "b"}: false, {"a@2", "b@1"}: true, {"b@1", "a"}: false,
		{"a@1", "c"}: true, {"b@1", "c"}: true, {"a@3", "c"}: false,
		{"a", "a"}: false, {"a@1", "x"}: false, {"x@1", "c"}: false, {"a@1", "none"}: false, {"a@none", "a"}: false,
	} {
		if got := zfs.Descends(ctx, b, ds+"/"+pair[0], ds+"/"+pair[1]); got != want {
			t.Errorf("%s descends from %s: %v", pair[1], pair[0], got)
		}
	}
}
