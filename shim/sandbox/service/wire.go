package service

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pvelxc/pvelxc/shim/sandbox"
	"github.com/pvelxc/pvelxc/shim/wire"
)

// Name is that of the service. Its generated types come in one package with gRPC, so its messages are read and written field by
// field; the numbers are those of api/runtime/sandbox/v1/sandbox.proto, to which the tests hold them.
const Name = "containerd.runtime.sandbox.v1.Sandbox"

// The states of CRI (runtime.v1.PodSandboxState).
const (
	ready    = "SANDBOX_READY"
	notReady = "SANDBOX_NOTREADY"
)

// specType is what containerd calls a specification, which travels as JSON (core/runtime/typeurl.go).
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// namespaceHeader is how containerd names the namespace of a request (pkg/namespaces).
const namespaceHeader = "containerd-namespace-ttrpc"

// Register adds the service to server.
func (s *Service) Register(server *ttrpc.Server) {
	methods := map[string]func(context.Context, []byte) (wire.Builder, error){
		"CreateSandbox":   s.createSandbox,
		"StartSandbox":    s.startSandbox,
		"Platform":        s.known(func(b *wire.Builder, _ *sandbox.Sandbox) error { return b.Add(1, platform()) }),
		"StopSandbox":     s.empty(s.stop),
		"WaitSandbox":     s.waitSandbox,
		"SandboxStatus":   s.sandboxStatus,
		"PingSandbox":     s.known(func(*wire.Builder, *sandbox.Sandbox) error { return nil }),
		"ShutdownSandbox": s.empty(s.shutdown),
		"SandboxMetrics":  s.known(metrics),
	}
	description := &ttrpc.ServiceDesc{Methods: make(map[string]ttrpc.Method)}
	for name, call := range methods {
		description.Methods[name] = s.method(call)
	}
	server.RegisterService(Name, description)
}

// method is the service's edge: bytes come in and go out, errors as gRPC status. An empty message keeps what it does not know, and
// is so a message of any type.
func (s *Service) method(call func(context.Context, []byte) (wire.Builder, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		var message emptypb.Empty
		if err := unmarshal(&message); err != nil {
			return nil, fmt.Errorf("decode request: %w", err)
		}
		if namespace, ok := ttrpc.GetMetadataValue(ctx, namespaceHeader); ok && namespace != s.config.Namespace {
			return nil, errgrpc.ToGRPC(fmt.Errorf("this shim serves namespace %s, not %s: %w", s.config.Namespace, namespace, errdefs.ErrInvalidArgument))
		}
		data, err := call(ctx, message.ProtoReflect().GetUnknown())
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		response := new(emptypb.Empty)
		response.ProtoReflect().SetUnknown([]byte(data))
		return response, nil
	}
}

// request is what the requests but the first have.
type request struct {
	id      string
	verbose bool // of a SandboxStatusRequest
}

func decode(message []byte) (r request, err error) {
	err = wire.Message(message, func(n protowire.Number, v wire.Value) error {
		switch n {
		case 1:
			return v.Text(&r.id)
		case 2:
			r.verbose = v.Number != 0
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("decode request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return r, err
}

// empty is a method that answers with an empty message.
func (s *Service) empty(call func(ctx context.Context, id string) error) func(context.Context, []byte) (wire.Builder, error) {
	return func(ctx context.Context, message []byte) (wire.Builder, error) {
		r, err := decode(message)
		if err != nil {
			return nil, err
		}
		return nil, call(ctx, r.id)
	}
}

// known is a method that answers about the sandbox.
func (s *Service) known(answer func(*wire.Builder, *sandbox.Sandbox) error) func(context.Context, []byte) (wire.Builder, error) {
	return func(_ context.Context, message []byte) (wire.Builder, error) {
		r, err := decode(message)
		if err != nil {
			return nil, err
		}
		b, err := s.get(r.id)
		if err != nil {
			return nil, err
		}
		var response wire.Builder
		err = answer(&response, b)
		return response, err
	}
}

func (s *Service) createSandbox(ctx context.Context, message []byte) (wire.Builder, error) {
	var r createRequest
	err := wire.Message(message, func(n protowire.Number, v wire.Value) error {
		if n == 4 {
			r.options = new(anypb.Any)
			return proto.Unmarshal(v.Bytes, r.options)
		}
		return v.Text(map[protowire.Number]*string{1: &r.id, 2: &r.bundle, 5: &r.netns}[n])
	})
	if err != nil {
		return nil, fmt.Errorf("decode request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil, s.create(ctx, r)
}

func (s *Service) startSandbox(ctx context.Context, message []byte) (wire.Builder, error) {
	r, err := decode(message)
	if err != nil {
		return nil, err
	}
	b, err := s.start(ctx, r.id)
	if err != nil {
		return nil, err
	}
	spec, err := encodeSpec(b.Spec())
	if err != nil {
		return nil, err
	}
	status := b.Status()
	var response wire.Builder
	response.Number(1, uint64(status.Pid))
	response.Time(2, status.CreatedAt)
	err = response.Add(3, spec)
	return response, err
}

func encodeSpec(spec *specs.Spec) (*anypb.Any, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode specification: %w", err)
	}
	return &anypb.Any{TypeUrl: specType, Value: data}, nil
}

func (s *Service) waitSandbox(ctx context.Context, message []byte) (wire.Builder, error) {
	r, err := decode(message)
	if err != nil {
		return nil, err
	}
	b, err := s.get(r.id)
	if err != nil {
		return nil, err
	}
	status, err := b.Wait(ctx)
	if err != nil {
		return nil, err
	}
	var response wire.Builder
	response.Number(1, uint64(status.ExitStatus))
	response.Time(2, status.ExitedAt)
	return response, nil
}

func (s *Service) sandboxStatus(_ context.Context, message []byte) (wire.Builder, error) {
	r, err := decode(message)
	if err != nil {
		return nil, err
	}
	b, err := s.get(r.id)
	if err != nil {
		return nil, err
	}
	status, state := b.Status(), notReady
	if status.Ready() {
		state = ready
	}
	var response wire.Builder
	response.Text(1, r.id)
	response.Number(2, uint64(status.Pid))
	response.Text(3, state)
	if r.verbose {
		info, err := verboseInfo(b, status)
		if err != nil {
			return nil, err
		}
		response.Entry(4, "info", info)
	}
	response.Time(5, status.CreatedAt)
	response.Time(6, status.ExitedAt)
	return response, nil
}

// verboseInfo is what CRI shows of a sandbox, in the names that it has for that of a pause container.
func verboseInfo(b *sandbox.Sandbox, status sandbox.Status) (string, error) {
	data, err := json.Marshal(struct {
		Pid    int         `json:"pid"`
		Status string      `json:"processStatus"`
		Spec   *specs.Spec `json:"runtimeSpec"`
	}{status.Pid, map[bool]string{true: "running", false: "stopped"}[status.Ready()], b.Spec()})
	if err != nil {
		return "", fmt.Errorf("encode status of sandbox: %w", err)
	}
	return string(data), nil
}

func metrics(response *wire.Builder, b *sandbox.Sandbox) error {
	value, err := b.Metrics()
	if err != nil {
		return err
	}
	data, err := typeurl.MarshalAnyToProto(value)
	if err != nil {
		return fmt.Errorf("encode metrics %T: %w", value, err)
	}
	return response.Add(1, &types.Metric{Timestamp: timestamppb.New(time.Now()), ID: b.ID(), Data: data})
}
