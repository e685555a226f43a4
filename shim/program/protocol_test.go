package program

import (
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// header returns the constants of protocol.h by name.
func header(t *testing.T) map[string]uint64 {
	t.Helper()
	b, err := os.ReadFile("../init/protocol.h")
	if err != nil {
		t.Fatal(err)
	}
	consts := map[string]uint64{}
	for _, re := range []string{`(?m)^\t(PVX_\w+) = (\d+)[,;]`, `(PVX_ROLE_\w+) = (\d+)`, `(?m)^#define (PVX_\w+) \(?(0x[0-9a-f]+|\d+)u?(?: << (\d+)\))?`} {
		for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(string(b), -1) {
			v, err := strconv.ParseUint(m[2], 0, 64)
			if err != nil {
				t.Fatalf("%s: %v", m[0], err)
			}
			if len(m) > 3 && m[3] != "" {
				shift, _ := strconv.Atoi(m[3])
				v <<= shift
			}
			consts[m[1]] = v
		}
	}
	return consts
}

// ours returns the constants of this package by name in lower case.
func ours(t *testing.T) map[string]uint64 {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "opcode.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := (&types.Config{Importer: importer.Default()}).Check("program", fset, []*ast.File{f}, nil)
	if err != nil {
		t.Fatal(err)
	}
	consts := map[string]uint64{}
	for _, name := range pkg.Scope().Names() {
		if c, ok := pkg.Scope().Lookup(name).(*types.Const); ok {
			v, _ := constant.Uint64Val(c.Val())
			consts[strings.ToLower(name)] = v
		}
	}
	return consts
}

// TestProtocolHeader compares every number of protocol.h with its Go constant:
// PVX_OP_MOUNT_FS is opMountFS, and so on, whatever the case.
func TestProtocolHeader(t *testing.T) {
	c, g := header(t), ours(t)
	if len(c) < 60 {
		t.Fatalf("found only %d constants in protocol.h", len(c))
	}
	for name, want := range c {
		key := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "PVX_"), "_", ""))
		got, ok := g[key]
		if !ok || got != want {
			t.Errorf("%s is %d in protocol.h; here %q is %d (known: %v)", name, want, key, got, ok)
		}
		delete(g, key)
	}
	for _, own := range []string{"syncmounted", "synccreated"} { // numbers between the shim's own programs
		delete(g, own)
	}
	for name := range g {
		t.Errorf("%s is not in protocol.h", name)
	}
}
