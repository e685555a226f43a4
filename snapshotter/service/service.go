// Package service serves a Snapshotter and a Differ to containerd: the snapshots and diff APIs and health over gRPC, as
// proxy plugins expect them on a socket.
package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/diffservice"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/snapshots"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// stopTimeout bounds the wait for requests under way when the service ends.
const stopTimeout = 20 * time.Second

// Differ is both halves of the diff API.
type Differ interface {
	diff.Applier
	diff.Comparer
}

// Serve answers on the listener until ctx ends; then it lets requests under way finish, and returns nil. It closes the
// listener, and neither snapshotter nor differ.
func Serve(ctx context.Context, l net.Listener, sn snapshots.Snapshotter, d Differ) error {
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	diffapi.RegisterDiffServer(server, diffservice.FromApplierAndComparer(d, d))
	state := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	state.Shutdown()
	stopped := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(stopTimeout):
		server.Stop()
	}
	if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}
