package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/garbage"
	"github.com/pvelxc/pvelxc/snapshotter/service"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/fake"
)

// illness is health that changes.
type illness struct{ err atomic.Pointer[error] }

func (i *illness) check() error {
	if p := i.err.Load(); p != nil {
		return *p
	}
	return nil
}

// TestServe is what containerd does: through the socket, with the classes of errors intact, cleanup included.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	b, err := fake.New(filepath.Join(dir, "pool"), "tank")
	if err != nil {
		t.Fatal(err)
	}
	sn, err := snapshotter.Open(t.Context(), snapshotter.Options{Root: "tank/pvelxc", Dir: dir, Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	socket := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	well := &illness{}
	go func() {
		done <- service.Serve(ctx, l, service.Services{Snapshotter: sn, Garbage: sn, Healthy: well.check, HealthEvery: 10 * time.Millisecond})
	}()

	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || h.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
	p := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "pvelxc")
	m, err := p.Prepare(t.Context(), "n/1/extract-1 x", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m[0].Source+"/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(t.Context(), "a", "n/1/extract-1 x"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Prepare(t.Context(), "c", "none"); !errdefs.IsNotFound(err) {
		t.Errorf("prepare on nothing: %v", err)
	}
	if _, err := p.Prepare(t.Context(), "c", "a"); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(t.Context(), "a"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove with a child: %v", err)
	}
	for _, k := range []string{"c", "a"} {
		if err := p.Remove(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.(snapshots.Cleaner).Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(b.Names()); n != 3 {
		t.Errorf("objects stay: %v", b.Names())
	}
	// What an administrator asks: through the same socket.
	if err := b.Create(t.Context(), "tank/pvelxc/s/abcdefghijklm", nil); err != nil {
		t.Fatal(err)
	}
	admin := garbage.Client{Conn: conn}
	items, err := admin.Garbage(t.Context())
	if err != nil || len(items) != 1 || items[0].Name != "tank/pvelxc/s/abcdefghijklm" || items[0].Kept || items[0].Reason == "" {
		t.Errorf("garbage %+v, %v", items, err)
	}
	if err := admin.Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if items, err = admin.Garbage(t.Context()); err != nil || len(items) != 0 || len(b.Names()) != 3 {
		t.Errorf("reclaimed, and there are %+v, %v: %v", items, b.Names(), err)
	}
	// An unhealthy pool is told of, and its recovery too.
	for _, err := range []error{errdefs.ErrUnavailable, nil} {
		well.err.Store(&err)
		want := grpc_health_v1.HealthCheckResponse_SERVING
		if err != nil {
			want = grpc_health_v1.HealthCheckResponse_NOT_SERVING
		}
		deadline := time.Now().Add(time.Minute)
		for {
			h, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if h.GetStatus() == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("health stays %v", h.GetStatus())
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

// A failure that is nobody's fault but ours or the pool's is a line with what was asked, by whom and for what; one that is
// the client's is not.
func TestLoggedFields(t *testing.T) {
	var out bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&out)
	logger.SetFormatter(&logrus.JSONFormatter{})
	ctx := namespaces.WithNamespace(log.WithLogger(t.Context(), logrus.NewEntry(logger)), "moon")
	for _, err := range []error{status.Error(codes.ResourceExhausted, "no space left"), status.Error(codes.NotFound, "no such parent"), nil} {
		_, got := service.Logged(ctx, &snapshotsapi.PrepareSnapshotRequest{Key: "moon/1/c"}, &grpc.UnaryServerInfo{FullMethod: "/snapshots/Prepare"},
			func(context.Context, any) (any, error) { return nil, err })
		if !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("not one line: %v\n%s", err, &out)
	}
	for key, want := range map[string]string{"level": "warning", "namespace": "moon", "key": "moon/1/c", "method": "/snapshots/Prepare"} {
		if line[key] != want {
			t.Errorf("%s is %v, want %s", key, line[key], want)
		}
	}
	if text, _ := line["error"].(string); !strings.Contains(text, "no space left") || line["took"] == nil {
		t.Errorf("%v", line)
	}
}
