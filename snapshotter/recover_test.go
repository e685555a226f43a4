package snapshotter_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter"
)

// known is all that containerd can learn of the committed snapshots.
func (h *house) known() map[string]any {
	h.t.Helper()
	m := map[string]any{}
	h.must(h.Walk(h.t.Context(), func(ctx context.Context, i snapshots.Info) error {
		if i.Kind != snapshots.KindCommitted {
			return nil
		}
		u, err := h.Usage(ctx, i.Name)
		m[i.Name] = []any{i.Parent, i.Labels, u}
		return err
	}))
	return m
}

func TestRecover(t *testing.T) {
	h := open(t, nil, "")
	ctx := t.Context()
	h.chain("a", "b", "c")
	h.layer("d", "a") // a branch
	h.layer("e", "d")
	key := "n/1/extract-labels x"
	_, err := h.Prepare(ctx, key, "c")
	h.must(err)
	h.must(h.Commit(ctx, "labels", key, snapshots.WithLabels(map[string]string{"containerd.io/snapshot.ref": "sha256:x", "colour": "rød"})))
	m, err := h.Prepare(ctx, "container", "e")
	h.must(err)
	h.must(os.WriteFile(m[0].Source+"/precious", nil, 0o600))
	half, err := h.Prepare(ctx, "n/1/extract-half x", "labels")
	h.must(err)
	h.must(os.WriteFile(half[0].Source+"/half", nil, 0o600))
	want := h.known()
	dataset := strings.TrimPrefix(h.head("n/1/extract-half x"), under+"/")
	h.must(h.Close())
	before := h.objects()
	// Somebody's dataset, somebody's snapshot, and snapshots that lie.
	h.must(h.b.Create(ctx, under+"/mine", nil))
	h.must(h.b.Snapshot(ctx, under+"/"+dataset+"@autosnap", nil))
	h.must(h.b.Snapshot(ctx, under+"/"+dataset+"@lie1", map[string]string{"pvelxc:commit": `{"name":"x","parent":"e"}`}))
	h.must(h.b.Snapshot(ctx, under+"/"+dataset+"@lie2", map[string]string{"pvelxc:commit": `{"name":"y","parent":"nobody"}`}))
	h.must(h.b.Snapshot(ctx, under+"/"+dataset+"@lie3", map[string]string{"pvelxc:commit": `rubbish`}))
	h.must(h.b.Snapshot(ctx, under+"/"+dataset+"@lie4", map[string]string{"pvelxc:commit": `{"name":"a"}`}))

	o := snapshotter.Options{Root: "tank/pvelxc", Dir: h.dir, Backend: h.b}
	if _, err := snapshotter.Recover(ctx, o); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a database is replaced: %v", err)
	}
	o.Dir = t.TempDir()
	if _, err := snapshotter.Open(ctx, o); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "recover") {
		t.Errorf("open without the database: %v", err)
	}
	h.must(os.Remove(filepath.Join(o.Dir, "metadata.db")))
	h.must(os.WriteFile(filepath.Join(o.Dir, "metadata.db.draft"), []byte("killed"), 0o600))
	txg := h.b.TXG()
	r, err := snapshotter.Recover(ctx, o)
	h.must(err)
	if n := h.b.TXG() - txg; n != 0 {
		t.Errorf("recovery waits for %d txgs", n)
	}
	slices.Sort(r.Layers)
	h.same("layers", r.Layers, []string{"a", "b", "c", "d", "e", "labels"})
	if len(r.Nameless) != 1 || len(r.Refused) != 4 {
		t.Errorf("%+v", r)
	}
	if l, _ := os.ReadDir(o.Dir); len(l) != 1 {
		t.Errorf("files: %v", l)
	}
	for _, lie := range []string{"@lie1", "@lie2", "@lie3", "@lie4", "@autosnap"} {
		_, err := h.b.Destroy(ctx, []string{under + "/" + dataset + lie})
		h.must(err)
	}

	h = open(t, h.b, o.Dir)
	h.same("snapshots", h.known(), want)
	h.must(h.Cleanup(ctx))
	h.same("objects", slices.DeleteFunc(h.objects(), func(n string) bool { return n == "mine" }), before)
	if raw, err := os.ReadFile(m[0].Source + "/precious"); err != nil || len(raw) != 0 {
		t.Errorf("a container's file is gone: %v", err)
	}
	for _, gone := range []string{"container", "n/1/extract-half x"} {
		if _, err := h.Stat(ctx, gone); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	// It goes on: on the old head, from which the half layer is gone, and on a new branch.
	h.layer("f", "labels")
	h.layer("g", "b")
	for name, files := range map[string][]string{"f": {"a", "b", "c", "f"}, "g": {"a", "b", "g"}, "e": {"a", "d", "e"}} {
		_, err := h.View(ctx, "view "+name, name)
		h.must(err)
		h.same(name, h.files("view "+name), files)
		h.must(h.Remove(ctx, "view "+name))
	}
	for _, name := range []string{"f", "labels", "g", "c", "b", "e", "d", "a"} {
		h.must(h.Remove(ctx, name))
	}
	for range 3 {
		h.must(h.Cleanup(ctx))
	}
	// The container without a name, and what it was made of.
	left := slices.DeleteFunc(h.objects(), func(n string) bool { return n == "mine" })
	if !slices.Contains(left, strings.TrimPrefix(r.Nameless[0], under+"/")) {
		t.Errorf("a nameless container was destroyed: %v", left)
	}
	if _, err := h.b.Destroy(ctx, r.Nameless); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		h.must(h.Cleanup(ctx))
	}
	h.same("left", h.objects(), []string{"mine"})
}

func TestRecoverNothing(t *testing.T) {
	h := open(t, nil, "")
	h.must(h.Close())
	h.must(h.b.Create(t.Context(), "tank/other", nil))
	for root, is := range map[string]func(error) bool{"tank/other": errdefs.IsFailedPrecondition, "tank/none": errdefs.IsNotFound} {
		if _, err := snapshotter.Recover(t.Context(), snapshotter.Options{Root: root, Dir: t.TempDir(), Backend: h.b}); !is(err) {
			t.Errorf("%s: %v", root, err)
		}
	}
	r, err := snapshotter.Recover(t.Context(), snapshotter.Options{Root: "tank/pvelxc", Dir: t.TempDir(), Backend: h.b})
	if err != nil || len(r.Layers)+len(r.Nameless)+len(r.Refused) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
