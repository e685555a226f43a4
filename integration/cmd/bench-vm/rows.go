package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
)

type ctx = context.Context

type bench struct {
	ctx        ctx
	g          *ground
	rounds     int
	containers int
	// patience is how long containers are made.
	patience time.Duration
	scale    int
	rows     []row
}

// at calls fn with a directory where the mounts are.
func (b *bench) at(m []mount.Mount, fn func(dir string) error) error {
	dir, err := os.MkdirTemp(b.g.dir, "mnt")
	if err != nil {
		return err
	}
	if err := mount.All(m, dir); err != nil {
		return err
	}
	return errors.Join(fn(dir), mount.UnmountAll(dir, 0), os.Remove(dir))
}

// layers unpacks n layers of one file each and gives the last one's name. around is called for each request.
func (b *bench) layers(s *subject, n int, around func(fn func() error) error) (string, error) {
	parent := ""
	for i := range n {
		key := fmt.Sprintf("extract-%d layer", i)
		var m []mount.Mount
		err := around(func() (err error) { m, err = s.Prepare(b.ctx, key, parent); return err })
		if err != nil {
			return "", err
		}
		err = b.at(m, func(dir string) error { return os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), []byte("layer"), 0o600) })
		if err != nil {
			return "", err
		}
		if err := command("zpool", "sync", pool); err != nil {
			return "", err
		}
		parent = fmt.Sprintf("layer%d", i)
		if err := around(func() error { return s.Commit(b.ctx, parent, key) }); err != nil {
			return "", err
		}
	}
	return parent, nil
}

func direct(fn func() error) error { return fn() }

// counts are exact.
func (b *bench) counts() error {
	if err := b.g.quiet(true); err != nil {
		return err
	}
	if err := b.g.start(b, true, ours, peerZFS); err != nil {
		return err
	}
	groups, execs := map[string]map[string]float64{}, map[string]float64{}
	for _, s := range b.g.subjects {
		before, ops, n := s.started(), 0, 0
		// count gives the groups that a request waits for.
		count := func(fn func() error) error {
			ops++
			start := txg()
			err := fn()
			n += txg() - start
			return err
		}
		note := func(what string, by float64) {
			if groups[what] == nil {
				groups[what] = map[string]float64{}
			}
			groups[what][s.name] = float64(n) / by
			n = 0
		}
		top, err := b.layers(s, 10, count)
		if err != nil {
			return err
		}
		note("txg waits per unpacked layer", 10)
		prepare := func(key string) func() error {
			return func() error { _, err := s.Prepare(b.ctx, key, top); return err }
		}
		view := func() error { _, err := s.View(b.ctx, "v", "layer4"); return err }
		// The first one finds no spare, and has one made.
		steps := []struct {
			what string
			fn   func() error
		}{
			{"txg waits: Prepare cold", prepare("c1")},
			{"", func() error { return s.cleanup(b) }},
			{"txg waits: Prepare warm", prepare("c2")},
			{"", func() error { return s.cleanup(b) }},
			{"txg waits: View", view},
			{"txg waits: Commit", func() error { return s.Commit(b.ctx, "c", "c2") }},
			{"", func() error { return s.cleanup(b) }},
			{"txg waits: Remove", func() error { return s.Remove(b.ctx, "v") }},
		}
		for _, step := range steps {
			if err := count(step.fn); err != nil {
				return fmt.Errorf("%s: %s: %w", s.name, step.what, err)
			}
			if step.what != "" {
				note(step.what, 1)
			}
			n = 0
		}
		for _, read := range []func() error{
			func() error { _, err := s.Mounts(b.ctx, "c1"); return err },
			func() error { _, err := s.Usage(b.ctx, "c1"); return err },
		} {
			if err := count(read); err != nil {
				return err
			}
		}
		execs[s.name] = float64(s.started()-before) / float64(ops)
	}
	b.rows = append(b.rows, newRow("zfs execs per op", "execs", execs))
	for _, what := range []string{"txg waits per unpacked layer", "txg waits: Prepare warm", "txg waits: Prepare cold", "txg waits: View",
		"txg waits: Commit", "txg waits: Remove"} {
		b.rows = append(b.rows, newRow(what, "txgs", groups[what]))
	}
	return errors.Join(b.g.stop(), b.g.quiet(false))
}

