package conformance

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

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
