package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// terminal prints the demo's text, in colour where that is wanted.
type terminal struct {
	w      io.Writer
	colour bool
	titles int
}

func newTerminal(f *os.File) *terminal {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &terminal{w: f, colour: err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// The SGR codes in use.
const (
	bold  = "1"
	dim   = "2"
	red   = "1;31"
	green = "1;32"
	cyan  = "36"
)

func (t *terminal) paint(code, text string) string {
	if !t.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// title starts a numbered part.
func (t *terminal) title(text string) {
	t.titles++
	fmt.Fprintf(t.w, "\n%s %s\n", t.paint(green, fmt.Sprintf("%d.", t.titles)), t.paint(bold, text))
}

func (t *terminal) note(format string, args ...any) {
	fmt.Fprintln(t.w, "   "+t.paint(dim, fmt.Sprintf(format, args...)))
}

// prompt shows a command as it would be typed.
func (t *terminal) prompt(args []string) {
	shown := make([]string, len(args))
	for i, arg := range args {
		shown[i] = arg
		if strings.ContainsAny(arg, " '\"$;&|<>()") {
			shown[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	fmt.Fprintln(t.w, "   "+t.paint(cyan, "$ "+strings.Join(shown, " ")))
}

// output shows what a command printed.
func (t *terminal) output(data []byte) {
	for line := range bytes.Lines(data) {
		fmt.Fprintf(t.w, "   %s\n", bytes.TrimRight(line, "\r\n"))
	}
}

func (t *terminal) done(text string) { fmt.Fprintf(t.w, "\n%s\n", t.paint(green, text)) }

func (t *terminal) fail(err error) { fmt.Fprintf(t.w, "\n%s\n", t.paint(red, "demo: "+err.Error())) }