// times are of single requests.
func (b *bench) times() error {
	if err := b.g.start(b, false, ours, cold, peerZFS, overlayExt4, overlayZFS); err != nil {
		return err
	}
	tops := map[*subject]string{}
	for _, s := range b.g.subjects {
		top, err := b.layers(s, 3, direct)
		if err != nil {
			return err
		}
		tops[s] = top
		// So that there is a spare.
		if _, err := s.Prepare(b.ctx, "first", top); err != nil {
			return err
		}
	}
	took := map[string]map[string][]float64{}
	for i := range b.rounds {
		for j := range b.g.subjects {
			s := b.g.subjects[(i+j)%len(b.g.subjects)]
			if err := s.cleanup(b); err != nil {
				return err
			}
			time.Sleep(200 * time.Millisecond)
			key := fmt.Sprintf("c%d", i)
			for _, step := range []struct {
				what string
				fn   func() error
			}{
				{"Prepare", func() error { _, err := s.Prepare(b.ctx, key, tops[s]); return err }},
				{"Commit", func() error { return s.Commit(b.ctx, "image"+key, key) }},
				// What goes on behind a request is not the next one's.
				{"", func() error { return s.cleanup(b) }},
				{"View", func() error { _, err := s.View(b.ctx, "v"+key, tops[s]); return err }},
				{"Remove", func() error { return s.Remove(b.ctx, "v"+key) }},
				{"", func() error { _, err := s.Prepare(b.ctx, "r"+key, tops[s]); return err }},
				{"", func() error { return s.cleanup(b) }},
				{"Remove container", func() error { return s.Remove(b.ctx, "r"+key) }},
			} {
				start := time.Now()
				if err := step.fn(); err != nil {
					return fmt.Errorf("%s: %s: %w", s.name, step.what, err)
				}
				if took[step.what] == nil {
					took[step.what] = map[string][]float64{}
				}
				took[step.what][s.name] = append(took[step.what][s.name], time.Since(start).Seconds()*1000)
			}
		}
	}
	// pick gives medians, ours being the named one of our two.
	pick := func(what, mine string, peers ...string) map[string]float64 {
		v := map[string]float64{ours: median(took[what][mine])}
		for _, p := range peers {
			v[p] = median(took[what][p])
		}
		return v
	}
	all := []string{peerZFS, overlayExt4, overlayZFS}
	coldRow, commit := pick("Prepare", cold, all...), pick("Commit", cold, all...)
	sum := map[string]float64{}
	for name := range coldRow {
		sum[name] = coldRow[name] + commit[name]
	}
	b.rows = append(b.rows,
		newRow("Prepare cold and Commit", "ms", sum), newRow("Prepare cold", "ms", coldRow), newRow("Commit", "ms", commit),
		newRow("Prepare warm", "ms", pick("Prepare", ours, all...)), newRow("View", "ms", pick("View", ours, all...)),
		newRow("Remove", "ms", pick("Remove container", ours, all...)), newRow("Remove of a view", "ms", pick("Remove", ours, all...)))
	return b.g.stop()
}

// tree is an archive of n files in directories of 100; each seed makes another one.
func tree(n, seed int) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	text := strings.Repeat("a file of an image, as many are\n", 40) + fmt.Sprintln(seed)
	for i := range n {
		if i%100 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d%d/", i/100), Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i/100, i), Mode: 0o644, Size: int64(len(text))}); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

func (b *bench) apply(s *subject, data []byte, key string) error {
	m, err := s.Prepare(b.ctx, key, "")
	if err != nil {
		return err
	}
	return b.at(m, func(dir string) error {
		_, err := archive.Apply(b.ctx, dir, bytes.NewReader(data))
		return err
	})
}

// usage is of an active snapshot with 10,000 files.
func (b *bench) usage() error {
	if err := b.g.start(b, false, ours, peerZFS, overlayExt4, overlayZFS); err != nil {
		return err
	}
	files := 10_000 / b.scale
	data, err := tree(files, 0)
	if err != nil {
		return err
	}
	for _, s := range b.g.subjects {
		if err := b.apply(s, data, "c"); err != nil {
			return err
		}
	}
	took := map[string][]float64{}
	for i := range b.rounds {
		for j := range b.g.subjects {
			s := b.g.subjects[(i+j)%len(b.g.subjects)]
			start := time.Now()
			if _, err := s.Usage(b.ctx, "c"); err != nil {
				return err
			}
			took[s.name] = append(took[s.name], time.Since(start).Seconds()*1000)
		}
	}
	b.rows = append(b.rows, newRow("Usage at "+strings.Replace(thousands(files), ",000", "k", 1)+" files", "ms", medians(took)))
	return b.g.stop()
}

func medians(took map[string][]float64) map[string]float64 {
	v := map[string]float64{}
	for name, t := range took {
		v[name] = median(t)
	}
	return v
}

// density is of many containers of an image of ten layers.
func (b *bench) density() error {
	if err := b.g.start(b, false, cold); err != nil {
		return err
	}
	s := b.g.subjects[0]
	top, err := b.layers(s, 10, direct)
	if err != nil {
		return err
	}
	var took []float64
	// An emulated machine may be too slow for all of them: then the rows say how many there are.
	for end := time.Now().Add(b.patience); len(took) < b.containers && time.Now().Before(end); {
		start := time.Now()
		if _, err := s.Prepare(b.ctx, fmt.Sprintf("c%d", len(took)), top); err != nil {
			return err
		}
		took = append(took, time.Since(start).Seconds()*1000)
	}
	n := len(took)
	if n < 100 {
		return fmt.Errorf("only %d containers in %s", n, b.patience)
	}
	out, err := exec.Command("zfs", "list", "-H", "-o", "name", "-r", filepath.Join(pool, fmt.Sprintf("n%d", b.g.n), "s")).Output()
	if err != nil {
		return err
	}
	name := thousands(n) + " containers of a 10-layer image"
	// Less the one above ours.
	b.rows = append(b.rows, newRow(name+": datasets", "datasets", map[string]float64{ours: float64(strings.Count(string(out), "\n") - 1)}),
		newRow(name+": op p50 to that at 10", "ratio", map[string]float64{ours: median(took[n-40:]) / median(took[2:22])}))
	gone := min(1000, n)
	if err := b.g.quiet(true); err != nil {
		return err
	}
	start := txg()
	for i := range gone {
		if err := s.Remove(b.ctx, fmt.Sprintf("c%d", i)); err != nil {
			return err
		}
	}
	if err := s.cleanup(b); err != nil {
		return err
	}
	b.rows = append(b.rows, newRow("destroy "+thousands(gone), "txgs", map[string]float64{ours: float64(txg() - start)}))
	return errors.Join(b.g.quiet(false), b.g.stop())
}

var _ snapshots.Snapshotter = (*subject)(nil)
