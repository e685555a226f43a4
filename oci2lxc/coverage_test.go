package oci2lxc

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// specFields gives the path of every field of the specification that holds a value: "[]"
// is an element of a list, "{}" of an object with free keys.
func specFields() []string {
	var paths []string
	var walk func(path string, t reflect.Type)
	walk = func(path string, t reflect.Type) {
		switch t.Kind() {
		case reflect.Pointer:
			walk(path, t.Elem())
			return
		case reflect.Slice:
			if e := t.Elem(); e.Kind() == reflect.Struct {
				walk(path+"[]", e)
				return
			}
		case reflect.Map:
			if e := t.Elem(); e.Kind() == reflect.Struct {
				walk(path+"{}", e)
				return
			}
		case reflect.Struct:
			for i := range t.NumField() {
				f := t.Field(i)
				if f.Anonymous {
					walk(path, f.Type)
					continue
				}
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if path != "" {
					name = path + "." + name
				}
				if otherPlatforms[name] {
					paths = append(paths, name)
					continue
				}
				walk(name, f.Type)
			}
			return
		}
		paths = append(paths, path)
	}
	walk("", reflect.TypeFor[specs.Spec]())
	return paths
}

// TestCoverageIsComplete fails when the specification has a field that the table
// lacks, or the table one that the specification lacks.
func TestCoverageIsComplete(t *testing.T) {
	var rows []string
	seen := map[string]bool{}
	for _, r := range Coverage {
		if seen[r.Path] {
			t.Errorf("%s is in the table twice", r.Path)
		}
		seen[r.Path] = true
		rows = append(rows, r.Path)
		switch r.Status {
		case Mapped, Warned, Refused:
		default:
			t.Errorf("%s has the status %q", r.Path, r.Status)
		}
		if r.Note == "" {
			t.Errorf("%s has no note", r.Path)
		}
	}
	if d := cmp.Diff(specFields(), rows); d != "" {
		t.Errorf("(-specification +table):\n%s", d)
	}
}

// TestCoverageHasGoldens fails when no golden sets a field that the table speaks of.
func TestCoverageHasGoldens(t *testing.T) {
	set := map[string]bool{}
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".txtar") {
			markFields(set, "", loadGolden(t, "testdata/"+e.Name()).used)
		}
	}
	for _, r := range Coverage {
		if !set[r.Path] {
			t.Errorf("no golden sets %s", r.Path)
		}
	}
}

// markFields notes the paths that a JSON value sets, as specFields writes them.
func markFields(set map[string]bool, path string, v any) {
	set[path] = true
	switch v := v.(type) {
	case map[string]any:
		for k, sub := range v {
			k = strings.TrimSuffix(k, "+")
			if path == "" {
				markFields(set, k, sub)
				continue
			}
			markFields(set, path+"."+k, sub)
			if m, ok := sub.(map[string]any); ok {
				markFields(set, path+"{}", m)
			}
		}
	case []any:
		for _, sub := range v {
			markFields(set, path+"[]", sub)
		}
	}
}

const coverageDoc = "../docs/spec-coverage.md"

// TestCoverageDoc fails when the document is not what the table gives; -update writes it.
func TestCoverageDoc(t *testing.T) {
	want := CoverageMarkdown()
	if *update {
		if err := os.MkdirAll("../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(coverageDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(coverageDoc)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), want); d != "" {
		t.Errorf("(-file +table), go test -update rewrites it:\n%s", d)
	}
}
