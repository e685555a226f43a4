package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of CRIU's images/core.proto.
const (
	coreThread      protowire.Number = 5 // core_entry.thread_core
	threadDeathSig  protowire.Number = 8 // thread_core_entry.pdeath_sig
	imageHeaderSize                  = 8 // two magic numbers, little endian
)

// forgetParent takes the parent-death signal out of the image of the root process. Here it ends a container with its monitor; what
// restores it is another parent, and most often one that does not stay.
func forgetParent(images string, pid int) error {
	path := filepath.Join(images, fmt.Sprintf("core-%d.img", pid))
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	if data, err = withoutDeathSignal(data); err != nil {
		return fmt.Errorf("read image %s: %w", path, err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

var errImage = errors.New("not an image of CRIU's as this program knows them")

// withoutDeathSignal rewrites an image with one core_entry: its header, the size of the entry, the entry.
func withoutDeathSignal(image []byte) ([]byte, error) {
	if len(image) < imageHeaderSize+4 {
		return nil, errImage
	}
	header, rest := image[:imageHeaderSize], image[imageHeaderSize:]
	size := binary.LittleEndian.Uint32(rest)
	if rest = rest[4:]; uint64(size) != uint64(len(rest)) {
		return nil, errImage
	}
	entry, err := edit(rest, coreThread, func(thread []byte) ([]byte, error) {
		return edit(thread, threadDeathSig, nil)
	})
	if err != nil {
		return nil, err
	}
	out := binary.LittleEndian.AppendUint32(append([]byte(nil), header...), uint32(len(entry)))
	return append(out, entry...), nil
}

// edit returns a message with each of its fields of that number, which holds bytes, changed, or without them when change is nil.
func edit(message []byte, number protowire.Number, change func([]byte) ([]byte, error)) ([]byte, error) {
	var out []byte
	for len(message) > 0 {
		n, kind, tag := protowire.ConsumeTag(message)
		if tag < 0 {
			return nil, fmt.Errorf("%w: %w", errImage, protowire.ParseError(tag))
		}
		value := protowire.ConsumeFieldValue(n, kind, message[tag:])
		if value < 0 {
			return nil, fmt.Errorf("%w: %w", errImage, protowire.ParseError(value))
		}
		field := message[:tag+value]
		message = message[tag+value:]
		if n != number {
			out = append(out, field...)
			continue
		}
		if change == nil {
			continue
		}
		inner, used := protowire.ConsumeBytes(field[tag:])
		if kind != protowire.BytesType || used < 0 {
			return nil, errImage
		}
		inner, err := change(inner)
		if err != nil {
			return nil, err
		}
		out = protowire.AppendBytes(protowire.AppendTag(out, n, kind), inner)
	}
	return out, nil
}

// innerPid is the number of a process in its own PID namespace, by which the images are named.
func innerPid(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("find the pid in the container: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		numbers, ok := strings.CutPrefix(line, "NSpid:")
		if !ok {
			continue
		}
		fields := strings.Fields(numbers)
		var inner int
		if _, err := fmt.Sscan(fields[len(fields)-1], &inner); err != nil {
			return 0, fmt.Errorf("find the pid in the container: %w", err)
		}
		return inner, nil
	}
	return 0, errors.New("find the pid in the container: /proc has no NSpid")
}
