package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// UnknownKeys says of each key of a file that its type does not have where it is and what it may have been meant for.
func UnknownKeys[T any](name string, strict *toml.StrictMissingError) error {
	known := keys("", reflect.TypeFor[T]())
	var errs []error
	for _, e := range strict.Errors {
		row, column := e.Position()
		key := strings.Join(e.Key(), ".")
		errs = append(errs, fmt.Errorf("%s:%d:%d: unknown key %q: %w%s", name, row, column, key, errdefs.ErrInvalidArgument, suggestion(key, known)))
	}
	return errors.Join(errs...)
}

// suggestion is a hint at the known key that is most like key. A key that stands
// in the wrong table is like the one of that name in the right one.
func suggestion(key string, known []string) string {
	best, distance := "", 0
	for _, k := range known {
		d := min(edits(key, k), 1+edits(last(key), last(k)))
		if best == "" || d < distance {
			best, distance = k, d
		}
	}
	if distance > max(2, len(last(key))/2) {
		return " (hint: the known keys are " + strings.Join(known, ", ") + ")"
	}
	return fmt.Sprintf(" (hint: did you mean %s?)", best)
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// keys lists the dotted keys of a configuration type.
func keys(prefix string, t reflect.Type) []string {
	var list []string
	for f := range t.Fields() {
		key := prefix + f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Struct {
			list = append(list, keys(key+".", f.Type)...)
		} else {
			list = append(list, key)
		}
	}
	return list
}

// edits is the Levenshtein distance of two strings, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
