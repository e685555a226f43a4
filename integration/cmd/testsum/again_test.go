package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFailedRunsAgain(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, lines ...string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := write("1", `{"Action":"fail","Package":"p","Test":"TestA/sub"}`, `{"Action":"fail","Package":"p","Test":"TestA"}`,
		`{"Action":"pass","Package":"p","Test":"TestB"}`, `{"Action":"fail","Package":"p"}`, `{"Action":"fail","Package":"q"}`)
	var out bytes.Buffer
	if err := list(&out, []string{first}); err != nil {
		t.Fatal(err)
	}
	if want := "p ^(TestA)$\nq .\n"; out.String() != want {
		t.Errorf("failed tests are listed as %q, want %q", out.String(), want)
	}
	good := write("2", `{"Action":"pass","Package":"p","Test":"TestA/sub"}`, `{"Action":"pass","Package":"p","Test":"TestA"}`, `{"Action":"pass","Package":"p"}`, `{"Action":"pass","Package":"q"}`)
	out.Reset()
	if err := total(&out, []string{first, good}); err != nil {
		t.Errorf("all passed the second time: %v", err)
	}
	if want := "unsteady: p TestA/sub failed first and passed when it ran again\n2 passed, 0 failed, 0 skipped\n"; out.String() != want {
		t.Errorf("closing lines are %q, want %q", out.String(), want)
	}
	bad := write("3", `{"Action":"fail","Package":"p","Test":"TestA/sub"}`, `{"Action":"fail","Package":"p","Test":"TestA"}`)
	out.Reset()
	if err := total(&out, []string{first, good, bad}); err == nil {
		t.Errorf("what failed last counts as passed: %q", out.String())
	}
}
