package bootstrap

import (
	"bytes"
	"testing"

	api "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestAnswers are the forms of an answer, byte for byte.
func TestAnswers(t *testing.T) {
	const address = "unix:///run/s/1"
	for _, test := range []struct {
		name    string
		modern  bool
		version int32
		want    string
	}{
		{"2.3 and newer", true, 3, "\x08\x03\x12\x0f" + address + "\x1a\x05ttrpc"},
		{"2.3 joining a shim of version 2", true, 2, "\x08\x02\x12\x0f" + address + "\x1a\x05ttrpc"},
		{"1.6 to 2.2", false, 3, address},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := answer(&out, test.modern, test.version, address); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestParameters: only what containerd 2.3 sends is taken for parameters.
func TestParameters(t *testing.T) {
	in := &Invocation{ID: "c1", Namespace: "ns", Address: "/flag.sock", PublishBinary: "/flag/containerd"}
	t.Setenv(TTRPCEnv, "/env.ttrpc")
	legacy := parameters{socketDir: defaultSocketDir, ttrpc: "/env.ttrpc", grpc: "/flag.sock", binary: "/flag/containerd"}
	encode := func(m proto.Message) []byte { return marshal(t, m) }
	dir := "/short"
	for name, test := range map[string]struct {
		input []byte
		want  parameters
	}{
		"nothing":       {nil, legacy},
		"garbage":       {[]byte("\xff\xff"), legacy},
		"options":       {encode(&anypb.Any{TypeUrl: "c1", Value: []byte("other")}), legacy},
		"other's":       {encode(&api.BootstrapParams{InstanceID: "c2", Namespace: "ns"}), legacy},
		"sparse params": {encode(&api.BootstrapParams{InstanceID: "c1", Namespace: "ns"}), with(legacy, func(p *parameters) { p.modern = true })},
		"full params": {
			encode(&api.BootstrapParams{InstanceID: "c1", Namespace: "ns", LogLevel: api.LogLevelFromString("trace"), SocketDir: &dir,
				ContainerdTtrpcAddress: "/p.ttrpc", ContainerdGrpcAddress: "/p.sock", ContainerdBinary: "/p"}),
			parameters{modern: true, debug: true, socketDir: dir, ttrpc: "/p.ttrpc", grpc: "/p.sock", binary: "/p"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, in.parameters(test.input), cmp.AllowUnexported(parameters{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func with(p parameters, change func(*parameters)) parameters {
	change(&p)
	return p
}

func FuzzParameters(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x0a\x02c1\x12\x02ns"))
	in := &Invocation{ID: "c1", Namespace: "ns"}
	f.Fuzz(func(t *testing.T, input []byte) {
		if p := in.parameters(input); p.socketDir == "" {
			t.Error("no socket directory")
		}
	})
}
