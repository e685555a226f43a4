package diff

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/snapshotter/layer"
	"github.com/pvelxc/pvelxc/snapshotter/mounts"
)

// Options of a Differ.
type Options struct {
	// Mounts opens the trees.
	Mounts *mounts.Pool
	// Content is containerd's content store, and Leases keep from its garbage collection what was just written to it.
	// Both take the namespace from the context.
	Content content.Store
	Leases  leases.Manager
	// Descends says whether the upper mount shows a later state of the very tree that the lower one shows
	// (layer.CompareOptions). nil: never.
	Descends func(ctx context.Context, lower, upper mount.Mount) bool
	// Applying, when not nil, is told of the begin of each Apply, with the source of its mount; the result is called at
	// its end, with the digest of the layer or "".
	Applying func(source string) (done func(digest.Digest))
	// Observe, when not nil, is told of every operation: its name, duration and result.
	Observe func(op string, took time.Duration, err error)
}

// Differ implements diff.Applier and diff.Comparer.
type Differ struct{ o Options }

var (
	_ diff.Applier  = (*Differ)(nil)
	_ diff.Comparer = (*Differ)(nil)
)

// New makes a Differ.
func New(o Options) *Differ { return &Differ{o} }

func (d *Differ) observe(op string, start time.Time, err *error) {
	// What another differ will do is none of ours.
	if d.o.Observe != nil && !errdefs.IsNotImplemented(*err) {
		d.o.Observe(op, time.Since(start), *err)
	}
}

// outgoing makes a request's namespace and lease those of the requests that it leads to.
func outgoing(ctx context.Context) (context.Context, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	ctx = namespaces.WithNamespace(ctx, ns)
	if id, ok := leases.FromContext(ctx); ok {
		ctx = leases.WithLease(ctx, id)
	}
	return ctx, nil
}

// Apply unpacks a layer's blob onto a snapshot. The result describes the uncompressed layer: its digest is of the very
// bytes that were unpacked.
func (d *Differ) Apply(ctx context.Context, desc ocispec.Descriptor, list []mount.Mount, opts ...diff.ApplyOpt) (applied ocispec.Descriptor, err error) {
	start := time.Now()
	defer d.observe("apply", start, &err)
	var config diff.ApplyConfig
	for _, o := range opts {
		if err := o(ctx, desc, &config); err != nil {
			return applied, err
		}
	}
	root, done, err := d.o.Mounts.Write(list)
	if err != nil {
		return applied, fmt.Errorf("apply %s: %w", desc.Digest, err)
	}
	defer done()
	if d.o.Applying != nil {
		told := d.o.Applying(list[0].Source)
		defer func() {
			if err != nil {
				applied.Digest = ""
			}
			told(applied.Digest)
		}()
	}
	if ctx, err = outgoing(ctx); err != nil {
		return applied, fmt.Errorf("apply %s: %w", desc.Digest, err)
	}
	// Whoever waits for a blob stops with the request.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	blob, err := d.o.Content.ReaderAt(ctx, desc)
	if err != nil {
		return applied, fmt.Errorf("apply %s: read the blob: %w", desc.Digest, err)
	}
	defer blob.Close()
	ahead := newStream(content.NewReader(blob), false)
	defer ahead.close()
	tar, err := decompress(ctx, desc.MediaType, ahead, config)
	if err != nil {
		return applied, fmt.Errorf("apply %s: %w", desc.Digest, err)
	}
	defer tar.Close()
	in := newStream(tar, true)
	defer func() {
		// What still waits for the blob must not.
		cancel()
		in.close()
	}()
	entries, err := layer.Apply(ctx, root, in)
	if err == nil {
		// The end of the archive is not that of the layer, whose digest is of all of it.
		_, err = io.Copy(io.Discard, in)
	}
	if err == nil {
		err = tar.failed()
	}
	if err == nil && config.SyncFs {
		err = syncTree(int(root.Fd()))
	}
	if err != nil {
		return applied, fmt.Errorf("apply %s to %s: %w", desc.Digest, root.Name(), classify(err))
	}
	applied.MediaType = ocispec.MediaTypeImageLayer
	applied.Digest, applied.Size = in.sum()
	log.G(ctx).WithFields(log.Fields{"digest": desc.Digest, "dataset": root.Name(), "entries": entries, "took": time.Since(start)}).Debug("layer applied")
	return applied, nil
}

// syncTree is syncfs(2) for a descriptor of O_PATH.
func syncTree(dir int) error {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

// classify gives errors of the kernel and of the layer their class.
func classify(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w (hint: zfs list -o space)", errdefs.ErrResourceExhausted, err)
	case errors.Is(err, layer.ErrInvalid):
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return err
}

// chain are the processors from a blob's media type to a tar.
type chain struct {
	diff.StreamProcessor
	all []diff.StreamProcessor
}

func decompress(ctx context.Context, mediaType string, r io.Reader, config diff.ApplyConfig) (*chain, error) {
	if strings.HasSuffix(mediaType, "+encrypted") {
		// containerd has the processors for these.
		return nil, fmt.Errorf("media type %s: %w", mediaType, errdefs.ErrNotImplemented)
	}
	c := &chain{StreamProcessor: diff.NewProcessorChain(mediaType, bufio.NewReaderSize(r, chunkSize))}
	for {
		p, err := diff.GetProcessor(ctx, c.StreamProcessor, config.ProcessorPayloads)
		if err != nil {
			if errors.Is(err, diff.ErrNoProcessor) {
				err = fmt.Errorf("media type %s: %w: %w", c.MediaType(), err, errdefs.ErrNotImplemented)
			}
			return nil, errors.Join(err, c.Close())
		}
		c.StreamProcessor = p
		c.all = append(c.all, p)
		if p.MediaType() == ocispec.MediaTypeImageLayer {
			return c, nil
		}
	}
}

// Close ends all of them, the last one first.
func (c *chain) Close() error {
	var err error
	for i := range c.all {
		err = errors.Join(err, c.all[len(c.all)-1-i].Close())
	}
	return err
}

// failed gives what processors have to say that ended without a word to their reader.
func (c *chain) failed() error {
	for _, p := range c.all {
		if f, ok := p.(interface{ Err() error }); ok {
			if err := f.Err(); err != nil {
				return fmt.Errorf("decompress: %w", err)
			}
		}
	}
	return nil
}
