package snapshotter_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/pvelxc/pvelxc/snapshotter"
)

// The number of txgs of each operation is the product's promise.
func TestTransactionGroups(t *testing.T) {
	h := open(t, nil, "", warm)
	ctx := t.Context()
	count := func(what string, want uint64, fn func()) {
		t.Helper()
		before := h.b.TXG()
		fn()
		if got := h.b.TXG() - before; got != want {
			t.Errorf("%s waits for %d txgs, want %d", what, got, want)
		}
	}
	count("ten layers", 11, func() { h.chain("0", "1", "2", "3", "4", "5", "6", "7", "8", "9") })
	if n := len(h.objects()); n != 11 {
		t.Errorf("ten layers are %d objects, want one dataset and ten snapshots: %v", n, h.objects())
	}
	count("view", 0, func() {
		_, err := h.View(ctx, "v", "4")
		h.must(err)
	})
	count("cold prepare and a spare", 2, func() {
		_, err := h.Prepare(ctx, "c1", "9")
		h.must(err)
		h.must(h.Cleanup(ctx))
	})
	// The spare is replaced behind the container's back: one txg that nobody waits for.
	count("warm prepare", 1, func() {
		_, err := h.Prepare(ctx, "c2", "9")
		h.must(err)
		h.must(h.Cleanup(ctx))
	})
	if n := h.Stats().WarmHits.Load(); n != 1 {
		t.Errorf("%d warm hits", n)
	}
	h.b.Inject(func(op, name string) error {
		t.Errorf("remove does %s %s", op, name)
		return nil
	})
	h.must(h.Remove(ctx, "v"))
	h.b.Inject(nil)
}

// What each operation asks of ZFS is the product's promise as well: most ask nothing, and none lists.
func TestOperationsOfZFS(t *testing.T) {
	h := open(t, nil, "", func(o *snapshotter.Options) { o.WarmLayers, o.WarmClones = 2, 1 })
	ctx := t.Context()
	h.chain("a", "b")
	_, err := h.Prepare(ctx, "first", "b")
	h.must(err)
	h.must(h.Cleanup(ctx))
	for _, c := range []struct {
		what string
		fn   func() error
		want []string
	}{
		{"prepare on a head", func() error { _, err := h.Prepare(ctx, "n/1/extract-1 c", "b"); return err }, []string{"stat", "stat"}},
		{"mounts", func() error { _, err := h.Mounts(ctx, "n/1/extract-1 c"); return err }, []string{"stat"}},
		{"commit", func() error { return h.Commit(ctx, "c", "n/1/extract-1 c") }, []string{"snapshot", "stat", "count objects of"}},
		{"prepare warm", func() error { _, err := h.Prepare(ctx, "warm", "b"); return err }, nil},
		{"prepare cold", func() error { _, err := h.Prepare(ctx, "cold", "a"); return err }, []string{"stat", "clone", "stat"}},
		{"view", func() error { _, err := h.View(ctx, "view", "a"); return err }, nil},
		{"usage of a container", func() error { _, err := h.Usage(ctx, "cold"); return err }, []string{"stat", "count objects of"}},
		{"usage of a layer", func() error { _, err := h.Usage(ctx, "a"); return err }, nil},
		{"usage of a view", func() error { _, err := h.Usage(ctx, "view"); return err }, nil},
		{"stat", func() error { _, err := h.Stat(ctx, "a"); return err }, nil},
		{"walk", func() error { return h.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }) }, nil},
		{"remove a view", func() error { return h.Remove(ctx, "view") }, nil},
	} {
		// The worker has its own to do after some of these, which is not the caller's.
		resume := h.Pause()
		var mu sync.Mutex
		var got []string
		h.b.Inject(func(op, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, op)
			return nil
		})
		if err := c.fn(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		mu.Lock()
		h.same(c.what, got, c.want)
		mu.Unlock()
		h.b.Inject(nil)
		resume()
	}
}

// Containers that go one after the other, for half a minute, are destroyed in a few batches, and none waits for longer than
// ten seconds.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, nil, "")
		h.chain("a")
		const many = 60
		for i := range many {
			_, err := h.Prepare(t.Context(), fmt.Sprint("c", i), "a")
			h.must(err)
		}
		var mu sync.Mutex
		var batches []time.Time
		h.b.Inject(func(op, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			// The model tells of each name, and the clock stands still meanwhile.
			if now := time.Now(); op == "destroy" && (len(batches) == 0 || batches[len(batches)-1] != now) {
				batches = append(batches, now)
			}
			return nil
		})
		start := time.Now()
		for i := range many {
			h.must(h.Remove(t.Context(), fmt.Sprint("c", i)))
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if n := len(batches); n < 3 || n > 6 {
			t.Errorf("%d removals in 30 s are %d batches", many, n)
		}
		for _, b := range batches {
			if b.Sub(start) > destroyLatest {
				t.Errorf("a batch comes %s after the one before", b.Sub(start))
			}
			start = b
		}
		if l := h.objects(); len(l) != 2 {
			t.Errorf("left: %v", l)
		}
	})
}

// destroyLatest is how long what was removed may wait, and a little more.
const destroyLatest = 10*time.Second + 600*time.Millisecond

func TestWarmRemoveTouchesNothing(t *testing.T) {
	h := open(t, nil, "")
	h.chain("a")
	for i := range 40 {
		_, err := h.Prepare(t.Context(), fmt.Sprint("c", i), "a")
		h.must(err)
	}
	// The worker is kept out: nothing is destroyed while this counts.
	gate := make(chan struct{})
	h.b.Inject(func(op, _ string) error {
		if op == "destroy" {
			<-gate
		}
		return nil
	})
	before := h.b.TXG()
	for i := range 40 {
		h.must(h.Remove(t.Context(), fmt.Sprint("c", i)))
	}
	if n := h.b.TXG() - before; n != 0 {
		t.Errorf("40 removes wait for %d txgs", n)
	}
	close(gate)
	h.must(h.Cleanup(t.Context()))
	if n := h.b.TXG() - before; n > 3 {
		t.Errorf("destroying 40 containers takes %d txgs", n)
	}
	if len(h.objects()) != 2 {
		t.Errorf("left: %v", h.objects())
	}
}
