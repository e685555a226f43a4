package bootstrap

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// shimSocket is a place for a socket: t.TempDir may be too long for one.
func shimSocket(t *testing.T) Socket {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Socket(filepath.Join(dir, "s"))
}

// serve is a running shim that has one method of one version of the task service, on the real ttrpc.
func serve(t *testing.T, socket Socket, service, name string, method ttrpc.Method) {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	server.RegisterService(service, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{name: method}})
	listener, err := net.Listen("unix", socket.Path())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// TestAsk: after an upgrade the shim of a pod may be older than this program.
func TestAsk(t *testing.T) {
	for _, test := range []struct {
		name    string
		service string
		connect error
		want    int32
		class   func(error) bool
	}{
		{name: "version 3", service: services[0].name, want: 3},
		{name: "version 2", service: services[1].name, want: 2},
		{name: "neither", service: "containerd.task.v9.Task", class: errdefs.IsNotImplemented},
		{name: "on its way out", service: services[0].name, connect: errdefs.ErrUnavailable, want: 0},
		{name: "broken", service: services[0].name, connect: errors.New("its disk is full"), class: errdefs.IsInternal},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := shimSocket(t)
			serve(t, socket, test.service, "Connect", func(ctx context.Context, unmarshal func(any) error) (any, error) {
				request := new(taskapi.ConnectRequest)
				if err := unmarshal(request); err != nil || request.ID != "c1" {
					t.Errorf("request %v, %v", request, err)
				}
				if namespace, _ := ttrpc.GetMetadataValue(ctx, "containerd-namespace-ttrpc"); namespace != "ns" {
					t.Errorf("namespace %q", namespace)
				}
				if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > askTimeout {
					t.Errorf("deadline %v, %v", deadline, ok)
				}
				if test.connect != nil {
					return nil, errgrpc.ToGRPC(test.connect)
				}
				return &taskapi.ConnectResponse{ShimPid: 1}, nil
			})
			version, err := (&Invocation{ID: "c1", Namespace: "ns"}).ask(socket)
			if version != test.want || (err == nil) != (test.class == nil) || err != nil && !test.class(err) {
				t.Errorf("version %d, error %v", version, err)
			}
		})
	}
}

// TestAskNobody: no socket, a dead one, one that is closed without an answer, and one that is silent.
func TestAskNobody(t *testing.T) {
	in := &Invocation{ID: "c1", Namespace: "ns"}
	socket := shimSocket(t)
	if version, err := in.ask(socket); version != 0 || err != nil {
		t.Errorf("no socket: version %d, %v", version, err)
	}
	file, err := socket.listen()
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() {
		_, err := in.ask(socket)
		asked <- err
	}()
	listener, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := <-asked; err != nil {
		t.Errorf("closed without an answer: %v", err)
	}
	if _, err := in.ask(socket); !errdefs.IsDeadlineExceeded(err) {
		t.Errorf("silent: %v", err)
	}
	_ = listener.Close()
	_ = file.Close()
	if _, err := os.Lstat(socket.Path()); err != nil {
		t.Fatalf("test is void: the name is gone: %v", err)
	}
	if version, err := in.ask(socket); version != 0 || err != nil {
		t.Errorf("dead socket: version %d, %v", version, err)
	}
}

// TestListen: the socket is its owner's alone from the first moment, and takes a dead one's place.
func TestListen(t *testing.T) {
	socket := shimSocket(t)
	for range 2 {
		file, err := socket.listen()
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(socket.Path())
		if err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		_ = file.Close()
	}
}

// FuzzStatus: what a shim answers is no reason to crash.
func FuzzStatus(f *testing.F) {
	f.Add([]byte("\x0a\x04\x08\x0e\x12\x00"))
	f.Fuzz(func(t *testing.T, response []byte) {
		ours, message, err := status(response)
		theirs := new(ttrpc.Response)
		if err != nil || proto.Unmarshal(response, theirs) != nil {
			return
		}
		if int32(ours) != theirs.GetStatus().GetCode() || message != theirs.GetStatus().GetMessage() {
			t.Errorf("%d %q, not %v", ours, message, theirs)
		}
	})
}
