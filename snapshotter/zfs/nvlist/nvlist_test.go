package nvlist

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var every = List{
	"flag":    Flag{},
	"true":    true,
	"false":   false,
	"int32":   int32(-7),
	"uint32":  uint32(1 << 31),
	"int64":   int64(-1 << 62),
	"uint64":  uint64(1<<64 - 1),
	"string":  "rpool/a@b",
	"empty":   "",
	"texts":   []string{"one", "", "three"},
	"numbers": []uint64{1, 1 << 40},
	"list":    List{"inner": List{"value": uint64(1), "flag": Flag{}}, "after": "x"},
	"none":    List{},
	"lists":   []List{{"a": uint64(1)}, {}, {"b": "c"}},
	"z":       "after embedded lists",
}

func TestRoundTrip(t *testing.T) {
	b, err := Pack(every)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel's buffers are larger than their lists.
	for _, tail := range []int{0, 1, 100} {
		got, err := Unpack(append(b[:len(b):len(b)], make([]byte, tail)...))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(every, got); d != "" {
			t.Errorf("round trip with %d bytes more (-want +got):\n%s", tail, d)
		}
	}
}

// The bytes of {"a": uint64 5}, by the description of the format.
func TestGolden(t *testing.T) {
	want := "00010000" + "00000000" + "01000000" +
		"20000000" + "0200" + "0000" + "01000000" + "08000000" + "6100" + "000000000000" + "0500000000000000" +
		"00000000"
	b, err := Pack(List{"a": uint64(5)})
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("packed\n%s, want\n%s", got, want)
	}
}

func TestPackRefuses(t *testing.T) {
	deep := List{}
	for range 20 {
		deep = List{"l": deep}
	}
	for name, l := range map[string]List{
		"type":      {"a": 1.5},
		"NUL":       {"a": "b\x00c"},
		"NUL name":  {"a\x00": "b"},
		"NUL array": {"a": []string{"\x00"}},
		"depth":     deep,
		"name":      {strings.Repeat("n", 1<<15): "b"},
	} {
		if _, err := Pack(l); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Every list that is cut short is corrupt, and none panics.
func TestTruncated(t *testing.T) {
	b, err := Pack(every)
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if _, err := Unpack(b[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
}

// A type that is unknown here, as a later kernel may have, is skipped.
func TestUnknownType(t *testing.T) {
	b, err := Pack(List{"a": uint64(5), "b": "kept"})
	if err != nil {
		t.Fatal(err)
	}
	b[headerSize+listHead+12] = 99
	got, err := Unpack(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(List{"b": "kept"}, got); d != "" {
		t.Error(d)
	}
}

func FuzzUnpack(f *testing.F) {
	b, err := Pack(every)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Unpack(b)
		if err != nil {
			return
		}
		// What was understood must survive another round.
		again, err := Pack(l)
		if err != nil {
			t.Fatalf("pack what was unpacked: %v", err)
		}
		l2, err := Unpack(again)
		if err != nil {
			t.Fatalf("unpack what was packed: %v", err)
		}
		if d := cmp.Diff(l, l2); d != "" {
			t.Error(d)
		}
	})
}
