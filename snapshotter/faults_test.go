package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/fake"
)

// points are the places a process passes where it may end: before and after each change of ZFS and of the database.
type points struct {
	// at is the point that ends the process, and end how; end does not return.
	at  string
	end func()
	// full is the point before a change of ZFS that finds no space, in what a model says.
	full string
	// brim, when not nil, does a change of ZFS where it finds no space indeed, or does not.
	brim func(op string, change func() error) error

	mu     sync.Mutex
	passed map[string]int // guarded by mu
	order  []string       // guarded by mu
	dead   bool           // guarded by mu
}

// pass names a point by its kind and how often that came by.
func (p *points) pass(kind string) { p.reach(kind) }

func (p *points) reach(kind string) (point string) {
	p.mu.Lock()
	if p.passed == nil {
		p.passed = map[string]int{}
	}
	p.passed[kind]++
	point = fmt.Sprintf("%s #%d", kind, p.passed[kind])
	p.order = append(p.order, point)
	if p.dead {
		p.mu.Unlock()
		select {} // a dead process does nothing more
	}
	p.dead = point == p.at
	dead := p.dead
	p.mu.Unlock()
	if dead {
		p.end()
	}
	return point
}

// faulty passes a point before and after each change.
type faulty struct {
	zfs.Backend
	*points
}

func (f faulty) around(op string, fn func() error) error {
	if point := f.reach(op + ": before"); point == f.full {
		return &zfs.Error{Op: op, Name: "tank", Kind: zfs.ErrNoSpace}
	}
	if f.brim != nil {
		change := fn
		fn = func() error { return f.brim(op, change) }
	}
	err := fn()
	f.pass(op + ": after")
	return err
}

func (f faulty) Create(ctx context.Context, dataset string, props map[string]string) error {
	return f.around("create", func() error { return f.Backend.Create(ctx, dataset, props) })
}

func (f faulty) Clone(ctx context.Context, snapshot, dataset string) error {
	return f.around("clone", func() error { return f.Backend.Clone(ctx, snapshot, dataset) })
}

func (f faulty) Snapshot(ctx context.Context, snapshot string, user map[string]string) error {
	return f.around("snapshot", func() error { return f.Backend.Snapshot(ctx, snapshot, user) })
}

func (f faulty) Destroy(ctx context.Context, names []string) (failed map[string]error, err error) {
	err = f.around("destroy", func() error {
		failed, err = f.Backend.Destroy(ctx, names)
		return err
	})
	return failed, err
}

func (f faulty) Rollback(ctx context.Context, snapshot string) error {
	return f.around("rollback", func() error { return f.Backend.Rollback(ctx, snapshot) })
}

func (f faulty) SetProperty(ctx context.Context, dataset, property, value string) error {
	return f.around("set", func() error { return f.Backend.SetProperty(ctx, dataset, property, value) })
}

func faultOptions(b zfs.Backend, root, dir string, p *points) snapshotter.Options {
	o := snapshotter.Options{Root: root, Dir: dir, Backend: faulty{b, p}, WarmLayers: 1, WarmClones: 1}
	o.SetStep(p.pass)
	return o
}

// world is where a history is played: in a process that is killed, or on a model that is frozen.
type world interface {
	// play ends at a point, or, with none, at the history's end, and gives what it told, the points it passed,
	// and the directory of the database.
	play(t *testing.T, root, at string) (told, passed []string, dir string)
	backend() zfs.Backend
}

// TestFaults ends the snapshotter before and after each of its steps. Whatever was under way, the next one gives
// containerd what it was told, destroys everything of ours that nobody knows, and nothing else.
func TestFaults(t *testing.T) {
	if os.Getenv("VM_POOL_DEVICE") != "" {
		t.Skip("VM_POOL_DEVICE is set: TestFaultsOnPool is the same on real ZFS")
	}
	b, err := fake.New(t.TempDir(), "tank")
	if err != nil {
		t.Fatal(err)
	}
	faults(t, &frozen{b}, "tank", slice{0, 1})
}

