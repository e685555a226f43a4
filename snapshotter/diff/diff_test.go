package diff_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/sys/mountinfo"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	ourdiff "github.com/pvelxc/pvelxc/snapshotter/diff"
	"github.com/pvelxc/pvelxc/snapshotter/mounts"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// labelStore keeps a content store's labels in memory.
type labelStore map[digest.Digest]map[string]string

func (l labelStore) Get(d digest.Digest) (map[string]string, error) { return l[d], nil }
func (l labelStore) Set(d digest.Digest, m map[string]string) error { l[d] = m; return nil }
func (l labelStore) Update(d digest.Digest, m map[string]string) (map[string]string, error) {
	if l[d] == nil {
		l[d] = map[string]string{}
	}
	for k, v := range m {
		l[d][k] = v
	}
	return l[d], nil
}

// leaseStore counts leases, and sees that writers have one.
type leaseStore struct {
	content.Store
	t       *testing.T
	created int
}

// leaseManager is the part of one that makes leases.
type leaseManager struct {
	leases.Manager
	leaseStore *leaseStore
}

func (l leaseManager) Create(_ context.Context, opts ...leases.Opt) (leases.Lease, error) {
	lease := leases.Lease{}
	for _, o := range opts {
		must(l.leaseStore.t, o(&lease))
	}
	if lease.Labels["containerd.io/gc.expire"] == "" {
		l.leaseStore.t.Error("a lease that never ends")
	}
	l.leaseStore.created++
	return lease, nil
}

func (l *leaseStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	if _, ok := leases.FromContext(ctx); !ok {
		l.t.Error("a blob is written without a lease")
	}
	if ns, _ := namespaces.Namespace(ctx); ns != "moon" {
		l.t.Errorf("a blob is written in namespace %q", ns)
	}
	return l.Store.Writer(ctx, opts...)
}

// bench is a Differ on bind mounts, and containerd's own beside it.
type bench struct {
	t     *testing.T
	ctx   context.Context
	store *leaseStore
	pool  *mounts.Pool
	*ourdiff.Differ
}

func newBench(t *testing.T) *bench {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	cs, err := local.NewLabeledStore(t.TempDir(), labelStore{})
	must(t, err)
	s := &leaseStore{Store: cs, t: t}
	pool := mounts.New(func(m mount.Mount) bool { return m.Type == "bind" })
	t.Cleanup(pool.Close)
	return &bench{t, namespaces.WithNamespace(t.Context(), "moon"), s, pool, ourdiff.New(ourdiff.Options{Mounts: pool, Content: s, Leases: leaseManager{leaseStore: s}})}
}

func bind(dir string, options ...string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: append([]string{"rbind"}, options...)}}
}

// blob adds a layer to the store.
func (b *bench) blob(mediaType string, raw []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	must(b.t, content.WriteBlob(b.ctx, b.store.Store, d.Digest.String(), bytes.NewReader(raw), d))
	return d
}

// layer is a tar with some files, and garbage behind its end.
func layer(t testing.TB, files int) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range files {
		data := strings.Repeat(fmt.Sprint("file ", i, "\n"), i*40)
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i%5, i), Mode: 0o644, Size: int64(len(data))}))
		_, err := io.WriteString(w, data)
		must(t, err)
	}
	must(t, w.Close())
	buf.Write(make([]byte, 3<<20))
	return buf.Bytes()
}

func zipped(t testing.TB, raw []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(raw)
	must(t, err)
	must(t, w.Close())
	return buf.Bytes()
}

func zstded(t testing.TB, raw []byte) []byte {
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(raw, nil)
}

// tree lists files and their content.
func tree(t testing.TB, dir string) string {
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(&b, "%s %s\n", rel, digest.FromBytes(raw))
		return err
	}))
	return b.String()
}

// mountsOf counts the mounts in this namespace that have to do with a path or dataset. Others come and go.
func mountsOf(t testing.TB, what string) int {
	l, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.Contains(m.Root+" "+m.Mountpoint+" "+m.Source, what), false
	})
	must(t, err)
	return len(l)
}

// Apply gives what containerd's applier gives, whatever a layer is compressed with.
func TestApply(t *testing.T) {
	b := newBench(t)
	raw := layer(t, 400)
	for mediaType, data := range map[string][]byte{
		ocispec.MediaTypeImageLayer:                         raw,
		ocispec.MediaTypeImageLayerGzip:                     zipped(t, raw),
		ocispec.MediaTypeImageLayerZstd:                     zstded(t, raw),
		"application/vnd.docker.image.rootfs.diff.tar.gzip": zipped(t, raw),
	} {
		d := b.blob(mediaType, data)
		ours, theirs := t.TempDir(), t.TempDir()
		want, err := apply.NewFileSystemApplier(b.store.Store).Apply(b.ctx, d, bind(theirs))
		must(t, err)
		before := mountsOf(t, t.Name())
		got, err := b.Apply(b.ctx, d, bind(ours), diff.WithSyncFs(true))
		must(t, err)
		if n := mountsOf(t, t.Name()); n != before {
			t.Errorf("%d mounts are visible", n-before)
		}
		if got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType || got.Digest != digest.FromBytes(raw) {
			t.Errorf("%s: %+v, want %+v", mediaType, got, want)
		}
		if g, w := tree(t, ours), tree(t, theirs); g != w || g == "" {
			t.Errorf("%s: another tree:\n%s\n%s", mediaType, g, w)
		}
	}
}

