package oci2lxc

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite testdata and docs/spec-coverage.md from what the code does")

// baseOptions are the options of a golden that has none of its own.
var baseOptions = Options{
	ID: "c1", Namespace: "default", Name: "c1", Bundle: "/run/bundle", InitPath: "/usr/libexec/pvelxc/pvelxc-init",
	LogFile: "/run/pvelxc/c1.log", CgroupMode: CgroupUnified, AppArmor: true, LXCAppArmor: true,
}

// golden is one file of testdata. Its input is config.json, a whole specification, or
// patch.json, changes to testdata/base.txtar's (RFC 7386, and "key+" appends to a list);
// options.json changes baseOptions. Its output is conf, plan and warnings, or error; with a
// patch, conf and plan are the lines that differ from the base's. process.json and
// resources.json make it a golden of ConvertProcess or ConvertResources.
type golden struct {
	archive *txtar.Archive
	spec    *specs.Spec
	opts    Options
	patch   bool
	used    map[string]any // what the file itself sets, for the coverage test
}

// isOutput says whether a section of a golden is written by -update.
func isOutput(name string) bool {
	return name == "conf" || name == "plan" || name == "warnings" || name == "error"
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d goldens, %v", len(files), err)
	}
	base := loadGolden(t, "testdata/base.txtar")
	basePlan, err := Convert(base.spec, base.opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			g := loadGolden(t, file)
			got := g.run(t, basePlan)
			want := &txtar.Archive{Comment: g.archive.Comment}
			for _, f := range g.archive.Files {
				if !isOutput(f.Name) {
					want.Files = append(want.Files, f)
				}
			}
			want.Files = append(want.Files, got...)
			if *update {
				if err := os.WriteFile(file, txtar.Format(want), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(txtar.Format(g.archive)), string(txtar.Format(want))); d != "" {
				t.Errorf("(-file +code), go test -update rewrites it:\n%s", d)
			}
		})
	}
}

