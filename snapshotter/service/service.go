// Package service serves a Snapshotter and a Differ to containerd: the snapshots and diff APIs and health over gRPC, as
// proxy plugins expect them on a socket, and beside them what an administrator asks.
package service

import (
	"cmp"
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
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pvelxc/pvelxc/snapshotter/garbage"
)

// stopTimeout bounds the wait for requests under way when the service ends.
const stopTimeout = 20 * time.Second

// Differ is both halves of the diff API.
type Differ interface {
	diff.Applier
	diff.Comparer
}

// Services are what is served.
type Services struct {
	Snapshotter snapshots.Snapshotter
	Differ      Differ
	// Garbage, when not nil, answers an administrator's questions about what nothing uses.
	Garbage garbage.Collector
	// Healthy, when not nil, is asked now and then; its error makes the answer to health checks NOT_SERVING. It must
	// not wait.
	Healthy func() error
	// HealthEvery is how often; 0 is every 5 s.
	HealthEvery time.Duration
}

// Serve answers on the listener until ctx ends; then it lets requests under way finish, and returns nil. It closes the
// listener, and neither snapshotter nor differ.
func Serve(ctx context.Context, l net.Listener, s Services) error {
	server := grpc.NewServer(grpc.UnaryInterceptor(logged), grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s.Snapshotter))
	diffapi.RegisterDiffServer(server, diffservice.FromApplierAndComparer(s.Differ, s.Differ))
	state := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	if s.Garbage != nil {
		garbage.Register(server, s.Garbage)
	}
	if s.Healthy != nil {
		watch(ctx, state, s.Healthy, cmp.Or(s.HealthEvery, 5*time.Second))
	}
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

// watch keeps the answer to health checks, until ctx ends. The first answer is there when it returns.
func watch(ctx context.Context, state *health.Server, healthy func() error, every time.Duration) {
	well := true
	look := func() {
		err := healthy()
		answer := grpc_health_v1.HealthCheckResponse_SERVING
		if err != nil {
			answer = grpc_health_v1.HealthCheckResponse_NOT_SERVING
		}
		state.SetServingStatus("", answer)
		if well != (err == nil) {
			well = err == nil
			if well {
				log.G(ctx).Info("healthy again")
			} else {
				log.G(ctx).WithError(err).Error("not healthy")
			}
		}
	}
	look()
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				look()
			}
		}
	}()
}

// logged gives a request's log lines its namespace and key, and tells how it ended: failures that are nobody's fault but
// ours or the pool's as warnings, all else to those who debug.
func logged(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	fields := log.Fields{}
	if ns, ok := namespaces.Namespace(ctx); ok {
		fields["namespace"] = ns
	}
	if r, ok := req.(interface{ GetKey() string }); ok {
		fields["key"] = r.GetKey()
	}
	ctx = log.WithLogger(ctx, log.G(ctx).WithFields(fields))
	start := time.Now()
	resp, err := next(ctx, req)
	entry := log.G(ctx).WithFields(log.Fields{"method": info.FullMethod, "took": time.Since(start)})
	switch status.Code(err) {
	case codes.OK:
		entry.Debug("answered")
	case codes.Unknown, codes.Internal, codes.Unavailable, codes.ResourceExhausted, codes.DataLoss, codes.DeadlineExceeded:
		entry.WithError(err).Warn("failed")
	default:
		entry.WithError(err).Debug("refused")
	}
	return resp, err
}
