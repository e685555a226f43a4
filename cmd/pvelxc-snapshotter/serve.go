package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/diff"
	"github.com/pvelxc/pvelxc/snapshotter/mounts"
	"github.com/pvelxc/pvelxc/snapshotter/service"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/probe"
)

// serve is the daemon: it opens everything, serves until ctx ends, and closes everything in turn.
func serve(ctx context.Context, file string, c config) (err error) {
	var undo []func() error
	defer func() {
		for i := range undo {
			err = errors.Join(err, undo[len(undo)-1-i]())
		}
	}()
	if err := log.SetLevel(c.LogLevel); err != nil {
		return fmt.Errorf("log_level: %w", err)
	}
	// Layers are decompressed here, beside hashing and writing, and not by a program that happens to be on the path: what
	// takes other people's bytes apart should be able to start nothing.
	for _, name := range []string{"CONTAINERD_DISABLE_PIGZ", "CONTAINERD_DISABLE_IGZIP"} {
		if err := os.Setenv(name, "1"); err != nil {
			return err
		}
	}
	raw, err := probe.Open(ctx, c.Backend)
	if err != nil {
		return err
	}
	undo = append(undo, raw.Close)
	pool := zfs.Pool(c.Root)
	if err := zfs.CheckPool("/proc", pool); err != nil {
		return err
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	m := newMetrics()
	b := zfs.Metered(raw, m.meter)
	trees := mounts.New(mounts.Datasets(c.Root + "/s"))
	undo = append(undo, func() error { trees.Close(); return nil })
	remap := sync.OnceValue(func() error { return mounts.CheckIDMap(c.Root) })
	sn, err := snapshotter.Open(ctx, snapshotter.Options{
		Root: c.Root, Dir: c.State, Backend: b, WarmLayers: c.WarmLayers, WarmClones: c.WarmClones,
		ForeignSnapshots: c.ForeignSnapshots, ShareLayers: c.ShareLayers, RemapIDs: remap, Release: trees.Release, Observe: m.observe,
	})
	if err != nil {
		return err
	}
	undo = append(undo, sn.Close)
	if c.Metrics != "" {
		m.count(sn.Stats(), raw)
		m.registry.MustRegister(&inventory{
			counts: sn.Counts, proc: "/proc",
			root: func(ctx context.Context) (zfs.Info, error) { return raw.Stat(ctx, c.Root) },
			pool: func() (string, error) { return zfs.PoolState("/proc", pool) },
		})
		stop, err := m.serve(ctx, c.Metrics)
		if err != nil {
			return err
		}
		undo = append(undo, stop)
	}
	if err := remap(); err != nil {
		log.G(ctx).WithError(err).Warn("no mapped ids here (hint: take remap-ids out of the capabilities of [proxy_plugins.pvelxc])")
	}
	if err := mountExports(c.Root, exportsDir(c.State)); err != nil {
		// Containers run without it.
		log.G(ctx).WithError(err).Warn("the kubelet will not see the capacity of images")
	}
	containerd, err := dial(c.Containerd)
	if err != nil {
		return err
	}
	undo = append(undo, containerd.Close)
	l, err := listen(ctx, c.Address)
	if err != nil {
		return err
	}
	onHangup(ctx, func() { reload(ctx, file, c, sn) })
	log.G(ctx).WithField("backend", b.Name()).WithField("dataset", c.Root).WithField("address", l.Addr()).Info("serving")
	notify(ctx, daemon.SdNotifyReady)
	err = service.Serve(ctx, l, service.Services{
		Snapshotter: sn, Garbage: sn, Differ: newDiffer(trees, containerd, b, sn, m), Healthy: func() error { return zfs.CheckPool("/proc", pool) },
	})
	notify(ctx, daemon.SdNotifyStopping)
	return err
}

func newDiffer(trees *mounts.Pool, containerd *grpc.ClientConn, b zfs.Backend, sn *snapshotter.Snapshotter, m *metrics) *diff.Differ {
	return diff.New(diff.Options{
		Mounts: trees, Content: contentproxy.NewContentStore(containerd), Leases: leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(containerd)),
		Descends: func(ctx context.Context, lower, upper mount.Mount) bool {
			return zfs.Descends(ctx, b, lower.Source, upper.Source)
		},
		Applying: sn.Applying,
		Observe:  m.observe,
	})
}

// notify tells systemd. Without it there is nobody to tell, which is no error.
func notify(ctx context.Context, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.G(ctx).WithError(err).Warn("systemd was not notified")
	}
}

// onHangup calls fn for each SIGHUP until ctx ends.
func onHangup(ctx context.Context, fn func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
				fn()
			}
		}
	}()
}

// tuner is what a reload changes.
type tuner interface {
	Tune(t snapshotter.Tuning) error
}

// reload reads the configuration again and takes over what can change while containers run. One with an error changes
// nothing.
func reload(ctx context.Context, file string, started config, sn tuner) {
	c, err := load(file)
	if err == nil {
		err = log.SetLevel(c.LogLevel)
	}
	if err == nil {
		err = sn.Tune(snapshotter.Tuning{WarmLayers: c.WarmLayers, WarmClones: c.WarmClones, ForeignSnapshots: c.ForeignSnapshots})
	}
	if err != nil {
		log.G(ctx).WithError(err).Error("the configuration is not read again")
		return
	}
	fixed := c
	fixed.WarmLayers, fixed.WarmClones, fixed.ForeignSnapshots, fixed.LogLevel = started.WarmLayers, started.WarmClones, started.ForeignSnapshots, started.LogLevel
	// Another -address is not the file's.
	fixed.Address = started.Address
	if fixed != started {
		log.G(ctx).Warn("the configuration has changes that take a restart: only log_level, warm_layers, warm_clones and foreign_snapshots do not")
	}
	log.G(ctx).Info("the configuration was read again")
}
