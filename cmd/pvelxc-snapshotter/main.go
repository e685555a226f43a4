// Command pvelxc-snapshotter is a containerd proxy plugin: snapshots on ZFS. See package snapshotter.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/diff"
	"github.com/pvelxc/pvelxc/snapshotter/mounts"
	"github.com/pvelxc/pvelxc/snapshotter/service"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/probe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pvelxc-snapshotter:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("pvelxc-snapshotter", flag.ContinueOnError)
	file := flags.String("config", "/etc/pvelxc/snapshotter.toml", "configuration")
	address := flags.String("address", "", "socket to listen on, instead of the configuration's")
	check := flags.Bool("check", false, "check the configuration and end")
	recovery := flags.Bool("recover", false, "rebuild a lost metadata.db from what ZFS knows, and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	raw, err := os.ReadFile(*file)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	c, err := parse(raw)
	if err == nil {
		err = checkStorage(c.Root, storageFile)
	}
	if err != nil {
		return fmt.Errorf("configuration %s: %w", *file, err)
	}
	if *check {
		fmt.Fprintf(out, "%s is valid\n", *file)
		return nil
	}
	if *recovery {
		return recoverMetadata(ctx, c, out)
	}
	if *address != "" {
		c.Address = *address
	}
	return serve(ctx, c)
}

// recoverMetadata reports what it found, so that an administrator can tell what is missing.
func recoverMetadata(ctx context.Context, c config, out io.Writer) (err error) {
	b, err := probe.Open(ctx, c.Backend)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	r, err := snapshotter.Recover(ctx, snapshotter.Options{Root: c.Root, Dir: c.State, Backend: b})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d layers are known again\n", len(r.Layers))
	for _, name := range r.Nameless {
		fmt.Fprintf(out, "%s is a container's and has lost its name; it stays until it is destroyed by hand\n", name)
	}
	for _, why := range r.Refused {
		fmt.Fprintf(out, "left out: %s\n", why)
	}
	return nil
}

func serve(ctx context.Context, c config) (err error) {
	b, err := probe.Open(ctx, c.Backend)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	m := newMetrics()
	trees := mounts.New(mounts.Datasets(c.Root + "/s"))
	defer trees.Close()
	sn, err := snapshotter.Open(ctx, snapshotter.Options{
		Root: c.Root, Dir: c.State, Backend: b, WarmLayers: c.WarmLayers, WarmClones: c.WarmClones,
		ForeignSnapshots: c.ForeignSnapshots, Release: trees.Release, Observe: m.observe,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	if c.Metrics != "" {
		m.count(sn.Stats())
		stop, err := m.serve(ctx, c.Metrics)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	if err := mountExports(c.Root, exportsDir(c.State)); err != nil {
		// Containers run without it.
		log.G(ctx).WithError(err).Warn("the kubelet will not see the capacity of images")
	}
	containerd, err := dial(c.Containerd)
	if err != nil {
		return err
	}
	defer containerd.Close()
	differ := diff.New(diff.Options{
		Mounts: trees, Content: contentproxy.NewContentStore(containerd), Leases: leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(containerd)),
		Descends: func(ctx context.Context, lower, upper mount.Mount) bool {
			return zfs.Descends(ctx, b, lower.Source, upper.Source)
		},
		Observe: m.observe,
	})
	l, err := listen(ctx, c.Address)
	if err != nil {
		return err
	}
	log.G(ctx).WithField("backend", b.Name()).WithField("dataset", c.Root).WithField("address", l.Addr()).Info("serving")
	// Without systemd there is nobody to notify, which is no error.
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.G(ctx).WithError(err).Warn("systemd was not notified")
	}
	return service.Serve(ctx, l, sn, differ)
}

// dial connects to containerd when something is asked of it first: it is started after us, and waits for us.
func dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)))
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	return conn, nil
}

// listen takes the socket that systemd passed, or makes one that only root may use. One that nobody listens on any more
// is replaced.
func listen(ctx context.Context, address string) (net.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("socket of systemd: %w", err)
	}
	if len(passed) > 0 {
		if len(passed) != 1 || passed[0] == nil {
			return nil, fmt.Errorf("systemd passed %d sockets, want one stream socket", len(passed))
		}
		return passed[0], nil
	}
	if err := os.MkdirAll(filepath.Dir(address), 0o711); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
	if err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: another process listens on it", address)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(address); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	// The mode of the socket is that of its making.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l, nil
}