func loadGolden(t testing.TB, file string) *golden {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g := &golden{archive: a, opts: baseOptions}
	if b := g.section("options.json"); b != nil {
		decode(t, file, b, &g.opts)
	}
	if b := g.section("config.json"); b != nil {
		g.spec = new(specs.Spec)
		decode(t, file, b, g.spec)
		decode(t, file, b, &g.used)
		return g
	}
	g.patch = true
	base, err := txtar.ParseFile("testdata/base.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	decode(t, "base", (&golden{archive: base}).section("config.json"), &doc)
	if b := g.section("patch.json"); b != nil {
		decode(t, file, b, &g.used)
		merge(doc, g.used)
	}
	merged, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	g.spec = new(specs.Spec)
	decode(t, file, merged, g.spec)
	return g
}

func (g *golden) section(name string) []byte {
	for _, f := range g.archive.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func decode(t testing.TB, what string, b []byte, to any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // a merged document must keep all 64 bits of RLIM_INFINITY
	if err := d.Decode(to); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// merge applies a JSON merge patch.
func merge(doc, patch map[string]any) {
	for k, v := range patch {
		if list, ok := strings.CutSuffix(k, "+"); ok {
			old, _ := doc[list].([]any)
			doc[list] = append(old, v.([]any)...)
			continue
		}
		if v == nil {
			delete(doc, k)
			continue
		}
		m, ok := v.(map[string]any)
		if !ok {
			doc[k] = v
			continue
		}
		old, ok := doc[k].(map[string]any)
		if !ok {
			old = map[string]any{}
			doc[k] = old
		}
		merge(old, m)
	}
}

// run converts and gives the sections of the output.
func (g *golden) run(t *testing.T, base *Plan) []txtar.File {
	t.Helper()
	var warnings []Warning
	var err error
	var out []txtar.File
	switch {
	case g.section("process.json") != nil:
		var proc specs.Process
		decode(t, "process.json", g.section("process.json"), &proc)
		var p *Process
		if p, warnings, err = ConvertProcess(&proc, g.spec, g.opts); err == nil {
			out = append(out, txtar.File{Name: "plan", Data: text(flatten("Process", p))})
		}
	case g.section("resources.json") != nil:
		var res specs.LinuxResources
		decode(t, "resources.json", g.section("resources.json"), &res)
		var r *specs.LinuxResources
		if r, warnings, err = ConvertResources(&res, g.opts); err == nil {
			out = append(out, txtar.File{Name: "plan", Data: text(flatten("Resources", r))})
		}
	default:
		var p *Plan
		if p, err = Convert(g.spec, g.opts); err == nil {
			warnings = p.Warnings
			out = g.planSections(t, p, base)
		}
	}
	if err != nil {
		return []txtar.File{{Name: "error", Data: text(errorLines(t, err))}}
	}
	var lines []string
	for _, w := range warnings {
		lines = append(lines, w.Field+": "+w.Reason)
	}
	if lines != nil {
		out = append(out, txtar.File{Name: "warnings", Data: text(lines)})
	}
	return out
}

func (g *golden) planSections(t *testing.T, p, base *Plan) []txtar.File {
	t.Helper()
	conf, plan := confLines(t, p), planLines(p)
	if g.patch {
		conf, plan = diffLines(confLines(t, base), conf), diffLines(planLines(base), plan)
	}
	var out []txtar.File
	if len(conf) > 0 {
		out = append(out, txtar.File{Name: "conf", Data: text(conf)})
	}
	return append(out, txtar.File{Name: "plan", Data: text(plan)})
}

func confLines(t *testing.T, p *Plan) []string {
	t.Helper()
	b, err := p.Config.Render()
	if err != nil {
		t.Fatalf("a plan was given whose config cannot be rendered: %v", err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

func planLines(p *Plan) []string {
	rest := *p
	rest.Config, rest.Warnings = nil, nil
	return flatten("", rest)
}

// errorLines has one line per refusal, with its class, and checks that the error can
// be handled as promised.
func errorLines(t *testing.T, err error) []string {
	t.Helper()
	var first *FieldError
	if !errors.As(err, &first) {
		t.Fatalf("%T is no *FieldError", err)
	}
	refusals := Refusals{first}
	_ = errors.As(err, &refusals)
	var lines []string
	for _, r := range refusals {
		class := "invalid"
		switch {
		case errdefs.IsNotImplemented(r):
			class = "not implemented"
		case !errdefs.IsInvalidArgument(r):
			t.Errorf("%v has no class", r)
		}
		lines = append(lines, class+": "+r.Error())
	}
	return lines
}

// diffLines gives the lines that differ, without their context.
func diffLines(base, got []string) []string {
	count := map[string]int{}
	for _, l := range base {
		count[l]++
	}
	var added []string
	for _, l := range got {
		if count[l]--; count[l] < 0 {
			added = append(added, "+ "+l)
		}
	}
	var lines []string
	for _, l := range base {
		if count[l] > 0 {
			count[l]--
			lines = append(lines, "- "+l)
		}
	}
	return append(lines, added...)
}

func text(lines []string) []byte {
	if len(lines) == 0 {
		return nil
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// flatten writes a value as lines "path = value", without what is zero.
func flatten(path string, v any) []string {
	return flattenValue(path, reflect.ValueOf(v))
}

func flattenValue(path string, v reflect.Value) []string {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		if v.Elem().Kind() == reflect.Struct {
			if lines := flattenValue(path, v.Elem()); lines != nil {
				return lines
			}
			return []string{path + " = {}"}
		}
		return []string{fmt.Sprintf("%s = %v", path, v.Elem())}
	case reflect.Struct:
		var lines []string
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if path != "" {
				name = path + "." + name
			}
			lines = append(lines, flattenValue(name, v.Field(i))...)
		}
		return lines
	case reflect.Slice:
		if k := v.Type().Elem().Kind(); k != reflect.Struct && k != reflect.String {
			if v.Len() == 0 {
				return nil
			}
			return []string{fmt.Sprintf("%s = %v", path, v)}
		}
		// An element is one line, so that a change of one shows all of it.
		var lines []string
		for i := range v.Len() {
			at := fmt.Sprintf("%s[%d]", path, i)
			if v.Index(i).Kind() != reflect.Struct {
				lines = append(lines, fmt.Sprintf("%s = %q", at, v.Index(i)))
				continue
			}
			lines = append(lines, strings.Join(append([]string{at + ":"}, flattenValue("", v.Index(i))...), " "))
		}
		return lines
	case reflect.Map:
		sorted := map[string]reflect.Value{}
		for _, k := range v.MapKeys() {
			sorted[k.String()] = v.MapIndex(k)
		}
		var lines []string
		for _, k := range sortedKeys(sorted) {
			sub := flattenValue(fmt.Sprintf("%s[%q]", path, k), sorted[k])
			if sub == nil {
				sub = []string{fmt.Sprintf("%s[%q] = {}", path, k)}
			}
			lines = append(lines, sub...)
		}
		return lines
	}
	if v.IsZero() {
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		return []string{fmt.Sprintf("%s = %q", path, v.String())}
	case reflect.Uint64:
		if v.Uint() > 9 {
			return []string{fmt.Sprintf("%s = %#x", path, v.Uint())}
		}
	case reflect.Uint8:
		return []string{fmt.Sprintf("%s = %q", path, rune(v.Uint()))}
	}
	return []string{fmt.Sprintf("%s = %v", path, v)}
}
