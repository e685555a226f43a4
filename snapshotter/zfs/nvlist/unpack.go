package nvlist

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Unpack reads a list. Values of types that List does not name are skipped. What follows the list is ignored:
// the kernel fills buffers that are larger than their list. The error is ErrCorrupt.
func Unpack(b []byte) (List, error) {
	if len(b) < headerSize+listHead {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(b))
	}
	if b[0] != 0 || b[1] != littleEndian {
		return nil, fmt.Errorf("%w: encoding %d, endian %d", ErrCorrupt, b[0], b[1])
	}
	if v := binary.LittleEndian.Uint32(b[headerSize:]); v != 0 {
		return nil, fmt.Errorf("%w: version %d", ErrCorrupt, v)
	}
	d := decoder{rest: b[headerSize+listHead:]}
	return d.pairs(0)
}

type decoder struct{ rest []byte }

func (d *decoder) pairs(depth int) (List, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: deeper than %d", ErrCorrupt, maxDepth)
	}
	l := List{}
	for {
		if len(d.rest) < 4 {
			return nil, fmt.Errorf("%w: no end", ErrCorrupt)
		}
		size := int(int32(binary.LittleEndian.Uint32(d.rest)))
		if size == 0 {
			d.rest = d.rest[4:]
			return l, nil
		}
		if size < pairHead || size > len(d.rest) {
			return nil, fmt.Errorf("%w: a pair of %d bytes in %d", ErrCorrupt, size, len(d.rest))
		}
		p := d.rest[:size]
		d.rest = d.rest[size:]
		if err := d.pair(l, p, depth); err != nil {
			return nil, err
		}
	}
}

func (d *decoder) pair(l List, p []byte, depth int) error {
	nameSize := int(int16(binary.LittleEndian.Uint16(p[4:])))
	elements := int(int32(binary.LittleEndian.Uint32(p[8:])))
	kind := binary.LittleEndian.Uint32(p[12:])
	if nameSize < 1 || pairHead+nameSize > len(p) || p[pairHead+nameSize-1] != 0 || elements < 0 {
		return fmt.Errorf("%w: head of a pair", ErrCorrupt)
	}
	name, _, _ := cutNUL(p[pairHead : pairHead+nameSize])
	if len(name) != nameSize-1 {
		return fmt.Errorf("%w: NUL in a name", ErrCorrupt)
	}
	var data []byte
	if at := align(pairHead + nameSize); at < len(p) {
		data = p[at:]
	}
	short := func(n int) error {
		if len(data) < n {
			return fmt.Errorf("%w: %s of type %d has %d bytes", ErrCorrupt, name, kind, len(data))
		}
		return nil
	}
	le := binary.LittleEndian
	switch kind {
	case typeBoolean:
		l[name] = Flag{}
	case typeBooleanValue, typeInt32, typeUint32:
		if err := short(4); err != nil {
			return err
		}
		n := le.Uint32(data)
		l[name] = map[uint32]any{typeBooleanValue: n != 0, typeInt32: int32(n), typeUint32: n}[kind]
	case typeInt64, typeUint64:
		if err := short(8); err != nil {
			return err
		}
		n := le.Uint64(data)
		l[name] = map[uint32]any{typeInt64: int64(n), typeUint64: n}[kind]
	case typeString:
		s, _, ok := cutNUL(data)
		if !ok {
			return fmt.Errorf("%w: %s is a string without end", ErrCorrupt, name)
		}
		l[name] = s
	case typeUint64Array:
		if elements > len(data)/8 {
			return short(len(data) + 1)
		}
		a := make([]uint64, elements)
		for i := range a {
			a[i] = le.Uint64(data[8*i:])
		}
		l[name] = a
	case typeStringArray:
		if elements > len(data)/(pointerSize+1) {
			return short(len(data) + 1)
		}
		texts, a := data[pointerSize*elements:], make([]string, elements)
		for i := range a {
			var ok bool
			if a[i], texts, ok = cutNUL(texts); !ok {
				return fmt.Errorf("%w: %s has a string without end", ErrCorrupt, name)
			}
		}
		l[name] = a
	case typeList:
		e, err := d.pairs(depth + 1)
		if err != nil {
			return err
		}
		l[name] = e
	case typeListArray:
		if elements > len(data)/(pointerSize+listStruct) {
			return short(len(data) + 1)
		}
		a := make([]List, elements)
		for i := range a {
			var err error
			if a[i], err = d.pairs(depth + 1); err != nil {
				return err
			}
		}
		l[name] = a
	}
	return nil
}

func cutNUL(b []byte) (string, []byte, bool) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return "", nil, false
	}
	return string(b[:i]), b[i+1:], true
}
