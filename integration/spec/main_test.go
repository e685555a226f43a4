// Package spec tests that a container is what its OCI runtime spec says, as seen from inside.
package spec

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// prints runs a script in a container made with opts and compares its output.
func prints(t *testing.T, e *harness.Env, want, script string, opts ...harness.Option) {
	t.Helper()
	got := e.Run(t, append(opts, harness.Shell(script))...)
	if diff := cmp.Diff(want, got.Stdout); diff != "" || got.Status != 0 {
		t.Errorf("%s: status %d, output (-want +got):\n%s%s", script, got.Status, diff, got.Stderr)
	}
}

// refused checks that a container with opts is not made, with an error that has one of the texts.
func refused(t *testing.T, e *harness.Env, texts []string, opts ...harness.Option) {
	t.Helper()
	c, err := e.TryCreate(t, append(opts, harness.Args("true"))...)
	if err == nil {
		err = c.Task.Start(e.Context)
	}
	if err == nil {
		t.Error("the container started")
		return
	}
	for _, text := range texts {
		if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(text)) {
			return
		}
	}
	t.Errorf("the error is %q, want one of %q in it", err, texts)
}

// lines joins what a script of one command a line prints.
func lines(text ...any) string {
	var b strings.Builder
	for _, t := range text {
		fmt.Fprintln(&b, t)
	}
	return b.String()
}
