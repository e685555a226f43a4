package oci2lxc

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func baseSpec(t testing.TB) *specs.Spec {
	t.Helper()
	return loadGolden(t, "testdata/base.txtar").spec
}

// TestManyMounts wants ten thousand mounts converted in order, and as many faulty ones
// refused with a message that can still be read.
func TestManyMounts(t *testing.T) {
	const n = 10000
	spec := baseSpec(t)
	for i := range n {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: fmt.Sprintf("/m/%d", i), Source: "/srv", Options: []string{"rbind", "ro"}})
	}
	p, err := Convert(spec, baseOptions)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(p.Mounts); got != n+2 {
		t.Fatalf("%d mounts", got)
	}
	for i, m := range p.Mounts {
		if m.Index != i {
			t.Fatalf("mount %d has index %d", i, m.Index)
		}
	}
	base, err := Convert(baseSpec(t), baseOptions)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Config) != len(base.Config) {
		t.Errorf("mounts reached the config: %d items instead of %d", len(p.Config), len(base.Config))
	}
	for i := range spec.Mounts[2:] {
		spec.Mounts[i+2].Destination = "/proc/1\n"
	}
	_, err = Convert(spec, baseOptions)
	checkRefusal(t, err)
	if want := fmt.Sprintf("and %d more", n-maxFindings); !strings.Contains(err.Error(), want) {
		t.Errorf("the message does not say %q", want)
	}
}

// TestManyWarnings wants the number of warnings bounded.
func TestManyWarnings(t *testing.T) {
	spec := baseSpec(t)
	for range 10000 {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "m", Source: "/srv", Options: []string{"bind"}})
	}
	p, err := Convert(spec, baseOptions)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(p.Warnings); got != maxFindings+1 {
		t.Errorf("%d warnings", got)
	}
}

// TestInjection puts line breaks, NULs, quotes and ".." into every string of a
// specification, one at a time: it is refused, or the config does not change but in the
// values that are made of that string.
func TestInjection(t *testing.T) {
	payloads := []string{
		"\nlxc.hook.start-host = /bin/evil", "\rlxc.hook.start-host = /bin/evil", "\x00", `"`, "' lxc.x = '", "/../../../etc", " ", "\t",
	}
	var doc any
	g := loadGolden(t, "testdata/everything.txtar")
	decode(t, "everything", g.section("config.json"), &doc)
	n := 0
	eachString(doc, "", func(at string, set func(string), was string) {
		for _, p := range payloads {
			for _, s := range []string{was + p, p + was} {
				set(s)
				b, err := json.Marshal(doc)
				if err != nil {
					t.Fatal(err)
				}
				var spec specs.Spec
				if err := json.Unmarshal(b, &spec); err != nil {
					continue
				}
				n++
				plan, err := Convert(&spec, g.opts)
				if err != nil {
					checkRefusal(t, err)
					continue
				}
				t.Run(at, func(t *testing.T) { checkConfig(t, plan); checkPlan(t, plan) })
			}
		}
		set(was)
	})
	if n < 1000 {
		t.Errorf("only %d cases: the specification has too few strings", n)
	}
}

// eachString visits the strings of a JSON document, of a list of strings the first.
func eachString(v any, at string, visit func(at string, set func(string), was string)) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(v) {
			if s, ok := v[k].(string); ok {
				visit(at+"."+k, func(n string) { v[k] = n }, s)
				continue
			}
			eachString(v[k], at+"."+k, visit)
		}
	case []any:
		for i := range v {
			if s, ok := v[i].(string); ok {
				visit(fmt.Sprintf("%s[%d]", at, i), func(n string) { v[i] = n }, s)
				return
			}
			eachString(v[i], fmt.Sprintf("%s[%d]", at, i), visit)
		}
	}
}

// TestPurity fails when the package gains the means to touch the system: an import
// beside the listed ones, or anything but constants and types of package unix.
func TestPurity(t *testing.T) {
	allowed := map[string]bool{
		"bytes": true, "errors": true, "fmt": true, "maps": true, "math": true, "path": true, "slices": true, "sort": true, "strconv": true, "strings": true,
		"github.com/containerd/errdefs": true, "github.com/opencontainers/runtime-spec/specs-go": true,
		"github.com/opencontainers/runtime-spec/specs-go/features": true, "golang.org/x/sys/unix": true,
	}
	packages, err := parser.ParseDir(token.NewFileSet(), ".", nil, 0) //nolint:staticcheck // all files count, whatever their build tags
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for name, file := range packages["oci2lxc"].Files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, imp := range file.Imports {
			seen++
			if p, err := strconv.Unquote(imp.Path.Value); err != nil || !allowed[p] {
				t.Errorf("%s imports %s", name, imp.Path.Value)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "unix" && sel.Sel.Name != "PathMax" && sel.Sel.Name != "RawSockaddrUnix" &&
				strings.ToUpper(sel.Sel.Name) != sel.Sel.Name {
				t.Errorf("%s uses unix.%s", name, sel.Sel.Name)
			}
			return true
		})
	}
	if seen == 0 {
		t.Fatal("no imports were found")
	}
}
