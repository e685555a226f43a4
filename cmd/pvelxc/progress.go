package main

import (
	"fmt"
	"io"

	"github.com/schollz/progressbar/v3"
)

// progress shows how far long work is: a bar below the lines on a terminal, and lines alone elsewhere.
type progress struct {
	out   io.Writer
	quiet bool
	// plain has each step told by a line of its own, where there is no bar.
	plain bool
	bar   *progressbar.ProgressBar // nil for none
}

// newProgress is for work of so many steps; it is nothing with --quiet.
func newProgress(out io.Writer, s screen, steps int) *progress {
	p := &progress{out: out, quiet: s.quiet}
	if s.quiet || !s.terminal {
		return p
	}
	theme := progressbar.Theme{Saucer: "█", SaucerPadding: "░", BarStart: "", BarEnd: ""}
	if s.colour {
		theme.Saucer = "[green]█[reset]"
	}
	p.bar = progressbar.NewOptions(max(steps, 1), progressbar.OptionSetWriter(out), progressbar.OptionSetTheme(theme), progressbar.OptionSetWidth(24),
		progressbar.OptionSetPredictTime(false), progressbar.OptionClearOnFinish(),
		progressbar.OptionEnableColorCodes(s.colour), progressbar.OptionUseANSICodes(true))
	return p
}

// at says that a step, counted from 0, begins.
func (p *progress) at(step int, doing string) {
	doing = printable(doing)
	if p.bar == nil {
		if p.plain && !p.quiet {
			fmt.Fprintln(p.out, doing)
		}
		return
	}
	// A description is always drawn, a number only when it makes a difference.
	_ = p.bar.Set(min(step, p.bar.GetMax()-1))
	p.bar.Describe(fmt.Sprintf("%-32.60s", doing))
}

// more adds to the number of steps.
func (p *progress) more(steps int) {
	if p.bar != nil {
		p.bar.AddMax(steps)
	}
}

// line prints a line above the bar.
func (p *progress) line(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// end takes the bar away. A step that begins brings it back.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
