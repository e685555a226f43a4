package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"github.com/pvelxc/pvelxc/snapshotter"
)

// view is what a client of the snapshotter sees: each name with its parent, whether it is active, and its files.
type entry struct {
	Parent string
	Kind   snapshots.Kind
	Files  []string
}

type state map[string]entry

func (s state) clone() state { return maps.Clone(s) }

// names leaves out the files.
func (s state) names() state {
	n := state{}
	for name, e := range s {
		n[name] = entry{Parent: e.Parent, Kind: e.Kind}
	}
	return n
}

// act is one request of the history, and what it makes of the state.
type act struct {
	name  string
	do    func(*history) error
	apply func(state)
}

// history does requests and tells before and after each, so that whoever finds the body knows how far it came.
type history struct {
	ctx  context.Context
	s    *snapshotter.Snapshotter
	work string
}

// at calls fn with a directory where the mounts are.
func (h *history) at(m []mount.Mount, fn func(dir string) error) error {
	if m[0].Type == "bind" {
		return fn(m[0].Source)
	}
	dir, err := os.MkdirTemp(h.work, "mnt")
	if err != nil {
		return err
	}
	if err := mount.All(m, dir); err != nil {
		return err
	}
	return errors.Join(fn(dir), mount.UnmountAll(dir, 0), os.Remove(dir))
}

func prepare(key, parent string, opts ...snapshots.Opt) act {
	return act{"prepare " + key, func(h *history) error {
		_, err := h.s.Prepare(h.ctx, key, parent, opts...)
		return err
	}, func(s state) { s[key] = entry{parent, snapshots.KindActive, s[parent].Files} }}
}

func write(key, file string) act {
	return act{"write " + key, func(h *history) error {
		m, err := h.s.Mounts(h.ctx, key)
		if err != nil {
			return err
		}
		return h.at(m, func(dir string) error {
			f, err := os.Create(dir + "/" + file)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString(file)
			return errors.Join(err, f.Sync())
		})
	}, func(s state) {
		e := s[key]
		e.Files = slices.Sorted(slices.Values(append(slices.Clone(e.Files), file)))
		s[key] = e
	}}
}

func commit(name, key string) act {
	return act{"commit " + name, func(h *history) error { return h.s.Commit(h.ctx, name, key) }, func(s state) {
		e := s[key]
		delete(s, key)
		e.Kind = snapshots.KindCommitted
		s[name] = e
	}}
}

func view(key, parent string) act {
	return act{"view " + key, func(h *history) error {
		_, err := h.s.View(h.ctx, key, parent)
		return err
	}, func(s state) { s[key] = entry{parent, snapshots.KindView, s[parent].Files} }}
}

func remove(key string) act {
	return act{"remove " + key, func(h *history) error { return h.s.Remove(h.ctx, key) }, func(s state) { delete(s, key) }}
}

func cleanup() act {
	return act{"cleanup", func(h *history) error { return h.s.Cleanup(h.ctx) }, func(state) {}}
}

// acts are a history in which everything happens that the snapshotter does to ZFS and to its database.
func acts() []act {
	small := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotMaxSize: "8388608"})
	return []act{
		prepare("extract-1 a", ""), write("extract-1 a", "a"), commit("a", "extract-1 a"),
		// On the head of a.
		prepare("extract-2 b", "a"), write("extract-2 b", "b"), commit("b", "extract-2 b"),
		// Given up: the head goes back to b.
		prepare("extract-3 x", "b"), write("extract-3 x", "x"), remove("extract-3 x"), cleanup(),
		prepare("extract-4 d", "b"), write("extract-4 d", "d"), commit("d", "extract-4 d"), remove("d"), cleanup(),
		// A branch.
		prepare("extract-5 c", "a"), write("extract-5 c", "c"), commit("c", "extract-5 c"),
		view("v", "a"), prepare("c1", "b"), write("c1", "own"), cleanup(), prepare("c2", "b"), prepare("c3", "c", small),
		remove("c1"), remove("c3"), remove("c"), remove("v"), cleanup(),
	}
}

// play does the history until a fault ends it.
func play(h *history, tell func(string)) error {
	for _, a := range acts() {
		tell("begin " + a.name)
		if err := a.do(h); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		tell("done " + a.name)
	}
	return nil
}

// expect gives the states that may follow what was told: the act that was under way has happened or has not.
func expect(told []string) (before, after state) {
	before = state{}
	for i, a := range acts() {
		switch {
		case slices.Contains(told, "done "+a.name) && len(told) > 2*i+1 && told[2*i+1] == "done "+a.name:
			a.apply(before)
		case len(told) > 2*i:
			after = before.clone()
			a.apply(after)
			return before, after
		}
	}
	return before, before
}

// quiet leaves out the warnings about what is provoked here.
func quiet(ctx context.Context) context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return log.WithLogger(context.WithoutCancel(ctx), logrus.NewEntry(logger))
}
