package snapshotter_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/pvelxc/pvelxc/snapshotter"
)

func share(o *snapshotter.Options) { o.ShareLayers = true }

// head is the dataset of a snapshot's mounts: on the model, the one whose mount has that source.
func (h *house) head(key string) string {
	h.t.Helper()
	m, err := h.Mounts(h.t.Context(), key)
	h.must(err)
	for _, n := range h.objects() {
		if h.b.Mount(under+"/"+n, false).Source == m[0].Source {
			return under + "/" + n
		}
	}
	h.t.Fatalf("%s has no dataset", key)
	return ""
}

func ref(id digest.Digest) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: id.String()})
}

// unpack makes a layer as containerd does, with the layers that the differ says it applied.
func (h *house) unpack(name, parent string, id digest.Digest, diffs ...digest.Digest) {
	h.t.Helper()
	key := "one/7/extract-1 " + name
	_, err := h.Prepare(h.t.Context(), key, parent, ref(id))
	h.must(err)
	for _, d := range diffs {
		h.Applying(h.head(key))(d)
	}
	h.must(h.Commit(h.t.Context(), name, key, ref(id)))
}

// A layer that another namespace unpacked is used when this process has seen every byte of it, and never on the word of
// a label.
func TestShareLayers(t *testing.T) {
	h := open(t, nil, "", share)
	ctx := t.Context()
	d1, d2 := digest.FromString("1"), digest.FromString("2")
	c2 := identity.ChainID([]digest.Digest{d1, d2})
	h.unpack("good", "", d1, d1)
	h.unpack("good2", "good", c2, d2)

	lies := map[string]digest.Digest{}
	lie := func(name, parent string, diffs ...digest.Digest) {
		id := digest.FromString(name)
		if parent == "" && len(diffs) == 1 && diffs[0] == "" {
			diffs[0] = id
		}
		lies[name] = id
		h.unpack(name, parent, id, diffs...)
	}
	lie("not by our differ", "")
	lie("another layer", "", digest.FromString("other"))
	h.unpack("twice", "", digest.FromString("twice"), digest.FromString("twice"), digest.FromString("twice"))
	lies["twice"] = digest.FromString("twice")
	h.unpack("failed", "", digest.FromString("failed"), "")
	lies["failed"] = digest.FromString("failed")
	for name, id := range lies {
		if _, err := h.Prepare(ctx, "two/1/extract-1 "+name, "", ref(id)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	on := identity.ChainID([]digest.Digest{lies["failed"], d1})
	h.unpack("on a lie", "failed", on, d1)
	if _, err := h.Prepare(ctx, "two/1/extract-1 on", "failed", ref(on)); err != nil {
		t.Errorf("on a layer that was not verified: %v", err)
	}

	yes := func(h *house) {
		t.Helper()
		for parent, id := range map[string]digest.Digest{"": d1, "good": c2} {
			if _, err := h.Prepare(ctx, "two/1/extract-1 good", parent, ref(id)); !errdefs.IsAlreadyExists(err) {
				t.Errorf("on %q: %v", parent, err)
			}
		}
	}
	yes(h)
	no := func(h *house, key, parent string, opts ...snapshots.Opt) {
		t.Helper()
		if _, err := h.Prepare(ctx, key, parent, opts...); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		h.must(h.Remove(ctx, key))
	}
	no(h, "two/1/extract-1 elsewhere", "good2", ref(c2))
	no(h, "two/1/container", "", ref(d1))
	no(h, "two/1/extract-1 plain", "good")
	// Somebody else's claim to be the layer makes all claims worthless, as containerd may take it.
	h.unpack("impostor", "good", digest.FromString("x"), digest.FromString("y"))
	_, err := h.Update(ctx, snapshots.Info{Name: "impostor", Labels: map[string]string{snapshots.LabelSnapshotRef: c2.String()}})
	h.must(err)
	no(h, "two/1/extract-1 doubt", "good", ref(c2))
	h.must(h.Remove(ctx, "impostor"))
	yes(h)
	if n := h.Stats().Shared.Load(); n != 4 {
		t.Errorf("%d shared", n)
	}
	// It outlives the process, and the loss of the database.
	h.must(h.Close())
	h = open(t, h.b, h.dir, share)
	yes(h)
	h.must(h.Close())
	dir := t.TempDir()
	_, err = snapshotter.Recover(ctx, snapshotter.Options{Root: "tank/pvelxc", Dir: dir, Backend: h.b})
	h.must(err)
	h = open(t, h.b, dir, share)
	yes(h)
	// It is asked for.
	h.must(h.Close())
	h = open(t, h.b, dir)
	no(h, "two/1/extract-1 good", "", ref(d1))
}

// While something still writes to a head, for a snapshot that is gone, nobody gets it.
func TestNoLeaseWhileApplying(t *testing.T) {
	h := open(t, nil, "", share)
	ctx := t.Context()
	h.chain("a")
	d := digest.FromString("d")
	id := identity.ChainID([]digest.Digest{digest.FromString("a"), d})
	first, err := h.Prepare(ctx, "one/1/extract-1 b", "a", ref(id))
	h.must(err)
	dataset := h.head("one/1/extract-1 b")
	done := h.Applying(dataset)
	h.must(h.Remove(ctx, "one/1/extract-1 b"))
	h.must(h.Cleanup(ctx))
	second, err := h.Prepare(ctx, "one/1/extract-2 b", "a", ref(id))
	h.must(err)
	if first[0].Source == second[0].Source {
		t.Fatal("two write to one head")
	}
	h.must(os.WriteFile(filepath.Join(first[0].Source, "late"), nil, 0o600))
	done(d)
	h.same("files", h.files("one/1/extract-2 b"), []string{"a"})
	h.must(h.Remove(ctx, "one/1/extract-2 b"))
	h.must(h.Cleanup(ctx))
	h.layer("c", "a")
	_, err = h.View(ctx, "v", "c")
	h.must(err)
	h.same("files", h.files("v"), []string{"a", "c"})
	// A commit does not end the writing either.
	_, err = h.Prepare(ctx, "one/1/extract-3 d", "c")
	h.must(err)
	dataset = h.head("one/1/extract-3 d")
	done = h.Applying(dataset)
	h.must(h.Commit(ctx, "d", "one/1/extract-3 d"))
	_, err = h.Prepare(ctx, "one/1/extract-4 e", "d")
	h.must(err)
	if h.head("one/1/extract-4 e") == dataset {
		t.Error("a head is leased that is written to")
	}
	done(d)
	_, err = h.Prepare(ctx, "one/1/extract-5 f", "d")
	h.must(err)
	if h.head("one/1/extract-5 f") != dataset {
		t.Error("a head that nobody writes to any more is not leased")
	}
}
