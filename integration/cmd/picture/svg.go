package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Sizes of the picture, in pixels. Every piece is given its width, so that a font of another width changes nothing.
const (
	wide, high = 8.4, 19
	fontSize   = 14
	margin     = 16
	bar        = 36
)

func draw(out io.Writer, title string, columns int, lines [][]piece) {
	if title != "" {
		lines = append([][]piece{{{text: "$ ", style: style{colour: "32", bold: true}}, {text: title, style: style{bold: true}}}}, lines...)
	}
	width, height := float64(columns)*wide+2*margin, len(lines)*high+2*margin+bar
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" width="%.0f" height="%d" role="img" aria-label="%s">
<rect width="100%%" height="100%%" rx="10" fill="#0d1117"/>
<g>
<circle cx="22" cy="20" r="6" fill="#ff5f57"/><circle cx="42" cy="20" r="6" fill="#febc2e"/><circle cx="62" cy="20" r="6" fill="#28c840"/>
</g>
<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="%d" fill="#c9d1d9" xml:space="preserve">
`, width, height, width, height, escape("a terminal: "+title), fontSize)
	for row, line := range lines {
		column, y := 0, bar+margin+row*high+fontSize
		for _, p := range line {
			n := utf8.RuneCountInString(p.text)
			if strings.TrimSpace(p.text) != "" {
				fmt.Fprintf(out, `<text x="%.1f" y="%d" textLength="%.1f"%s>%s</text>`+"\n", margin+float64(column)*wide, y, float64(n)*wide, p.attributes(), escape(p.text))
			}
			column += n
		}
	}
	fmt.Fprintln(out, "</g>\n</svg>")
}

func (s style) attributes() string {
	a := ""
	if s.colour != "" {
		a += ` fill="` + palette[s.colour] + `"`
	}
	if s.bold {
		a += ` font-weight="bold"`
	}
	if s.dim {
		a += ` opacity="0.6"`
	}
	return a
}

func escape(s string) string {
	var b strings.Builder
	// A strings.Builder takes everything.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