// slice is the nth of of parts of all points.
type slice struct{ nth, of int }

func faults(t *testing.T, w world, pool string, s slice) {
	_, passed, dir := w.play(t, pool+"/f", "")
	if n := len(passed); n < 60 {
		t.Fatalf("only %d points", n)
	}
	told := []string{}
	for _, a := range acts() {
		told = append(told, "begin "+a.name, "done "+a.name)
	}
	autopsy(t, w, pool+"/f", dir, told)
	for i, at := range passed {
		if i%s.of != s.nth {
			continue
		}
		t.Run(fmt.Sprintf("%03d %s", i, at), func(t *testing.T) {
			t.Parallel()
			root := fmt.Sprintf("%s/f%d", pool, i)
			told, passed, dir := w.play(t, root, at)
			// The worker's share comes in no fixed order, so a point may not be reached; the history is whole then.
			if !slices.Contains(passed, at) {
				t.Logf("not reached")
			}
			autopsy(t, w, root, dir, told)
		})
	}
}

// autopsy opens the snapshotter again and compares what containerd sees, what ZFS holds, and what was told.
func autopsy(t *testing.T, w world, root, dir string, told []string) {
	t.Helper()
	b, ctx := w.backend(), quiet(t.Context())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\ntold: %q", err, told)
		}
	}
	// Others have been here meanwhile.
	foreign := []string{root + "/mine", root + "/s/mine", root + "/s/mine@daily"}
	// A root that is not marked as ours yet is refused with anything in it.
	if len(told) > 0 {
		must(b.Create(ctx, foreign[0], nil))
		must(b.Create(ctx, foreign[1], nil))
		must(b.Snapshot(ctx, foreign[2], nil))
	}
	s, err := snapshotter.Open(ctx, snapshotter.Options{Root: root, Dir: dir, Backend: b, WarmLayers: 1, WarmClones: 1})
	must(err)
	defer s.Close()
	h := &history{ctx, s, t.TempDir()}

	before, after := expect(told)
	got := state{}
	must(s.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		got[i.Name] = entry{Parent: i.Parent, Kind: i.Kind}
		return nil
	}))
	for name, e := range got {
		m, err := s.Mounts(ctx, name)
		if e.Kind == snapshots.KindCommitted {
			m, err = s.View(ctx, "look at "+name, name)
		}
		must(err)
		e.Files = nil
		must(h.at(m, func(dir string) error {
			entries, err := os.ReadDir(dir)
			for _, f := range entries {
				e.Files = append(e.Files, f.Name())
			}
			return err
		}))
		if e.Kind == snapshots.KindCommitted {
			must(s.Remove(ctx, "look at "+name))
		}
		got[name] = e
	}
	if d := cmp.Diff(before, got); d != "" {
		if also := cmp.Diff(after, got); also != "" {
			t.Errorf("neither what was before the last act (-want +got):\n%s\nnor what is after it:\n%s\ntold: %q", d, also, told)
		}
	}
	// On each layer another can be unpacked, and shows nothing but the layer.
	for name, e := range got {
		if e.Kind != snapshots.KindCommitted {
			continue
		}
		key := "extract-9 on " + name
		m, err := s.Prepare(ctx, key, name)
		must(err)
		var files []string
		must(h.at(m, func(dir string) error {
			entries, err := os.ReadDir(dir)
			for _, f := range entries {
				files = append(files, f.Name())
			}
			return err
		}))
		if d := cmp.Diff(e.Files, files); d != "" {
			t.Errorf("a layer on %s begins with other files (-want +got):\n%s", name, d)
		}
		must(s.Remove(ctx, key))
	}
	// What was under way can be done again.
	if len(told)%2 == 1 {
		for _, a := range acts() {
			if "begin "+a.name != told[len(told)-1] || cmp.Diff(before, got) != "" {
				continue
			}
			if err := a.do(h); err != nil {
				t.Errorf("%s again: %v", a.name, err)
			}
			a.apply(got)
			break
		}
	}
	for len(got) > 0 {
		for name := range got {
			leaf := true
			for _, e := range got {
				leaf = leaf && e.Parent != name
			}
			if leaf {
				must(s.Remove(ctx, name))
				delete(got, name)
			}
		}
	}
	// The first pass destroys, the second what the first found cloned.
	must(s.Cleanup(ctx))
	must(s.Cleanup(ctx))
	children, err := b.Children(ctx, root+"/s")
	must(err)
	for _, c := range children {
		if c.Name != foreign[1] {
			t.Errorf("%s is orphaned; told: %q", c.Name, told)
		}
	}
	for _, name := range foreign {
		if _, err := b.Stat(ctx, name); len(told) > 0 && err != nil {
			t.Errorf("what is not ours was touched: %v", err)
		}
	}
}

