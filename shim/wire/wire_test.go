package wire

import (
	"errors"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// TestBuilder: what is written is what the generated type reads.
func TestBuilder(t *testing.T) {
	at := time.Unix(1700000000, 42)
	var b Builder
	b.Text(1, "id")
	b.Number(2, 7)
	b.Text(3, "")
	b.Entry(4, "info", "{}")
	b.Entry(4, "empty", "")
	b.Time(5, at)
	b.Time(6, time.Time{})
	if err := b.Add(7, &anypb.Any{TypeUrl: "x", Value: []byte("y")}); err != nil {
		t.Fatal(err)
	}
	got := new(api.SandboxStatusResponse)
	if err := proto.Unmarshal(b, got); err != nil {
		t.Fatal(err)
	}
	want := &api.SandboxStatusResponse{
		SandboxID: "id", Pid: 7, Info: map[string]string{"info": "{}", "empty": ""}, CreatedAt: timestamppb.New(at),
		Extra: &anypb.Any{TypeUrl: "x", Value: []byte("y")},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// TestMessage: what the generated type writes is what is read.
func TestMessage(t *testing.T) {
	data, err := proto.Marshal(&api.CreateSandboxRequest{
		SandboxID: "id", BundlePath: "/b", Rootfs: []*types.Mount{{Options: []string{"x", "y"}}}, Annotations: map[string]string{"k": "v", "e": ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	var id, bundle string
	var options []string
	annotations := map[string]string{}
	err = Message(data, func(n protowire.Number, v Value) error {
		switch n {
		case 3:
			return v.Message(func(n protowire.Number, v Value) error {
				return v.Texts(map[protowire.Number]*[]string{4: &options}[n])
			})
		case 6:
			key, value, err := v.Entry()
			annotations[key] = value
			return err
		}
		return v.Text(map[protowire.Number]*string{1: &id, 2: &bundle}[n])
	})
	if err != nil {
		t.Fatal(err)
	}
	if id != "id" || bundle != "/b" || !cmp.Equal(options, []string{"x", "y"}) || !cmp.Equal(annotations, map[string]string{"k": "v", "e": ""}) {
		t.Errorf("read %q, %q, %q, %q", id, bundle, options, annotations)
	}
}

func TestMalformed(t *testing.T) {
	all := func(protowire.Number, Value) error { return nil }
	for name, message := range map[string][]byte{
		"no value":       {0x0a},
		"short text":     {0x0a, 5, 'x'},
		"endless varint": {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"field 0":        {0x00, 0x01},
	} {
		if err := Message(message, all); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var text string
	number := []byte{0x08, 0x01}
	if err := Message(number, func(_ protowire.Number, v Value) error { return v.Text(&text) }); !errors.Is(err, errMalformed) {
		t.Errorf("a number as text: %v", err)
	}
	if err := Message(number, func(_ protowire.Number, v Value) error { return v.Message(all) }); !errors.Is(err, errMalformed) {
		t.Errorf("a number as message: %v", err)
	}
	if err := Message([]byte{0x0a, 1, 0xff}, func(_ protowire.Number, v Value) error { return v.Text(&text) }); !errors.Is(err, errMalformed) {
		t.Errorf("text that is none: %v", err)
	}
	fixed := protowire.AppendFixed32(protowire.AppendTag(nil, 9, protowire.Fixed32Type), 1)
	if err := Message(append(fixed, 0x0a, 1, 'x'), func(_ protowire.Number, v Value) error { return v.Text(&text) }); err != nil || text != "x" {
		t.Errorf("after a field of fixed size: %q, %v", text, err)
	}
}

// FuzzMessage: what a hostile client sends is read or refused.
func FuzzMessage(f *testing.F) {
	f.Add([]byte{0x0a, 1, 'x', 0x12, 2, 0x0a, 0})
	f.Fuzz(func(_ *testing.T, data []byte) {
		var read func(protowire.Number, Value) error
		depth := 0
		read = func(_ protowire.Number, v Value) error {
			var s string
			_ = v.Text(&s)
			_, _, _ = v.Entry()
			if depth++; depth > 100 {
				return errMalformed
			}
			_ = v.Message(read)
			return nil
		}
		_ = Message(data, read)
	})
}
