package diff_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	ourdiff "github.com/pvelxc/pvelxc/snapshotter/diff"
	"github.com/pvelxc/pvelxc/snapshotter/mounts"
)

// BenchmarkApply unpacks a compressed layer of 2,000 files of 20 kB, ours and containerd's in turn.
func BenchmarkApply(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: it mounts")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 20000)
	for i := range 2000 {
		for j := range data {
			data[j] = "etaoinshrdlu ETAOIN"[r.IntN(19)]
		}
		must(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/d%d/f%d", i%40, i), Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1e9, 0)}))
		_, err := w.Write(data)
		must(b, err)
	}
	must(b, w.Close())
	raw := zipped(b, buf.Bytes())
	cs, err := local.NewLabeledStore(b.TempDir(), labelStore{})
	must(b, err)
	ctx := namespaces.WithNamespace(b.Context(), "moon")
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	must(b, content.WriteBlob(ctx, cs, "x", bytes.NewReader(raw), d))
	pool := mounts.New(func(m mount.Mount) bool { return m.Type == "bind" })
	b.Cleanup(pool.Close)
	ours := ourdiff.New(ourdiff.Options{Mounts: pool, Content: cs})
	theirs := apply.NewFileSystemApplier(cs)
	b.Setenv("CONTAINERD_DISABLE_PIGZ", "1")
	b.Setenv("CONTAINERD_DISABLE_IGZIP", "1")
	var took [2]time.Duration
	for b.Loop() {
		one, two := b.TempDir(), b.TempDir()
		start := time.Now()
		_, err := ours.Apply(ctx, d, bind(one))
		must(b, err)
		took[0] += time.Since(start)
		start = time.Now()
		_, err = theirs.Apply(ctx, d, bind(two))
		must(b, err)
		took[1] += time.Since(start)
		pool.Release(one)
		must(b, os.RemoveAll(one))
		must(b, os.RemoveAll(two))
	}
	b.ReportMetric(float64(took[1])/float64(took[0]), "containerd/ours")
}
