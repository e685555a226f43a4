package service

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/sandbox"
)

// tasks notes what it is told.
type tasks struct {
	mu    sync.Mutex
	calls []string
	fail  map[string]error
}

func (k *tasks) note(call string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, call)
	return k.fail[call]
}

func (k *tasks) Hold() error                   { return k.note("hold") }
func (k *tasks) KillAll(context.Context) error { return k.note("kill") }
func (k *tasks) Clear(context.Context) error   { return k.note("clear") }
func (k *tasks) End()                          { _ = k.note("end") }
func (k *tasks) EndIfEmpty()                   { _ = k.note("end if empty") }

func (k *tasks) took() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	took := k.calls
	k.calls = nil
	return took
}

// serve runs the service behind containerd's own client.
func serve(t *testing.T) (api.TTRPCSandboxService, *tasks) {
	t.Helper()
	k := &tasks{fail: make(map[string]error)}
	root := t.TempDir()
	s := New(Config{Namespace: "k8s.io", Tasks: k, Create: func(ctx context.Context, c sandbox.Config) (*sandbox.Sandbox, error) {
		c.Settings = container.Settings{Root: root}
		return sandbox.New(ctx, c)
	}})
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	s.Register(server)
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), listener) }()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { client.Close(); server.Close() })
	return api.NewTTRPCSandboxClient(client), k
}

// host is a pod that shares everything with the host: metadata, host name, and the modes NODE of linux.security_context.
var host = &anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: []byte{
	0x0a, 5, 0x0a, 3, 'w', 'e', 'b', 0x12, 1, 'h', 0x42, 10, 0x12, 8, 0x0a, 6, 0x08, 2, 0x10, 2, 0x18, 2,
}}

