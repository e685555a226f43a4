package program

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
)

// order is the byte order of the format: the machine's own.
var order = binary.NativeEndian

// Builder collects operations. Each of its methods appends one; the first error
// (a NUL in a string, too many descriptors) is kept and returned by Program. The
// zero value is ready for use.
type Builder struct {
	buf   []byte
	start int // of the operation being written
	descs []string
	field string
	files []*os.File
	index map[*os.File]uint32
	fdsAt int // where the count of the FDS operation stands, 0 without one
	err   error
}

// headerSize and opSize are the sizes of struct pvx_header and struct pvx_op.
const (
	headerSize = 16
	opSize     = 8
)

// For names the field of the specification that the operations which follow come
// from, for error messages ("mounts[3]"); empty for none.
func (b *Builder) For(field string) *Builder {
	b.field = field
	return b
}

// Program ends the program.
func (b *Builder) Program() (*Program, error) {
	if b.err != nil {
		return nil, b.err
	}
	b.header()
	if len(b.buf) > maxProgram {
		return nil, fmt.Errorf("program has %d bytes, the limit is %d", len(b.buf), maxProgram)
	}
	order.PutUint32(b.buf[8:], uint32(len(b.descs)))
	if b.fdsAt != 0 {
		order.PutUint32(b.buf[b.fdsAt:], uint32(len(b.files)))
	}
	return &Program{buf: b.buf, descs: b.descs, files: b.files}, nil
}

func (b *Builder) header() {
	if b.buf == nil {
		b.buf = make([]byte, headerSize, 4096)
		order.PutUint32(b.buf, Magic)
		order.PutUint32(b.buf[4:], Version)
	}
}

// begin opens an operation, end closes it.
func (b *Builder) begin(code opcode, format string, args ...any) *Builder {
	b.header()
	desc := fmt.Sprintf(format, args...)
	if b.field != "" {
		desc += " (" + b.field + ")"
	}
	b.descs = append(b.descs, desc)
	b.start = len(b.buf)
	return b.u32(uint32(code)).u32(0)
}

func (b *Builder) end() {
	n := len(b.buf) - b.start - opSize
	order.PutUint32(b.buf[b.start+4:], uint32(n))
	for len(b.buf)%8 != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *Builder) u32(v uint32) *Builder {
	b.buf = order.AppendUint32(b.buf, v)
	return b
}

func (b *Builder) i32(v int32) *Builder { return b.u32(uint32(v)) }

func (b *Builder) u64(v uint64) *Builder {
	b.buf = order.AppendUint64(b.buf, v)
	return b
}

func (b *Builder) flag(v bool) *Builder {
	if v {
		return b.u32(1)
	}
	return b.u32(0)
}

func (b *Builder) str(s string) *Builder {
	if strings.IndexByte(s, 0) >= 0 && b.err == nil {
		b.err = fmt.Errorf("%s: NUL byte in %q", b.descs[len(b.descs)-1], s)
	}
	b.u32(uint32(len(s)))
	b.buf = append(append(b.buf, s...), 0)
	return b
}

func (b *Builder) strs(list []string) *Builder {
	b.u32(uint32(len(list)))
	for _, s := range list {
		b.str(s)
	}
	return b
}

func (b *Builder) i32s(list []int) *Builder {
	b.u32(uint32(len(list)))
	for _, v := range list {
		b.i32(int32(v))
	}
	return b
}

func (b *Builder) u32s(list []uint32) *Builder {
	b.u32(uint32(len(list)))
	for _, v := range list {
		b.u32(v)
	}
	return b
}

func (b *Builder) bytes(v []byte) *Builder {
	b.u32(uint32(len(v)))
	b.buf = append(b.buf, v...)
	return b
}

// fd writes the index of f in the table of descriptors; nil is an error, since
// an operation that may do without has optfd.
func (b *Builder) fd(f *os.File) *Builder {
	if f == nil {
		if b.err == nil {
			b.err = fmt.Errorf("%s: descriptor missing", b.descs[len(b.descs)-1])
		}
		return b.u32(noFD)
	}
	if b.fdsAt == 0 && b.err == nil {
		b.err = fmt.Errorf("%s: a descriptor, but the program does not begin with FDs", b.descs[len(b.descs)-1])
	}
	i, ok := b.index[f]
	if !ok {
		i = uint32(len(b.files))
		if i == maxFDs && b.err == nil {
			b.err = fmt.Errorf("%s: more than %d descriptors", b.descs[len(b.descs)-1], maxFDs)
		}
		if b.index == nil {
			b.index = make(map[*os.File]uint32)
		}
		b.index[f] = i
		b.files = append(b.files, f)
	}
	return b.u32(i)
}

func (b *Builder) optfd(f *os.File) *Builder {
	if f == nil {
		return b.u32(noFD)
	}
	return b.fd(f)
}
