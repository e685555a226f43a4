package diff

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/epoch"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/google/uuid"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pvelxc/pvelxc/snapshotter/layer"
)

// leaseTime is how long a new blob stays that nothing refers to yet.
const leaseTime = time.Hour

// Compare writes the difference of two snapshots to the content store as a layer.
func (d *Differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (desc ocispec.Descriptor, err error) {
	start := time.Now()
	defer d.observe("compare", start, &err)
	config := diff.Config{MediaType: ocispec.MediaTypeImageLayerGzip}
	for _, o := range opts {
		if err := o(&config); err != nil {
			return desc, err
		}
	}
	if config.SourceDateEpoch == nil {
		config.SourceDateEpoch = epoch.FromContext(ctx)
	}
	kind, err := compressionOf(&config)
	if err != nil {
		return desc, fmt.Errorf("compare: %w", err)
	}
	l, err := d.o.Mounts.Read(lower)
	if err != nil {
		return desc, fmt.Errorf("compare: the lower snapshot: %w", err)
	}
	defer l.Close()
	u, err := d.o.Mounts.Read(upper)
	if err != nil {
		return desc, fmt.Errorf("compare: the upper snapshot: %w", err)
	}
	defer u.Close()
	if ctx, err = outgoing(ctx); err != nil {
		return desc, fmt.Errorf("compare: %w", err)
	}
	o := layer.CompareOptions{NewestTime: config.SourceDateEpoch}
	if d.o.Descends != nil && len(lower) == 1 && len(upper) == 1 {
		o.Descends = d.o.Descends(ctx, lower[0], upper[0])
	}
	desc, err = d.store(ctx, &config, kind, func(w io.Writer) error { return layer.Compare(ctx, w, l, u, o) })
	if err != nil {
		return desc, fmt.Errorf("compare %s with %s: %w", name(u), name(l), classify(err))
	}
	log.G(ctx).WithFields(log.Fields{"digest": desc.Digest, "dataset": name(u), "descends": o.Descends, "took": time.Since(start)}).Debug("snapshots compared")
	return desc, nil
}

func name(f *os.File) string {
	if f.Name() == "" {
		return "nothing"
	}
	return f.Name()
}

func compressionOf(config *diff.Config) (compression.Compression, error) {
	if config.MediaType == "" {
		config.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	switch {
	case config.Compressor != nil:
		return compression.Unknown, fmt.Errorf("a compressor of the caller's: %w", errdefs.ErrNotImplemented)
	case config.MediaType == ocispec.MediaTypeImageLayer:
		return compression.Uncompressed, nil
	case config.MediaType == ocispec.MediaTypeImageLayerGzip:
		return compression.Gzip, nil
	case config.MediaType == ocispec.MediaTypeImageLayerZstd:
		return compression.Zstd, nil
	}
	return compression.Unknown, fmt.Errorf("media type %s of a layer: %w", config.MediaType, errdefs.ErrNotImplemented)
}

// store writes what fill writes, compressed, to a new blob. An upload that fails is aborted, unless its reference is the
// caller's, who may look at it.
func (d *Differ) store(ctx context.Context, config *diff.Config, kind compression.Compression, fill func(io.Writer) error) (desc ocispec.Descriptor, err error) {
	if ctx, err = d.lease(ctx); err != nil {
		return desc, err
	}
	ref := config.Reference
	if ref == "" {
		ref = "pvelxc-diff-" + uuid.NewString()
	}
	blob, err := d.o.Content.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{MediaType: config.MediaType}))
	if err != nil {
		return desc, fmt.Errorf("open a blob for writing: %w", err)
	}
	defer func() {
		blob.Close()
		if err != nil && config.Reference == "" {
			// The request may be over.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if e := d.o.Content.Abort(ctx, ref); e != nil && !errdefs.IsNotFound(e) {
				err = errors.Join(err, fmt.Errorf("abort the upload: %w", e))
			}
		}
	}()
	if config.Reference != "" {
		if err := blob.Truncate(0); err != nil {
			return desc, fmt.Errorf("begin the upload anew: %w", err)
		}
	}
	plain, err := compress(blob, kind, fill)
	if err != nil {
		return desc, err
	}
	if config.Labels == nil {
		config.Labels = map[string]string{}
	}
	if kind != compression.Uncompressed {
		config.Labels[labels.LabelUncompressed] = plain.String()
	}
	dgst := blob.Digest()
	if err := blob.Commit(ctx, 0, dgst, content.WithLabels(config.Labels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, fmt.Errorf("commit the blob: %w", err)
	}
	info, err := d.o.Content.Info(ctx, dgst)
	if err != nil {
		return desc, fmt.Errorf("look at the blob: %w", err)
	}
	if _, ok := info.Labels[labels.LabelUncompressed]; !ok && kind != compression.Uncompressed {
		// It was there before, without the label.
		info.Labels = map[string]string{labels.LabelUncompressed: plain.String()}
		if _, err := d.o.Content.Update(ctx, info, "labels."+labels.LabelUncompressed); err != nil {
			return desc, fmt.Errorf("label the blob: %w", err)
		}
	}
	return ocispec.Descriptor{MediaType: config.MediaType, Size: info.Size, Digest: info.Digest}, nil
}

// lease makes a lease where the request has none: containerd does not pass its client's on to a proxy plugin, and a blob
// that nothing refers to is collected at any time. It ends by itself.
func (d *Differ) lease(ctx context.Context) (context.Context, error) {
	if _, ok := leases.FromContext(ctx); ok || d.o.Leases == nil {
		return ctx, nil
	}
	l, err := d.o.Leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		return nil, fmt.Errorf("lease for the new blob: %w", err)
	}
	return leases.WithLease(ctx, l.ID), nil
}

// compress gives the digest of what was written before it was compressed.
func compress(w io.Writer, kind compression.Compression, fill func(io.Writer) error) (digest.Digest, error) {
	// A write is a message to containerd.
	out := bufio.NewWriterSize(w, chunkSize)
	c, err := compression.CompressStream(out, kind)
	if err != nil {
		return "", fmt.Errorf("compress: %w", err)
	}
	// The hash is of SHA-256 whatever the compression is.
	sum := digest.SHA256.Digester()
	in := bufio.NewWriterSize(io.MultiWriter(c, sum.Hash()), chunkSize)
	err = fill(in)
	if err == nil {
		err = in.Flush()
	}
	if e := c.Close(); err == nil && e != nil {
		err = fmt.Errorf("compress: %w", e)
	}
	if err == nil {
		err = out.Flush()
	}
	return sum.Digest(), err
}
