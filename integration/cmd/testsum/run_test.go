package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const recorded = `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"output","Package":"p","Test":"TestA/two","Output":"    a_test.go:5: needs /dev/zfs: no such file\n"}
{"Action":"skip","Package":"p","Test":"TestA/two"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
{"Action":"fail","Package":"q","Test":"TestB/x/y"}
{"Action":"fail","Package":"q","Test":"TestB"}
{"Action":"fail","Package":"q"}
# a line that is no event
{"Action":"build-output","ImportPath":"r","Output":"r.go:1: syntax error\n"}
{"Action":"fail","Package":"r"}
`

func TestTotal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	var shown, closing strings.Builder
	if err := show(strings.NewReader(recorded), &shown, path); err != nil {
		t.Fatal(err)
	}
	if err := total(&closing, []string{path}); err == nil || err.Error() != "2 failed" {
		t.Errorf("verdict %v, want 2 failed", err)
	}
	want := "skipped: p TestA/two: needs /dev/zfs: no such file\nfailed:  q TestB/x/y\nfailed:  r\n1 passed, 2 failed, 1 skipped\n"
	if diff := cmp.Diff(want, closing.String()); diff != "" {
		t.Errorf("closing lines (-want +got):\n%s", diff)
	}
	for _, text := range []string{"ok    p (", "skip  p TestA/two: needs /dev/zfs", "FAIL  q TestB/x/y", "r.go:1: syntax error", "# a line that is no event"} {
		if !strings.Contains(shown.String(), text) {
			t.Errorf("%q is not in what was shown:\n%s", text, shown.String())
		}
	}
}

func TestTotalOfNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := total(&strings.Builder{}, []string{path}); err == nil {
		t.Error("no test ran, and that was fine")
	}
}
