package conf

import "strings"

// lineKind is what PVE's parser takes a line for.
type lineKind uint8

const (
	lineOther   lineKind = iota // nothing PVE knows; it warns and goes on
	lineBlank                   // white space alone
	lineComment                 // # and a line of the description
	lineKey                     // key: value
	lineRaw                     // lxc.key: value or lxc.key = value
	lineSection                 // [name]
)

// line is one line of a file. text is what stands in the file, without its newline.
type line struct {
	text       string
	kind       lineKind
	key, value string // of lineKey and lineRaw; value alone for lineSection's name
}

// space is what Perl's \s matches in ASCII.
const space = " \t\r\f\v\n"

// readLine classifies text in the order in which PVE's parser tries its patterns.
func readLine(text string) line {
	l := line{text: text}
	trimmed := strings.TrimRight(text, space)
	switch {
	case trimmed == "":
		l.kind = lineBlank
	case trimmed[0] == '[' && trimmed[len(trimmed)-1] == ']' && isSectionName(trimmed[1:len(trimmed)-1]):
		l.kind, l.value = lineSection, trimmed[1:len(trimmed)-1]
	case text[0] == '#':
		l.kind, l.value = lineComment, text[1:]
	case strings.HasPrefix(text, "lxc."):
		l.readRaw(trimmed)
	case isSnapState(trimmed):
		// PVE's pattern is not anchored: such a line is never a key.
	default:
		l.readKey(trimmed)
	}
	return l
}

// readRaw takes ^(lxc\.[a-z0-9_\-\.]+)(:|\s*=)\s*(.*?)\s*$.
func (l *line) readRaw(text string) {
	end := len("lxc.")
	for end < len(text) && isRawKeyByte(text[end]) {
		end++
	}
	if end == len("lxc.") {
		return
	}
	rest := text[end:]
	if strings.HasPrefix(rest, ":") {
		rest = rest[1:]
	} else if rest = strings.TrimLeft(rest, space); strings.HasPrefix(rest, "=") {
		rest = rest[1:]
	} else {
		return
	}
	l.kind, l.key, l.value = lineRaw, text[:end], strings.Trim(rest, space)
}

// readKey takes ^([a-z][a-z_]*\d*):\s*(\S.*)\s*$.
func (l *line) readKey(text string) {
	key, value, ok := strings.Cut(text, ":")
	value = strings.Trim(value, space)
	if !ok || value == "" || !isKey(key) {
		return
	}
	l.kind, l.key, l.value = lineKey, key, value
}

func isKey(s string) bool {
	i := 0
	for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || i > 0 && s[i] == '_') {
		i++
	}
	return i > 0 && strings.Trim(s[i:], "0123456789") == ""
}

func isRawKeyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
}

// isSectionName takes pve:pending, and [a-z][a-z0-9_\-]+ for a snapshot, in any case.
func isSectionName(s string) bool {
	if strings.EqualFold(s, pending) {
		return true
	}
	for i := range len(s) {
		c := s[i] | 0x20
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || !(s[i] >= '0' && s[i] <= '9' || s[i] == '_' || s[i] == '-')) {
			return false
		}
	}
	return len(s) > 1
}

// isSnapState takes snapstate:\s*(prepare|delete)\s*$ anywhere in a line.
func isSnapState(trimmed string) bool {
	for _, state := range []string{"prepare", "delete"} {
		if rest, ok := strings.CutSuffix(trimmed, state); ok && strings.HasSuffix(strings.TrimRight(rest, space), "snapstate:") {
			return true
		}
	}
	return false
}
