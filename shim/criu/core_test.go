package criu

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func image(thread []byte) []byte {
	var entry []byte
	entry = protowire.AppendVarint(protowire.AppendTag(entry, 1, protowire.VarintType), 1)
	entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), []byte("registers"))
	entry = protowire.AppendBytes(protowire.AppendTag(entry, coreThread, protowire.BytesType), thread)
	out := binary.LittleEndian.AppendUint32([]byte("magic..."), uint32(len(entry)))
	return append(out, entry...)
}

func TestWithoutDeathSignal(t *testing.T) {
	var plain, armed []byte
	plain = protowire.AppendVarint(protowire.AppendTag(plain, 1, protowire.VarintType), 0)
	armed = append(armed, plain...)
	armed = protowire.AppendVarint(protowire.AppendTag(armed, threadDeathSig, protowire.VarintType), 9)
	name := protowire.AppendString(protowire.AppendTag(nil, 13, protowire.BytesType), "sh")
	plain, armed = append(plain, name...), append(armed, name...)
	for what, thread := range map[string][]byte{"armed": armed, "plain": plain} {
		got, err := withoutDeathSignal(image(thread))
		if err != nil || !bytes.Equal(got, image(plain)) {
			t.Errorf("%s: %q, %v, want %q", what, got, err, image(plain))
		}
	}
	for n := range image(armed) {
		if _, err := withoutDeathSignal(image(armed)[:n]); err == nil {
			t.Errorf("an image that is cut at %d bytes is taken", n)
		}
	}
}

func TestInnerPid(t *testing.T) {
	if got, err := innerPid(os.Getpid()); err != nil || got != os.Getpid() {
		t.Errorf("got %d, %v", got, err)
	}
}

func FuzzWithoutDeathSignal(f *testing.F) {
	f.Add(image([]byte{8, 0, 64, 9}))
	f.Fuzz(func(t *testing.T, data []byte) {
		once, err := withoutDeathSignal(data)
		if err != nil {
			return
		}
		twice, err := withoutDeathSignal(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%x becomes %x, and that %x, %v", data, once, twice, err)
		}
	})
}
