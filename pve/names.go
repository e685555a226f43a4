package pve

import (
	"strings"
	"unicode"
)

// maxLabel is the longest DNS label (RFC 1035, 2.3.4).
const maxLabel = 63

// Hostname makes a DNS label of any name: lower-case letters, digits and inner
// dashes, at most 63. It is a function of the name alone. A name with nothing to
// keep becomes "ct".
func Hostname(name string) string {
	label := strings.Trim(mapName(name, ""), "-")
	if len(label) > maxLabel {
		label = strings.TrimRight(label[:maxLabel], "-")
	}
	if label == "" {
		return "ct"
	}
	return label
}

// Tag makes a tag of PVE's (pve-tag) of any name, "" where nothing is left of it.
// Tags are no longer than a label with a prefix needs.
func Tag(name string) string {
	tag := strings.Trim(mapName(name, "_.+"), "-.+")
	if len(tag) > maxLabel+len("pod-") {
		tag = tag[:maxLabel+len("pod-")]
	}
	return tag
}

// mapName lowers letters, keeps digits, dashes and what keep lists, and makes one
// dash of every other character.
func mapName(name, keep string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', strings.ContainsRune(keep, r):
			return r
		}
		return '-'
	}, name)
}

// maxNoteValue bounds one value in the note, in characters: an image's name may be
// long, and every conf is kept in the memory of every node.
const maxNoteValue = 256

// noteValue makes s fit into a Markdown code span of PVE's note: one line, printable, no
// backquote.
func noteValue(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > maxNoteValue {
			b.WriteRune('…')
			break
		}
		switch {
		case r == '`':
			b.WriteRune('\'')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteRune(unicode.ReplacementChar)
		}
	}
	return b.String()
}
