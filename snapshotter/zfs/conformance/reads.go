package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

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
