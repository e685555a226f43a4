package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

const (
	namespace   = "bench"
	snapshotter = "overlayfs"
)

// subject is one runtime under measurement.
type subject struct {
	name, runtime string
	options       any
	daemon        *daemon.Daemon
	image         containerd.Image
}

// bench holds the runtimes and the containerds they run on.
type bench struct {
	subjects []*subject
	daemons  []*daemon.Daemon
	serial   atomic.Int64
}

// newBench starts containerd and prepares the image. crun gets a containerd of its own where the
// host has the hybrid cgroup layout, which crun refuses: there, cgroup v2 is hidden from it.
func newBench(ctx context.Context, names []string) (_ *bench, err error) {
	b := new(bench)
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	main, err := b.start(ctx, "main", nil)
	if err != nil {
		return nil, err
	}
	crunDaemon := main
	crun, err := exec.LookPath("crun")
	if err != nil {
		return nil, fmt.Errorf("find crun: %w (hint: make deps)", err)
	}
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err == nil && (len(names) == 0 || slices.Contains(names, "crun")) {
		hide := []string{"unshare", "-m", "--propagation", "private", "sh", "-c", `umount ` + unified + ` && exec "$@"`, "sh"}
		if crunDaemon, err = b.start(ctx, "crun", hide); err != nil {
			return nil, err
		}
	}
	runc := filepath.Join(daemon.Peers(), "runc-1.5.1", "runc")
	all := []*subject{
		{name: "ours", runtime: "io.containerd.pvelxc.v2", daemon: main},
		{name: "runc", runtime: "io.containerd.runc.v2", daemon: main, options: &runcoptions.Options{BinaryName: runc}},
		{name: "crun", runtime: "io.containerd.runc.v2", daemon: crunDaemon, options: &runcoptions.Options{BinaryName: crun}},
	}
	for _, s := range all {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		if s.image, err = s.daemon.Client.GetImage(b.context(ctx), image.Busybox); err != nil {
			return nil, fmt.Errorf("get the image: %w", err)
		}
		b.subjects = append(b.subjects, s)
	}
	return b, nil
}

func (b *bench) start(ctx context.Context, name string, prefix []string) (*daemon.Daemon, error) {
	d, err := daemon.New(filepath.Join(harness.Work, name), daemon.Containerd2, nil)
	if err != nil {
		return nil, err
	}
	d.Prefix = prefix
	if err := d.Start(ctx); err != nil {
		return nil, err
	}
	b.daemons = append(b.daemons, d)
	archive, err := image.Archive()
	if err != nil {
		return nil, err
	}
	imported, err := d.Client.Import(b.context(ctx), bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("import the image: %w", err)
	}
	for _, i := range imported {
		if err := containerd.NewImage(d.Client, i).Unpack(b.context(ctx), snapshotter); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", i.Name, err)
		}
	}
	return d, nil
}

func (b *bench) close() {
	for _, d := range b.daemons {
		if err := d.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

func (b *bench) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// container makes the metadata and the snapshot of a container: containerd's own work, the same for
// every runtime, and so outside all measurements but run_rm. pod is the id of the sandbox it belongs
// to, empty for none.
func (b *bench) container(ctx context.Context, s *subject, pod string, args ...string) (containerd.Container, error) {
	id := fmt.Sprintf("b%d", b.serial.Add(1))
	spec := []oci.SpecOpts{oci.WithDefaultSpec(), oci.WithImageConfig(s.image), oci.WithProcessArgs(args...), olderVersion}
	if pod != "" {
		kind := "container"
		if pod == "self" {
			pod, kind = id, "sandbox"
		}
		spec = append(spec, oci.WithAnnotations(map[string]string{
			"io.kubernetes.cri.sandbox-id":     pod,
			"io.kubernetes.cri.container-type": kind,
		}))
	}
	c, err := s.daemon.Client.NewContainer(b.context(ctx), id,
		containerd.WithImage(s.image),
		containerd.WithSnapshotter(snapshotter),
		containerd.WithNewSnapshot(id, s.image),
		containerd.WithRuntime(s.runtime, s.options),
		containerd.WithNewSpec(spec...))
	if err != nil {
		return nil, fmt.Errorf("%s: new container: %w", s.name, err)
	}
	return c, nil
}

// olderVersion keeps old releases of crun in the race: they refuse newer versions.
func olderVersion(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
	spec.Version = "1.1.0"
	return nil
}

// task creates a task that has no streams.
func (b *bench) task(ctx context.Context, s *subject, c containerd.Container) (containerd.Task, error) {
	t, err := c.NewTask(b.context(ctx), cio.NullIO)
	if err != nil {
		return nil, fmt.Errorf("%s: create: %w", s.name, err)
	}
	return t, nil
}

// remove kills and deletes whatever is there of c.
func (b *bench) remove(ctx context.Context, c containerd.Container) error {
	ctx = b.context(context.WithoutCancel(ctx))
	var errs []error
	if t, err := c.Task(ctx, nil); err == nil {
		_, err := t.Delete(ctx, containerd.WithProcessKill)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.Delete(ctx, containerd.WithSnapshotCleanup))...)
}

// rewrite stands before a crun that refuses the version of the specification that ctr writes. It
// costs crun a shell and a sed, in row run_rm alone.
const rewrite = `#!/bin/sh
previous= create=
for arg; do
	[ "$previous" = --bundle ] && bundle=$arg
	[ "$arg" = create ] && create=1
	previous=$arg
done
[ "$create" ] && sed -i 's/"ociVersion":"1[.][0-9.]*"/"ociVersion":"1.1.0"/' "$bundle/config.json"
exec %s "$@"
`

// anyVersion is the OCI runtime behind runc's shim, for specifications of ctr's version.
func (s *subject) anyVersion() (string, error) {
	if s.name != "crun" {
		return s.binary(), nil
	}
	path := filepath.Join(harness.Work, "crun-any-version")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, os.WriteFile(path, fmt.Appendf(nil, rewrite, s.binary()), 0o755)
}
