package snapshotter_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/pvelxc/pvelxc/snapshotter"
)

// TestCountsOnPool counts on real ZFS what the product promises: the transaction groups that each operation waits for,
// the programs it starts, and the datasets that there are.
func TestCountsOnPool(t *testing.T) {
	// Only what is waited for makes a transaction group.
	const timeout = "/sys/module/zfs/parameters/zfs_txg_timeout"
	pool(t)
	old, err := os.ReadFile(timeout)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(timeout, []byte("3600"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(timeout, old, 0o600) })
	// Whoever starts a program of ZFS's by its name starts one of these.
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	for _, name := range []string{"zfs", "zpool"} {
		if err := os.WriteFile(bin+"/"+name, []byte("#!/bin/sh\necho \"$0 $*\" >>"+log+"\n"), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))

	b := backend(t, "ioctl")
	s, err := snapshotter.Open(t.Context(), snapshotter.Options{Root: "suite/pvelxc", Dir: t.TempDir(), Backend: b, WarmLayers: 1, WarmClones: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h := &history{quiet(t.Context()), s, t.TempDir()}
	sync := func() {
		t.Helper()
		if err := b.Sync(t.Context(), "suite"); err != nil {
			t.Fatal(err)
		}
	}
	// count gives the groups from before fn to after it. Writing to a dataset makes one the next wait takes along.
	count := func(fn func() error) int {
		t.Helper()
		before := txg(t)
		if err := fn(); err != nil {
			t.Fatal(err)
		}
		return txg(t) - before
	}
	want := func(what string, got, most int) {
		t.Helper()
		t.Logf("%s: %d txgs", what, got)
		if got > most {
			t.Errorf("%s waits for %d txgs, want at most %d", what, got, most)
		}
	}

	parent, layers := "", 0
	for i := range 10 {
		key := fmt.Sprintf("extract-%d x", i)
		var m []mount.Mount
		layers += count(func() (err error) { m, err = s.Prepare(h.ctx, key, parent); return err })
		if err := h.at(m, func(dir string) error { return os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), []byte("layer"), 0o600) }); err != nil {
			t.Fatal(err)
		}
		sync()
		parent = fmt.Sprintf("layer%d", i)
		layers += count(func() error { return s.Commit(h.ctx, parent, key) })
	}
	// ≤ 1.2 for each layer.
	want("prepare and commit of 10 layers", layers, 12)
	datasets := func() int {
		t.Helper()
		l, err := b.Children(h.ctx, "suite/pvelxc/s")
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	if n := datasets(); n != 1 {
		t.Errorf("10 layers are %d datasets, want 1", n)
	}
	prepare := func(key string) func() error {
		return func() error { _, err := s.Prepare(h.ctx, key, parent); return err }
	}
	want("view", count(func() error { _, err := s.View(h.ctx, "v", "layer4"); return err }), 0)
	if n := datasets(); n != 1 {
		t.Errorf("with a view: %d datasets, want 1", n)
	}
	// A container's clone, and the spare that its Prepare has made behind it.
	want("cold prepare and a spare", count(func() error { return errors.Join(prepare("c0")(), s.Cleanup(h.ctx)) }), 2)
	want("warm prepare and a spare", count(func() error { return errors.Join(prepare("c1")(), s.Cleanup(h.ctx)) }), 1)
	if n := s.Stats().WarmHits.Load(); n != 1 {
		t.Errorf("%d warm hits, want 1", n)
	}
	want("usage", count(func() error { _, err := s.Usage(h.ctx, "c1"); return err }), 0)
	want("mounts", count(func() error { _, err := s.Mounts(h.ctx, "c1"); return err }), 0)

	const many = 40
	want("40 containers with their spares", count(func() error {
		for i := range many {
			if err := errors.Join(prepare(fmt.Sprintf("m%d", i))(), s.Cleanup(h.ctx)); err != nil {
				return err
			}
		}
		return nil
	}), many)
	// The layers' one, the containers', and a spare.
	if n := datasets(); n != 1+2+many+1 {
		t.Errorf("%d containers: %d datasets, want %d", many+2, n, many+4)
	}
	want("remove 40 containers and clean up", count(func() error {
		for i := range many {
			if err := s.Remove(h.ctx, fmt.Sprintf("m%d", i)); err != nil {
				return err
			}
		}
		return s.Cleanup(h.ctx)
	}), 8)
	if n := datasets(); n != 1+2+1 {
		t.Errorf("%d datasets after the removal, want 4", n)
	}
	if raw, err := os.ReadFile(log); err == nil {
		t.Errorf("programs were started:\n%s", strings.TrimSpace(string(raw)))
	}
}
