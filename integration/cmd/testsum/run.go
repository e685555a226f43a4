package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// key names a test; its test part is empty for the package itself.
type key struct{ pkg, test string }

// run is what happened in one or several runs of go test.
type run struct {
	result  map[key]string // pass, fail or skip
	output  map[key][]string
	parents map[key]bool // tests that have subtests
	order   []key        // of the results
	again   map[key]bool // failed before they passed
}

func newRun() *run {
	return &run{result: make(map[key]string), output: make(map[key][]string), parents: make(map[key]bool), again: make(map[key]bool)}
}

func (r *run) add(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "output":
		r.output[k] = append(r.output[k], e.Output)
	case "build-output":
		k.pkg = e.ImportPath
		r.output[k] = append(r.output[k], e.Output)
	case "pass", "fail", "skip":
		if _, seen := r.result[k]; !seen {
			r.order = append(r.order, k)
		}
		r.again[k] = e.Action == "pass" && (r.again[k] || r.result[k] == "fail")
		r.result[k] = e.Action
		for i, c := range e.Test { // a name may have slashes of its own
			if c == '/' {
				r.parents[key{e.Package, e.Test[:i]}] = true
			}
		}
	}
}

// counts are the totals of a run.
type counts struct {
	passed, failed, skipped int
	failures, skips         []key
}

func (r *run) counts() counts {
	var c counts
	for _, k := range r.order {
		if !r.counted(k) {
			continue
		}
		switch r.result[k] {
		case "pass":
			c.passed++
		case "fail":
			c.failed++
			c.failures = append(c.failures, k)
		case "skip":
			c.skipped++
			c.skips = append(c.skips, k)
		}
	}
	return c
}

// counted: leaves count, and what failed for a reason of its own.
func (r *run) counted(k key) bool {
	switch {
	case k.test == "":
		return r.result[k] == "fail" && !r.below(k)
	case r.parents[k]:
		return r.result[k] == "fail" && !r.below(k)
	default:
		return true
	}
}

// below says whether a test of the package, or a subtest of the test, failed.
func (r *run) below(k key) bool {
	return slices.ContainsFunc(r.order, func(other key) bool {
		return r.result[other] == "fail" && other.pkg == k.pkg && other != k &&
			(k.test == "" || strings.HasPrefix(other.test, k.test+"/"))
	})
}

// print shows what an event means to somebody who watches.
func (r *run) print(out io.Writer, e event) {
	k := key{e.Package, e.Test}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(out, e.Output)
	case e.Action == "skip" && e.Test != "":
		fmt.Fprintf(out, "skip  %s: %s\n", k, r.reason(k))
	case e.Action == "fail":
		fmt.Fprintf(out, "FAIL  %s (%.1fs)\n", k, e.Elapsed)
		if r.counted(k) || e.Test == "" {
			fmt.Fprint(out, strings.Join(r.output[k], ""))
		}
	case e.Action == "pass" && e.Test == "":
		fmt.Fprintf(out, "ok    %s (%.1fs)\n", k, e.Elapsed)
	}
}

func (r *run) printClosing(out io.Writer, c counts) {
	for _, k := range c.skips {
		fmt.Fprintf(out, "skipped: %s: %s\n", k, r.reason(k))
	}
	for _, k := range r.order {
		if r.again[k] && r.counted(k) {
			fmt.Fprintf(out, "unsteady: %s failed first and passed when it ran again\n", k)
		}
	}
	for _, k := range c.failures {
		fmt.Fprintf(out, "failed:  %s\n", k)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", c.passed, c.failed, c.skipped)
}

// printFailed lists each package with failures and a pattern of its failed tests; a package that
// failed outside its tests has a pattern for all of them.
func (r *run) printFailed(out io.Writer) {
	tests := make(map[string][]string)
	var packages []string
	for _, k := range r.counts().failures {
		if _, seen := tests[k.pkg]; !seen {
			packages = append(packages, k.pkg)
			tests[k.pkg] = nil
		}
		name, _, _ := strings.Cut(k.test, "/")
		if !slices.Contains(tests[k.pkg], name) {
			tests[k.pkg] = append(tests[k.pkg], name)
		}
	}
	for _, pkg := range packages {
		pattern := "^(" + strings.Join(tests[pkg], "|") + ")$"
		if slices.Contains(tests[pkg], "") {
			pattern = "."
		}
		fmt.Fprintf(out, "%s %s\n", pkg, pattern)
	}
}

var logLine = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

// reason is what a test said last.
func (r *run) reason(k key) string {
	for _, line := range slices.Backward(r.output[k]) {
		if m := logLine.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return "no reason given"
}

func (k key) String() string {
	short := strings.TrimPrefix(k.pkg, "github.com/pvelxc/pvelxc/")
	if k.test == "" {
		return short
	}
	return short + " " + k.test
}
