package snapshotter_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/garbage"
)

// garbage gives reasons by name, below our root.
func (h *house) garbage() map[string]garbage.Item {
	h.t.Helper()
	items, err := h.Garbage(h.t.Context())
	h.must(err)
	found := map[string]garbage.Item{}
	for _, i := range items {
		found[strings.TrimPrefix(i.Name, under+"/")] = i
	}
	return found
}

// What was removed, what nobody knows, and what a lost database left are told, each with its reason; the first two are
// destroyed, when they can be, and nothing else is.
func TestGarbage(t *testing.T) {
	h := open(t, nil, "", warm)
	ctx := t.Context()
	h.chain("a", "b")
	for _, key := range []string{"lives", "goes", "held"} {
		_, err := h.Prepare(ctx, key, "b")
		h.must(err)
	}
	_, err := h.View(ctx, "view", "a")
	h.must(err)
	h.must(h.Cleanup(ctx))
	if got := h.garbage(); len(got) != 0 {
		t.Errorf("of what is in use, found %+v", got)
	}
	before := h.objects()
	goes, held := strings.TrimPrefix(h.head("goes"), under+"/"), strings.TrimPrefix(h.head("held"), under+"/")
	const stranger, foreign = "abcdefghijklm", "mine"
	h.must(h.b.Create(ctx, under+"/"+stranger, nil))
	h.must(h.b.Create(ctx, under+"/"+foreign, nil))
	h.b.SetBusy(under+"/"+held, true)
	resume := h.Pause()
	h.must(h.Remove(ctx, "goes"))
	h.must(h.Remove(ctx, "held"))
	h.must(h.b.Snapshot(ctx, under+"/"+held+"@autosnap", nil))
	got := h.garbage()
	for name, reason := range map[string]string{goes: "removed, and to be destroyed", held: "removed, and to be destroyed", stranger: "no row of the database"} {
		if i := got[name]; i.Kept || !strings.Contains(i.Reason, reason) {
			t.Errorf("%s: %+v, want %q", name, i, reason)
		}
	}
	if len(got) != 3 {
		t.Errorf("found %+v", got)
	}
	h.same("objects", h.objects(), slices.Sorted(slices.Values(append(before, stranger, foreign, held+"@autosnap"))))
	resume()
	h.must(h.Reclaim(ctx))
	got = h.garbage()
	if i := got[held]; len(got) != 1 || !strings.Contains(i.Reason, "cannot be destroyed") || !strings.Contains(i.Reason, "another's snapshot "+under+"/"+held+"@autosnap") {
		t.Errorf("what is in use: %+v", got)
	}
	objects := h.objects()
	for name, want := range map[string]bool{goes: false, stranger: false, held: true, foreign: true} {
		if there := strings.Contains(" "+strings.Join(objects, " ")+" ", " "+name+" "); there != want {
			t.Errorf("%s is there: %t, in %v", name, there, objects)
		}
	}
	for _, key := range []string{"lives", "view", "a", "b"} {
		_, err := h.Stat(ctx, key)
		h.must(err)
	}
}

// A container whose name is lost is for a person to decide about.
func TestGarbageWithoutName(t *testing.T) {
	h := open(t, nil, "")
	ctx := t.Context()
	h.chain("a", "b")
	m, err := h.Prepare(ctx, "container", "b")
	h.must(err)
	h.must(os.WriteFile(m[0].Source+"/precious", []byte("x"), 0o600))
	nameless := strings.TrimPrefix(h.head("container"), under+"/")
	h.must(h.Close())
	dir := t.TempDir()
	_, err = snapshotter.Recover(ctx, snapshotter.Options{Root: "tank/pvelxc", Dir: dir, Backend: h.b})
	h.must(err)
	h = open(t, h.b, dir)
	for range 2 {
		got := h.garbage()
		if i := got[nameless]; len(got) != 1 || !i.Kept || !strings.Contains(i.Reason, "zfs destroy -r "+under+"/"+nameless) {
			t.Fatalf("found %+v", got)
		}
		h.must(h.Reclaim(ctx))
	}
	if _, err := os.Stat(filepath.Join(m[0].Source, "precious")); err != nil {
		t.Error(err)
	}
}
