// Command testsum makes go test -json readable and adds it up over several runs.
//
//	go test -json ./... | testsum -record FILE   shows the run as it goes: packages, failures, skips
//	testsum -failed FILE...                      lists what failed: a package and a pattern for -run, a line each
//	testsum FILE...                              closes: what was skipped and why, and the totals
//
// Of a test that is in several files the last result counts; one that failed before it passed is named as
// unsteady.
//
// Counted are tests and subtests without subtests of their own. A package that fails outside its
// tests (it does not build, it panics) counts as a failed test.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64
	Output     string
}

func main() {
	record := flag.String("record", "", "show the run on standard input and write it to this file")
	failed := flag.Bool("failed", false, "list the failed tests of the files")
	flag.Parse()
	var err error
	switch {
	case *record != "":
		err = show(os.Stdin, os.Stdout, *record)
	case *failed:
		err = list(os.Stdout, flag.Args())
	default:
		err = total(os.Stdout, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

// show prints a run and keeps it.
func show(in io.Reader, out io.Writer, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("keep the run: %w", err)
	}
	defer file.Close()
	run := newRun()
	err = each(io.TeeReader(in, file), func(e event) { run.add(e); run.print(out, e) }, func(line []byte) { fmt.Fprintf(out, "%s\n", line) })
	return errors.Join(err, file.Close())
}

// load reads kept runs, in order.
func load(paths []string) (*run, error) {
	all := newRun()
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read a run: %w", err)
		}
		err = each(file, all.add, func([]byte) {})
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return all, nil
}

// list prints the failed tests by package, for another run of them.
func list(out io.Writer, paths []string) error {
	all, err := load(paths)
	if err != nil {
		return err
	}
	all.printFailed(out)
	return nil
}

// total prints the closing lines over several runs. Its error is the verdict.
func total(out io.Writer, paths []string) error {
	all, err := load(paths)
	if err != nil {
		return err
	}
	c := all.counts()
	all.printClosing(out, c)
	switch {
	case c.failed > 0:
		return fmt.Errorf("%d failed", c.failed)
	case c.passed == 0:
		return errors.New("no test ran")
	}
	return nil
}

// each decodes a stream; other gets the lines that are not events, as a compiler may print.
func each(in io.Reader, handle func(event), other func([]byte)) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Action == "" {
			other(lines.Bytes())
			continue
		}
		handle(e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the events: %w", err)
	}
	return nil
}
