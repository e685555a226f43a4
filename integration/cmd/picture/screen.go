package main

import (
	"fmt"
	"regexp"
	"strings"
)

// style is how a piece of text is shown.
type style struct {
	bold, dim bool
	colour    string // of palette; empty for the terminal's own
}

// piece is text of one style.
type piece struct {
	text string
	style
}

// palette has the colours of ECMA-48 that are in use.
var palette = map[string]string{"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff"}

var sgr = regexp.MustCompile(`\x1b\[([0-9;]*)m`)

// parse divides output into lines that are no longer than the terminal is wide, each in pieces.
func parse(text string, columns int) (lines [][]piece, err error) {
	var now style
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		var pieces []piece
		at := 0
		add := func(s string) error {
			s = expand(s)
			if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
				return fmt.Errorf("%q is more than text and colours", s)
			}
			if s != "" {
				pieces = append(pieces, piece{s, now})
			}
			return nil
		}
		for _, m := range sgr.FindAllStringSubmatchIndex(line, -1) {
			if err := add(line[at:m[0]]); err != nil {
				return nil, err
			}
			if now, err = now.apply(line[m[2]:m[3]]); err != nil {
				return nil, err
			}
			at = m[1]
		}
		if err := add(line[at:]); err != nil {
			return nil, err
		}
		lines = append(lines, wrap(pieces, columns)...)
	}
	return lines, nil
}

// expand puts blanks in the place of tabs, as for a piece that begins a tab stop.
func expand(s string) string {
	var b strings.Builder
	column := 0
	for _, r := range s {
		if r != '\t' {
			b.WriteRune(r)
			column++
			continue
		}
		for {
			b.WriteByte(' ')
			if column++; column%8 == 0 {
				break
			}
		}
	}
	return b.String()
}

// apply is the style after a sequence of Select Graphic Rendition.
func (s style) apply(codes string) (style, error) {
	for code := range strings.SplitSeq(codes, ";") {
		switch {
		case code == "" || code == "0":
			s = style{}
		case code == "1":
			s.bold = true
		case code == "2":
			s.dim = true
		case palette[code] != "":
			s.colour = code
		default:
			return s, fmt.Errorf("the colour %q is not known", code)
		}
	}
	return s, nil
}

// wrap breaks a line as a terminal does: anywhere.
func wrap(pieces []piece, columns int) [][]piece {
	lines := [][]piece{{}}
	left := columns
	for _, p := range pieces {
		for runes := []rune(p.text); len(runes) > 0; {
			if left == 0 {
				lines, left = append(lines, []piece{}), columns
			}
			n := min(left, len(runes))
			last := len(lines) - 1
			lines[last] = append(lines[last], piece{string(runes[:n]), p.style})
			runes, left = runes[n:], left-n
		}
	}
	return lines
}
