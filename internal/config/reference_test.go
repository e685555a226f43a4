package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/config.md anew")

const reference = "../../docs/config.md"

// The reference says what the program's own comments and defaults say.
func TestReference(t *testing.T) {
	fields := comments(t)
	var b strings.Builder
	b.WriteString("<!-- Written by `go test ./internal/config -run TestReference -update`. -->\n\n# Configuration\n\n" +
		"Two files, both strict: a key that is not known is an error that names its line.\n\n## /etc/pvelxc/config.toml\n\n" +
		"Read anew for each container, so an edit holds for the next one. `pvelxc config default` prints it, `config check` checks it, `config\n" +
		"dump` shows what is in force. Without a file the defaults hold. A runtime handler may override any key, in its options in\n" +
		"containerd's configuration; `$PVELXC_CONFIG` names another file.\n")
	rows(&b, fields, "", reflect.ValueOf(Default()))
	sample, err := os.ReadFile("../../dist/snapshotter.toml")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "\n## /etc/pvelxc/snapshotter.toml\n\nRead by pvelxc-snapshotter when it starts; `pvelxc-snapshotter -check` checks it. See [zfs](zfs.md).\n\n```toml\n%s```\n", sample)
	if *update {
		if err := os.WriteFile(reference, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(reference)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/config.md is not what the program says (go test ./internal/config -run TestReference -update): %v", err)
	}
}

// rows writes a table of the keys of a struct, then those of the tables in it.
func rows(b *strings.Builder, comments map[string]string, table string, v reflect.Value) {
	if table != "" {
		fmt.Fprintf(b, "\n### [%s]\n", table)
	}
	fmt.Fprintf(b, "\n| key | default | meaning |\n|---|---|---|\n")
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Type.Kind() != reflect.Struct {
			fmt.Fprintf(b, "| `%s` | `%s` | %s |\n", field.Tag.Get("toml"), literal(v.Field(i)), comments[v.Type().Name()+"."+field.Name])
		}
	}
	for i := range v.NumField() {
		if field := v.Type().Field(i); field.Type.Kind() == reflect.Struct {
			rows(b, comments, strings.TrimPrefix(table+"."+field.Tag.Get("toml"), "."), v.Field(i))
		}
	}
}

func literal(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	case reflect.Slice:
		return "[]"
	}
	return fmt.Sprint(v.Interface())
}

// comments are those of every field, as "Type.Field"; what a field is called in Go is not in them.
func comments(t *testing.T) map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		s, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range s.Fields.List {
			for _, name := range field.Names {
				text := strings.Join(strings.Fields(field.Doc.Text()), " ")
				for _, verb := range []string{" is ", " are "} {
					text = strings.TrimPrefix(text, name.Name+verb)
				}
				text = strings.TrimPrefix(text, name.Name+" ")
				found[spec.Name.Name+"."+name.Name] = strings.ReplaceAll(text, "|", "\\|")
			}
		}
		return true
	})
	return found
}
