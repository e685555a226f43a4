package layer_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"

	"github.com/pvelxc/pvelxc/snapshotter/layer"
)

// image is a layer of many small files, with times as an archive has them.
func image(b *testing.B, files int) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range files {
		data := bytes.Repeat([]byte{byte(i)}, 3000)
		must(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/d%d/f%d", i%80, i), Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1e9, 0)}))
		_, err := w.Write(data)
		must(b, err)
	}
	must(b, w.Close())
	return buf.Bytes()
}

// BenchmarkApply unpacks 4,000 files.
func BenchmarkApply(b *testing.B) {
	needsRoot(b)
	raw := image(b, 4000)
	for name, fn := range map[string]func(dir string) error{
		"ours": func(dir string) error {
			f, err := os.Open(dir)
			must(b, err)
			defer f.Close()
			_, err = layer.Apply(b.Context(), f, bytes.NewReader(raw))
			return err
		},
		"containerd": func(dir string) error {
			_, err := archive.Apply(b.Context(), dir, bytes.NewReader(raw))
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				b.StartTimer()
				must(b, fn(dir))
			}
		})
	}
}

// BenchmarkCompare finds one changed file of 4,000 in trees that do not descend from each other.
func BenchmarkCompare(b *testing.B) {
	needsRoot(b)
	raw := image(b, 4000)
	lower, upper := b.TempDir(), b.TempDir()
	for _, dir := range []string{lower, upper} {
		_, err := archive.Apply(b.Context(), dir, bytes.NewReader(raw))
		must(b, err)
	}
	must(b, os.WriteFile(upper+"/usr/lib/d7/f7", []byte("changed"), 0o644))
	l, u := open(b, lower), open(b, upper)
	for name, fn := range map[string]func() error{
		"ours":       func() error { return layer.Compare(b.Context(), io.Discard, l, u, layer.CompareOptions{}) },
		"containerd": func() error { return archive.WriteDiff(b.Context(), io.Discard, lower, upper) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				must(b, fn())
			}
		})
	}
}
