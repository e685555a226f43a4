package bootstrap

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// The protobuf wire format (protobuf.dev/programming-guides/encoding), as far as the few messages of this package need it. Tests hold
// it to the generated types.

// Wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

var errMalformed = errors.New("malformed protobuf message")

// field is one field of a message, as it lies on the wire.
type field struct {
	number uint64
	wire   uint64
	value  uint64 // of a varint
	bytes  []byte // of a string, of bytes or of a message
}

// nextField splits the first field off a message. Groups, which no message here has, are malformed.
func nextField(message []byte) (f field, rest []byte, err error) {
	key, n := binary.Uvarint(message)
	if n <= 0 || key>>3 == 0 || key>>3 >= 1<<29 {
		return f, nil, errMalformed
	}
	f.number, f.wire, rest = key>>3, key&7, message[n:]
	var size uint64
	switch f.wire {
	case wireVarint:
		if f.value, n = binary.Uvarint(rest); n <= 0 {
			return f, nil, errMalformed
		}
		return f, rest[n:], nil
	case wireFixed64:
		size = 8
	case wireFixed32:
		size = 4
	case wireBytes:
		if size, n = binary.Uvarint(rest); n <= 0 {
			return f, nil, errMalformed
		}
		rest = rest[n:]
	default:
		return f, nil, errMalformed
	}
	if size > uint64(len(rest)) {
		return f, nil, errMalformed
	}
	f.bytes = rest[:size]
	return f, rest[size:], nil
}

// text is a string field's value.
func (f field) text() (string, error) {
	if !utf8.Valid(f.bytes) {
		return "", errMalformed
	}
	return string(f.bytes), nil
}

func appendVarint(message []byte, number, value uint64) []byte {
	if value == 0 { // proto3 leaves the zero out
		return message
	}
	message = binary.AppendUvarint(message, number<<3|wireVarint)
	return binary.AppendUvarint(message, value)
}

func appendBytes[T string | []byte](message []byte, number uint64, value T) []byte {
	if len(value) == 0 {
		return message
	}
	message = binary.AppendUvarint(message, number<<3|wireBytes)
	message = binary.AppendUvarint(message, uint64(len(value)))
	return append(message, value...)
}
