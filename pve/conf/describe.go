package conf

import (
	"strings"
	"unicode/utf8"
)

// Description returns the note that PVE's UI shows, without its final newline.
func (c *Conf) Description() string {
	var lines []string
	for _, l := range c.lines[:c.end()] {
		switch {
		case l.kind == lineComment:
			lines = append(lines, decodeText(l.value))
		case l.kind == lineKey && l.key == "description":
			lines = append(lines, decodeText(l.value))
		}
	}
	return strings.Join(lines, "\n")
}

// SetDescription replaces the note. Any text is well-formed: what is not
// printable ASCII is encoded, and bytes that are not UTF-8 become U+FFFD,
// because PVE decodes as UTF-8. Newlines at the end are dropped, as PVE drops
// them.
func (c *Conf) SetDescription(text string) {
	text = strings.TrimRight(strings.ToValidUTF8(text, string(utf8.RuneError)), "\n")
	if text == c.Description() {
		return
	}
	c.remove(func(l line) bool {
		return l.kind == lineComment || l.kind == lineKey && l.key == "description"
	})
	if text == "" {
		return
	}
	var note []line
	for l := range strings.SplitSeq(text, "\n") {
		note = append(note, readLine("#"+encodeText(l)))
	}
	c.insert(0, note...)
}

const hexDigits = "0123456789ABCDEF"

// encodeText is PVE::Tools::encode_text: control characters, bytes above 0x7e,
// percent and colon.
func encodeText(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' || c == ':' {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// decodeText is PVE::Tools::decode_text: %XX is a byte, anything else itself.
func decodeText(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