// TestNoSpace has each change of ZFS find the pool full, once. The request says so and has changed nothing, and made again
// it succeeds.
func TestNoSpace(t *testing.T) {
	b, err := fake.New(t.TempDir(), "tank")
	if err != nil {
		t.Fatal(err)
	}
	w := &frozen{b}
	_, passed, _ := w.play(t, "tank/f", "")
	for i, full := range passed {
		if !strings.Contains(full, ": before") || strings.HasPrefix(full, "write") {
			continue
		}
		t.Run(full, func(t *testing.T) {
			t.Parallel()
			root, dir, ctx := fmt.Sprintf("tank/f%d", i), t.TempDir(), quiet(t.Context())
			o := faultOptions(b, root, dir, &points{full: full})
			s, err := snapshotter.Open(ctx, o)
			if errdefs.IsResourceExhausted(err) {
				s, err = snapshotter.Open(ctx, o)
			}
			if err != nil {
				t.Fatal(err)
			}
			h := &history{ctx: ctx, s: s}
			var told []string
			for _, a := range acts() {
				told = append(told, "begin "+a.name)
				err := a.do(h)
				if errdefs.IsResourceExhausted(err) && strings.Contains(err.Error(), "hint:") {
					err = a.do(h)
				}
				if err != nil {
					t.Fatalf("%s: %v", a.name, err)
				}
				told = append(told, "done "+a.name)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			autopsy(t, w, root, dir, told)
		})
	}
}

// frozen plays on the model: at the point, the database's file is copied, and nothing goes on.
type frozen struct{ b *fake.Backend }

func (f *frozen) backend() zfs.Backend { return f.b }

func (f *frozen) play(t *testing.T, root, at string) (told, passed []string, dir string) {
	t.Helper()
	lives, left := t.TempDir(), t.TempDir()
	type end struct {
		dir string
		err error
	}
	ended := make(chan end, 1)
	p := &points{at: at}
	p.end = func() {
		raw, err := os.ReadFile(filepath.Join(lives, "metadata.db"))
		if err == nil {
			err = os.WriteFile(filepath.Join(left, "metadata.db"), raw, 0o600)
		}
		ended <- end{left, err}
		select {}
	}
	tell := func(line string) {
		p.mu.Lock()
		if p.dead {
			p.mu.Unlock()
			select {}
		}
		told = append(told, line)
		p.mu.Unlock()
	}
	ctx := quiet(t.Context())
	go func() {
		s, err := snapshotter.Open(ctx, faultOptions(f.b, root, lives, p))
		if err == nil {
			err = play(&history{ctx: ctx, s: s}, tell)
			err = errors.Join(err, s.Close())
		}
		ended <- end{lives, err}
	}()
	e := <-ended
	if e.err != nil {
		t.Fatal(e.err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(told), slices.Clone(p.order), e.dir
}
