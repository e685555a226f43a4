package bootstrap

import (
	"math"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func marshal(t testing.TB, message proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// of is what decodeParams should make of the generated type.
func of(p *api.BootstrapParams) params {
	return params{
		id: p.InstanceID, namespace: p.Namespace, level: int32(p.LogLevel), socketDir: p.GetSocketDir(),
		ttrpc: p.ContainerdTtrpcAddress, grpc: p.ContainerdGrpcAddress, binary: p.ContainerdBinary,
	}
}

func fullParams(t testing.TB) *api.BootstrapParams {
	t.Helper()
	dir := "/run/s"
	full := &api.BootstrapParams{
		InstanceID: "c1", Namespace: "k8s.io", LogLevel: api.LogLevelFromString("trace"), ContainerdVersion: "2.4.2",
		ContainerdTtrpcAddress: "/run/c.ttrpc", ContainerdGrpcAddress: "/run/c.sock", ContainerdBinary: "/usr/bin/containerd", SocketDir: &dir,
	}
	if err := full.AddExtension(&options.Options{SystemdCgroup: true}); err != nil {
		t.Fatal(err)
	}
	return full
}

// TestParams: the decoder reads what containerd's own type writes.
func TestParams(t *testing.T) {
	for name, message := range map[string]*api.BootstrapParams{
		"empty": {}, "full": fullParams(t), "levels": {LogLevel: math.MinInt32}, "positive level": {LogLevel: api.LogLevel_LOG_LEVEL_PANIC},
	} {
		got, err := decodeParams(marshal(t, message))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(of(message), got, cmp.AllowUnexported(params{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestParamsCutOff: every beginning of a message is taken for what it is, or refused.
func TestParamsCutOff(t *testing.T) {
	whole := marshal(t, fullParams(t))
	for n := range whole {
		theirs := new(api.BootstrapParams)
		_, err := decodeParams(whole[:n])
		if (err == nil) != (proto.Unmarshal(whole[:n], theirs) == nil) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func FuzzParams(f *testing.F) {
	f.Add(marshal(f, fullParams(f)))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeParams(data)
		theirs := new(api.BootstrapParams)
		if err != nil || proto.Unmarshal(data, theirs) != nil {
			return // ours refuses groups, theirs looks into the extensions
		}
		if diff := cmp.Diff(of(theirs), got, cmp.AllowUnexported(params{})); diff != "" {
			t.Errorf("-theirs +ours:\n%s", diff)
		}
	})
}

// TestResult: containerd's own type reads what the encoder writes.
func TestResult(t *testing.T) {
	got := new(api.BootstrapResult)
	if err := proto.Unmarshal(encodeResult(3, "unix:///run/s/1"), got); err != nil {
		t.Fatal(err)
	}
	if want := (&api.BootstrapResult{Version: 3, Address: "unix:///run/s/1", Protocol: "ttrpc"}); !proto.Equal(want, got) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestDeleted(t *testing.T) {
	for _, want := range []*taskapi.DeleteResponse{
		{Pid: math.MaxUint32, ExitStatus: 137, ExitedAt: timestamppb.New(time.Unix(1<<33, 999_999_999))},
		{ExitedAt: timestamppb.New(time.Unix(1, 0))},
		{ExitStatus: 1, ExitedAt: timestamppb.New(time.Unix(-1, 5))},
	} {
		got := new(taskapi.DeleteResponse)
		if err := proto.Unmarshal(encodeDeleted(want.Pid, want.ExitStatus, want.ExitedAt.AsTime()), got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(want, got) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}