func TestApplyFails(t *testing.T) {
	b := newBench(t)
	raw := layer(t, 300)
	cut := zipped(t, raw)
	cut = cut[:len(cut)/2]
	bent := bytes.Clone(raw)
	bent[257] ^= 0xff
	good := b.blob(ocispec.MediaTypeImageLayer, raw)
	for name, c := range map[string]struct {
		desc ocispec.Descriptor
		to   []mount.Mount
		is   func(error) bool
	}{
		"cut":          {b.blob(ocispec.MediaTypeImageLayerGzip, cut), bind(t.TempDir()), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"not a tar":    {b.blob(ocispec.MediaTypeImageLayer, bent), bind(t.TempDir()), func(err error) bool { return errors.Is(err, tar.ErrHeader) }},
		"no such blob": {ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("none"), Size: 5}, bind(t.TempDir()), errdefs.IsNotFound},
		"encrypted":    {b.blob("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", raw[:900]), bind(t.TempDir()), errdefs.IsNotImplemented},
		"read-only":    {good, bind(t.TempDir(), "ro"), errdefs.IsInvalidArgument},
		"overlay":      {good, []mount.Mount{{Type: "overlay", Source: "overlay"}}, errdefs.IsNotImplemented},
		"two":          {good, append(bind(t.TempDir()), bind(t.TempDir())...), errdefs.IsNotImplemented},
		"none":         {good, nil, errdefs.IsNotImplemented},
		"nowhere":      {good, bind("/nonexistent"), func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
	} {
		if _, err := b.Apply(b.ctx, c.desc, c.to); err == nil || !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.Apply(t.Context(), good, bind(t.TempDir())); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a namespace: %v", err)
	}
	gone, cancel := context.WithCancel(b.ctx)
	cancel()
	if _, err := b.Apply(gone, good, bind(t.TempDir())); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// Compare gives the very blob that containerd's walking differ gives.
func TestCompare(t *testing.T) {
	b := newBench(t)
	lower, upper := t.TempDir(), t.TempDir()
	for _, dir := range []string{lower, upper} {
		must(t, os.MkdirAll(dir+"/d/e", 0o755))
		must(t, os.WriteFile(dir+"/d/same", []byte("same"), 0o644))
	}
	must(t, os.WriteFile(lower+"/d/gone", nil, 0o644))
	must(t, os.WriteFile(upper+"/d/e/new", bytes.Repeat([]byte("new"), 100000), 0o644))
	for _, mediaType := range []string{"", ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd} {
		before := mountsOf(t, t.Name())
		got, err := b.Compare(b.ctx, bind(lower, "ro"), bind(upper), diff.WithMediaType(mediaType), diff.WithLabels(map[string]string{"x": "y"}))
		must(t, err)
		if n := mountsOf(t, t.Name()); n != before {
			t.Errorf("%d mounts are visible", n-before)
		}
		info, err := b.store.Info(b.ctx, got.Digest)
		must(t, err)
		if info.Labels["x"] != "y" || (info.Labels[labels.LabelUncompressed] == "") != (mediaType == ocispec.MediaTypeImageLayer) {
			t.Errorf("%s: labels %v", mediaType, info.Labels)
		}
		want, err := walking.NewWalkingDiff(b.store.Store).Compare(b.ctx, bind(lower), bind(upper), diff.WithMediaType(mediaType))
		must(t, err)
		if got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType {
			t.Errorf("%q: %+v, want %+v", mediaType, got, want)
		}
	}
	// The label is set on a blob that was there without it.
	plain, err := b.Compare(b.ctx, nil, bind(upper), diff.WithMediaType(ocispec.MediaTypeImageLayerGzip))
	must(t, err)
	want, err := walking.NewWalkingDiff(b.store.Store).Compare(b.ctx, nil, bind(upper))
	must(t, err)
	if plain.Digest != want.Digest {
		t.Errorf("all of a tree: %+v, want %+v", plain, want)
	}
	if b.store.created != 5 {
		t.Errorf("%d leases for 5 blobs", b.store.created)
	}
	if _, err := b.Compare(leases.WithLease(b.ctx, "mine"), bind(lower), bind(upper)); err != nil || b.store.created != 5 {
		t.Errorf("with a lease of the caller's: %v, %d leases", err, b.store.created)
	}
}

// An upload that fails leaves nothing in the content store.
func TestCompareFails(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		lower, upper []mount.Mount
		opts         []diff.Opt
		is           func(error) bool
	}{
		"media type":     {bind(t.TempDir()), bind(t.TempDir()), []diff.Opt{diff.WithMediaType("text/plain")}, errdefs.IsNotImplemented},
		"others' mounts": {bind(t.TempDir()), []mount.Mount{{Type: "overlay"}}, nil, errdefs.IsNotImplemented},
		"nowhere":        {bind(t.TempDir()), bind("/nonexistent"), nil, func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
		"a file":         {bind(t.TempDir()), bind("/etc/passwd"), nil, func(err error) bool { return err != nil }},
	} {
		if _, err := b.Compare(b.ctx, c.lower, c.upper, c.opts...); err == nil || !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l, err := b.store.ListStatuses(b.ctx)
	must(t, err)
	if len(l) != 0 {
		t.Errorf("uploads stay: %v", l)
	}
}
