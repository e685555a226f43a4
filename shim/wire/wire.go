// Package wire reads and writes the few protobuf messages whose generated Go types cannot be linked into the shim: they come in one
// package with gRPC, which would double it. protowire does the work; tests hold the results to the generated types.
package wire

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

var errMalformed = errors.New("malformed protobuf message")

// Value is the value of one field: Number of a varint, Bytes of what has a length.
type Value struct {
	Number uint64
	Bytes  []byte
	kind   protowire.Type
}

// Message reads the fields of a message in order. Fields of fixed size, which no message here has, are passed over.
func Message(message []byte, field func(protowire.Number, Value) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		message = message[n:]
		v := Value{kind: kind}
		switch kind {
		case protowire.VarintType:
			v.Number, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			v.Bytes, n = protowire.ConsumeBytes(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return fmt.Errorf("%w: field %d: %w", errMalformed, number, protowire.ParseError(n))
		}
		message = message[n:]
		if kind != protowire.VarintType && kind != protowire.BytesType {
			continue
		}
		if err := field(number, v); err != nil {
			return err
		}
	}
	return nil
}

// Message reads the value as a message.
func (v Value) Message(field func(protowire.Number, Value) error) error {
	if v.kind != protowire.BytesType {
		return errMalformed
	}
	return Message(v.Bytes, field)
}

// Text takes the value as a string; a nil to is a field that nobody wants.
func (v Value) Text(to *string) error {
	if to == nil {
		return nil
	}
	if v.kind != protowire.BytesType || !utf8.Valid(v.Bytes) {
		return errMalformed
	}
	*to = string(v.Bytes)
	return nil
}

// Texts adds the value to a list; a nil to is a field that nobody wants.
func (v Value) Texts(to *[]string) error {
	if to == nil {
		return nil
	}
	var s string
	err := v.Text(&s)
	*to = append(*to, s)
	return err
}

// Entry takes the value as an entry of a map of strings.
func (v Value) Entry() (key, value string, err error) {
	err = v.Message(func(n protowire.Number, v Value) error {
		return v.Text(map[protowire.Number]*string{1: &key, 2: &value}[n])
	})
	return key, value, err
}

// Builder writes a message. As in proto3, a field with its zero value is left out.
type Builder []byte

// Number adds a varint.
func (b *Builder) Number(n protowire.Number, v uint64) {
	if v != 0 {
		*b = protowire.AppendVarint(protowire.AppendTag(*b, n, protowire.VarintType), v)
	}
}

// Text adds a string.
func (b *Builder) Text(n protowire.Number, s string) {
	if s != "" {
		*b = protowire.AppendString(protowire.AppendTag(*b, n, protowire.BytesType), s)
	}
}

// Bytes adds a message, an empty one, too.
func (b *Builder) Bytes(n protowire.Number, message []byte) {
	*b = protowire.AppendBytes(protowire.AppendTag(*b, n, protowire.BytesType), message)
}

// Add adds a message that has a generated type.
func (b *Builder) Add(n protowire.Number, message proto.Message) error {
	data, err := proto.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode %T: %w", message, err)
	}
	b.Bytes(n, data)
	return nil
}

// Entry adds an entry of a map of strings.
func (b *Builder) Entry(n protowire.Number, key, value string) {
	var entry Builder
	entry.Text(1, key)
	entry.Text(2, value)
	b.Bytes(n, entry)
}

// Time adds a google.protobuf.Timestamp; the zero time is left out.
func (b *Builder) Time(n protowire.Number, t time.Time) {
	if t.IsZero() {
		return
	}
	var stamp Builder
	stamp.Number(1, uint64(t.Unix()))
	stamp.Number(2, uint64(t.Nanosecond()))
	b.Bytes(n, stamp)
}
