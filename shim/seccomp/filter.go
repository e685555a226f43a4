package seccomp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Filter is a compiled filter.
type Filter struct {
	// Program is an array of struct sock_filter (linux/filter.h) in the byte order of
	// this machine. It is shared: do not change it.
	Program []byte
	// Flags are SECCOMP_FILTER_FLAG_* of seccomp(2), NEW_LISTENER included where
	// Notify is set.
	Flags uint32
	// Notify says that some system call is decided by a listener (SCMP_ACT_NOTIFY).
	Notify bool
}

// InstructionSize is the size of struct sock_filter.
const InstructionSize = 8

// MaxInstructions is BPF_MAXINSNS: the kernel takes no longer filter.
const MaxInstructions = 4096

// A frame is the magic, flags, notify and length of the program as three
// little-endian 32 bit words, the program, and the SHA-256 of all before it.
const (
	magic      = "pvxbpf\x00\x01"
	headerSize = len(magic) + 3*4
)

// MaxFrame is the size of the largest frame.
const MaxFrame = headerSize + MaxInstructions*InstructionSize + sha256.Size

var errFrame = errors.New("damaged seccomp frame")

// Encode gives the frame of f.
func Encode(f *Filter) ([]byte, error) {
	if err := f.validate(); err != nil {
		return nil, err
	}
	frame := make([]byte, 0, headerSize+len(f.Program)+sha256.Size)
	frame = append(frame, magic...)
	frame = binary.LittleEndian.AppendUint32(frame, f.Flags)
	notify := uint32(0)
	if f.Notify {
		notify = 1
	}
	frame = binary.LittleEndian.AppendUint32(frame, notify)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(f.Program)))
	frame = append(frame, f.Program...)
	sum := sha256.Sum256(frame)
	return append(frame, sum[:]...), nil
}

// Decode reads a frame, which must be all of data.
func Decode(data []byte) (*Filter, error) {
	if len(data) < headerSize+sha256.Size || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: no header in %d bytes", errFrame, len(data))
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(want[:], sum) {
		return nil, fmt.Errorf("%w: wrong checksum", errFrame)
	}
	flags := binary.LittleEndian.Uint32(body[len(magic):])
	notify := binary.LittleEndian.Uint32(body[len(magic)+4:])
	length := binary.LittleEndian.Uint32(body[len(magic)+8:])
	if uint64(length) != uint64(len(body)-headerSize) || notify > 1 {
		return nil, fmt.Errorf("%w: header does not fit %d bytes of program", errFrame, len(body)-headerSize)
	}
	f := &Filter{Program: bytes.Clone(body[headerSize:]), Flags: flags, Notify: notify == 1}
	if err := f.validate(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *Filter) validate() error {
	switch n := len(f.Program); {
	case n == 0 || n%InstructionSize != 0:
		return fmt.Errorf("%w: a program of %d bytes", errFrame, n)
	case n > MaxInstructions*InstructionSize:
		return fmt.Errorf("the seccomp filter has %d instructions, the kernel takes at most %d (hint: fewer rules or architectures)", n/InstructionSize, MaxInstructions)
	}
	return nil
}
