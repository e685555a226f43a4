package task

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// The names under which a shim serves its tasks. Their messages are the same.
const (
	ServiceV2 = "containerd.task.v2.Task"
	ServiceV3 = "containerd.task.v3.Task"
)

// namespaceHeader is how containerd names the namespace of a request (pkg/namespaces).
const namespaceHeader = "containerd-namespace-ttrpc"

// Register adds both versions of the service to server.
func (s *Service) Register(server *ttrpc.Server) {
	methods := map[string]ttrpc.Method{
		"State":      method(s, s.State),
		"Create":     method(s, s.Create),
		"Start":      method(s, s.Start),
		"Delete":     method(s, s.Delete),
		"Pids":       method(s, s.Pids),
		"Pause":      method(s, s.Pause),
		"Resume":     method(s, s.Resume),
		"Checkpoint": method(s, s.Checkpoint),
		"Kill":       method(s, s.Kill),
		"Exec":       method(s, s.Exec),
		"ResizePty":  method(s, s.ResizePty),
		"CloseIO":    method(s, s.CloseIO),
		"Update":     method(s, s.Update),
		"Wait":       method(s, s.Wait),
		"Stats":      method(s, s.Stats),
		"Connect":    method(s, s.Connect),
		"Shutdown":   method(s, s.Shutdown),
	}
	for _, name := range []string{ServiceV2, ServiceV3} {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: methods})
	}
}

// method is the service's edge: requests come in, errors go out as gRPC status.
func method[Request, Response any](s *Service, call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := new(Request)
		if err := unmarshal(request); err != nil {
			return nil, fmt.Errorf("decode request: %w", err)
		}
		if namespace, ok := ttrpc.GetMetadataValue(ctx, namespaceHeader); ok && namespace != s.config.Namespace {
			return nil, errgrpc.ToGRPC(fmt.Errorf("this shim serves namespace %s, not %s: %w", s.config.Namespace, namespace,
				errdefs.ErrInvalidArgument))
		}
		response, err := call(ctx, request)
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		return response, nil
	}
}