// TestLife: a sandbox's life as containerd leads it.
func TestLife(t *testing.T) {
	client, k := serve(t)
	ctx := t.Context()
	if _, err := client.SandboxStatus(ctx, &api.SandboxStatusRequest{SandboxID: "sb"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("status of what is not there: %v", err)
	}
	create := &api.CreateSandboxRequest{SandboxID: "sb", BundlePath: "/b", Options: host}
	if _, err := client.CreateSandbox(ctx, create); err != nil {
		t.Fatal(err)
	}
	if got := k.took(); !slices.Equal(got, []string{"hold"}) {
		t.Errorf("a creation did %v", got)
	}
	if _, err := client.CreateSandbox(ctx, create); !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		t.Errorf("a second creation: %v", err)
	}
	state := func() *api.SandboxStatusResponse {
		t.Helper()
		s, err := client.SandboxStatus(ctx, &api.SandboxStatusRequest{SandboxID: "sb", Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := state(); s.State != "SANDBOX_NOTREADY" || s.CreatedAt != nil || s.SandboxID != "sb" {
		t.Errorf("before the start: %v", s)
	}
	started, err := client.StartSandbox(ctx, &api.StartSandboxRequest{SandboxID: "sb"})
	if err != nil {
		t.Fatal(err)
	}
	if started.Pid != 0 || started.CreatedAt.AsTime().IsZero() || !strings.Contains(string(started.Spec.GetValue()), `"io.kubernetes.cri.sandbox-name":"web"`) ||
		started.Spec.GetTypeUrl() != specType {
		t.Errorf("started: %v", started)
	}
	if s := state(); s.State != "SANDBOX_READY" || !s.CreatedAt.AsTime().Equal(started.CreatedAt.AsTime()) || s.ExitedAt != nil || !strings.Contains(s.Info["info"], `"pid":0`) {
		t.Errorf("after the start: %v", s)
	}
	if p, err := client.Platform(ctx, &api.PlatformRequest{SandboxID: "sb"}); err != nil || p.Platform.OS != "linux" || p.Platform.Architecture != runtime.GOARCH {
		t.Errorf("platform: %v, %v", p, err)
	}
	if _, err := client.PingSandbox(ctx, &api.PingRequest{SandboxID: "sb"}); err != nil {
		t.Errorf("ping: %v", err)
	}
	if _, err := client.SandboxMetrics(ctx, &api.SandboxMetricsRequest{SandboxID: "sb"}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("metrics of a pod without a control group: %v", err)
	}
	ended := make(chan *api.WaitSandboxResponse, 1)
	go func() {
		r, err := client.WaitSandbox(ctx, &api.WaitSandboxRequest{SandboxID: "sb"})
		if err != nil {
			t.Errorf("wait: %v", err)
		}
		ended <- r
	}()
	if _, err := client.StopSandbox(ctx, &api.StopSandboxRequest{SandboxID: "sb", TimeoutSecs: 1}); err != nil {
		t.Fatal(err)
	}
	if r := <-ended; r.GetExitStatus() != 0 || r.GetExitedAt().AsTime().IsZero() {
		t.Errorf("its end: %v", r)
	}
	if s := state(); s.State != "SANDBOX_NOTREADY" || s.ExitedAt == nil {
		t.Errorf("after the stop: %v", s)
	}
	k.fail["clear"] = errors.New("busy")
	if _, err := client.ShutdownSandbox(ctx, &api.ShutdownSandboxRequest{SandboxID: "sb"}); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("a shutdown that fails: %v", err)
	}
	delete(k.fail, "clear")
	if _, err := client.ShutdownSandbox(ctx, &api.ShutdownSandboxRequest{SandboxID: "other"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("shutdown of another: %v", err)
	}
	if _, err := client.ShutdownSandbox(ctx, &api.ShutdownSandboxRequest{SandboxID: "sb"}); err != nil {
		t.Fatal(err)
	}
	if got, want := k.took(), []string{"kill", "clear", "clear", "end"}; !slices.Equal(got, want) {
		t.Errorf("the end did %v, want %v", got, want)
	}
}

// TestBadRequests: what is refused leaves no sandbox, and a shim that never had one ends when it is asked to.
func TestBadRequests(t *testing.T) {
	client, k := serve(t)
	ctx := t.Context()
	for name, r := range map[string]*api.CreateSandboxRequest{
		"no options":           {SandboxID: "sb", BundlePath: "/b"},
		"no network namespace": {SandboxID: "sb", BundlePath: "/b", Options: &anypb.Any{TypeUrl: host.TypeUrl}},
		"options of no pod":    {SandboxID: "sb", BundlePath: "/b", Options: &anypb.Any{TypeUrl: host.TypeUrl, Value: []byte{1}}},
	} {
		if _, err := client.CreateSandbox(ctx, r); !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k.fail["hold"] = errdefs.ErrUnavailable
	if _, err := client.CreateSandbox(ctx, &api.CreateSandboxRequest{SandboxID: "sb", BundlePath: "/b", Options: host}); !errdefs.IsUnavailable(errgrpc.ToNative(err)) {
		t.Errorf("in a shim that ends: %v", err)
	}
	other := ttrpc.WithMetadata(ctx, ttrpc.MD{"containerd-namespace-ttrpc": []string{"other"}})
	if _, err := client.PingSandbox(other, &api.PingRequest{SandboxID: "sb"}); !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("from another namespace: %v", err)
	}
	if _, err := client.UpdateSandbox(ctx, &api.UpdateSandboxRequest{SandboxID: "sb"}); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("update, which containerd expects to be missing: %v", err)
	}
	k.took()
	if _, err := client.ShutdownSandbox(ctx, &api.ShutdownSandboxRequest{SandboxID: "sb"}); err != nil {
		t.Error(err)
	}
	if got := k.took(); !slices.Equal(got, []string{"end if empty"}) {
		t.Errorf("a shutdown without a sandbox did %v", got)
	}
}

// TestNumbers holds the numbers that are written here to those of the service's own messages.
func TestNumbers(t *testing.T) {
	for message, numbers := range map[protoreflect.ProtoMessage]map[string]int{
		&api.CreateSandboxRequest{}:   {"sandbox_id": 1, "bundle_path": 2, "options": 4, "netns_path": 5},
		&api.StartSandboxResponse{}:   {"pid": 1, "created_at": 2, "spec": 3},
		&api.WaitSandboxResponse{}:    {"exit_status": 1, "exited_at": 2},
		&api.SandboxStatusRequest{}:   {"sandbox_id": 1, "verbose": 2},
		&api.SandboxStatusResponse{}:  {"sandbox_id": 1, "pid": 2, "state": 3, "info": 4, "created_at": 5, "exited_at": 6},
		&api.PlatformResponse{}:       {"platform": 1},
		&api.SandboxMetricsResponse{}: {"metrics": 1},
	} {
		fields := message.ProtoReflect().Descriptor().Fields()
		for name, want := range numbers {
			if f := fields.ByName(protoreflect.Name(name)); f == nil || int(f.Number()) != want {
				t.Errorf("%s.%s is not field %d", message.ProtoReflect().Descriptor().Name(), name, want)
			}
		}
	}
}
