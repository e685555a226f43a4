// Package nvlist packs and unpacks name-value lists in the native encoding of libnvpair, the form in which
// arguments and results pass through /dev/zfs (module/nvpair/nvpair.c).
//
//	header   encoding 0 (native), endian 1 (little), two reserved bytes
//	list     version int32 (0), flags uint32 (1: names are unique), pairs, int32 0
//	pair     size int32, name size int16, reserve int16, elements int32, type int32,
//	         name with its NUL padded to 8, value padded to 8; size counts all of this
//	embedded lists: the value is a struct of 24 bytes without meaning; pairs and the final 0 follow the pair
package nvlist

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"
)

// List is one list. Values are bool, int32, uint32, int64, uint64, string, []string, []uint64, List and
// []List; Flag is a name without a value.
type List map[string]any

// Flag is the value of a pair that only has a name (DATA_TYPE_BOOLEAN).
type Flag struct{}

// Types of values, from sys/nvpair.h.
const (
	typeBoolean      = 1
	typeInt32        = 5
	typeUint32       = 6
	typeInt64        = 7
	typeUint64       = 8
	typeString       = 9
	typeUint64Array  = 16
	typeStringArray  = 17
	typeList         = 19
	typeListArray    = 20
	typeBooleanValue = 21
)

const (
	headerSize   = 4
	listHead     = 8
	pairHead     = 16
	listStruct   = 24
	pointerSize  = 8
	uniqueNames  = 1
	maxDepth     = 16
	littleEndian = 1
)

// ErrCorrupt is a list that is not what the kernel would write.
var ErrCorrupt = errors.New("corrupt nvlist")

func align(n int) int { return (n + 7) &^ 7 }

// Pack writes a list. It fails for a value of a type that List does not name, and for a string with a NUL.
func Pack(l List) ([]byte, error) {
	b := []byte{0, littleEndian, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uniqueNames)
	return appendPairs(b, l, 0)
}

func appendPairs(b []byte, l List, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("pack nvlist: deeper than %d", maxDepth)
	}
	names := make([]string, 0, len(l))
	for name := range l {
		names = append(names, name)
	}
	sort.Strings(names)
	var err error
	for _, name := range names {
		if b, err = appendPair(b, name, l[name], depth); err != nil {
			return nil, err
		}
	}
	return append(b, 0, 0, 0, 0), nil
}

func appendPair(b []byte, name string, value any, depth int) ([]byte, error) {
	var (
		data     []byte
		kind     uint32
		elements = uint32(1)
		embedded []List
		le       = binary.LittleEndian
	)
	switch v := value.(type) {
	case Flag:
		kind, elements = typeBoolean, 0
	case bool:
		kind, data = typeBooleanValue, []byte{0, 0, 0, 0}
		if v {
			data[0] = 1
		}
	case int32:
		kind, data = typeInt32, le.AppendUint32(nil, uint32(v))
	case uint32:
		kind, data = typeUint32, le.AppendUint32(nil, v)
	case int64:
		kind, data = typeInt64, le.AppendUint64(nil, uint64(v))
	case uint64:
		kind, data = typeUint64, le.AppendUint64(nil, v)
	case string:
		kind, data = typeString, append([]byte(v), 0)
	case []uint64:
		kind, elements = typeUint64Array, uint32(len(v))
		for _, n := range v {
			data = le.AppendUint64(data, n)
		}
	case []string:
		kind, elements = typeStringArray, uint32(len(v))
		data = make([]byte, pointerSize*len(v))
		for _, s := range v {
			data = append(append(data, s...), 0)
		}
	case List:
		kind, data, embedded = typeList, make([]byte, listStruct), []List{v}
	case []List:
		kind, elements, embedded = typeListArray, uint32(len(v)), v
		data = make([]byte, (pointerSize+listStruct)*len(v))
	default:
		return nil, fmt.Errorf("pack nvlist: %s has a value of type %T", name, value)
	}
	if err := checkStrings(name, value); err != nil {
		return nil, err
	}
	nameSize := len(name) + 1
	size := align(pairHead+nameSize) + align(len(data))
	start := len(b)
	b = append(b, make([]byte, size)...)
	p := b[start:]
	le.PutUint32(p[0:], uint32(size))
	le.PutUint16(p[4:], uint16(nameSize))
	le.PutUint32(p[8:], elements)
	le.PutUint32(p[12:], kind)
	copy(p[pairHead:], name)
	at := align(pairHead + nameSize)
	copy(p[at:], data)
	// A struct nvlist's flags are looked at when the kernel unpacks it.
	if kind == typeList {
		le.PutUint32(p[at+4:], uniqueNames)
	}
	if kind == typeListArray {
		for i := range embedded {
			le.PutUint32(p[at+pointerSize*len(embedded)+listStruct*i+4:], uniqueNames)
		}
	}
	var err error
	for _, e := range embedded {
		if b, err = appendPairs(b, e, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func checkStrings(name string, value any) error {
	texts := []string{name}
	switch v := value.(type) {
	case string:
		texts = append(texts, v)
	case []string:
		texts = append(texts, v...)
	}
	if len(name) >= math.MaxInt16 {
		return fmt.Errorf("pack nvlist: a name of %d bytes", len(name))
	}
	for _, s := range texts {
		for i := range len(s) {
			if s[i] == 0 {
				return fmt.Errorf("pack nvlist: NUL in %q", s)
			}
		}
	}
	return nil
}
