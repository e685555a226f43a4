package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write the man pages anew")

const manDir = "../../dist/man"

// The man pages that ship say what the program says of itself.
func TestManPages(t *testing.T) {
	root := newCommand(io.Discard)
	root.DisableAutoGenTag = true
	root.InitDefaultCompletionCmd()
	want := map[string][]byte{}
	var render func(c *cobra.Command)
	render = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		// The date is of the release, which the package's changelog has.
		date := time.Unix(0, 0).UTC()
		var b bytes.Buffer
		header := &doc.GenManHeader{Section: "8", Date: &date, Source: "pvelxc", Manual: "pvelxc"}
		if err := doc.GenMan(c, header, &b); err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(b.String(), `"Jan 1970"`, `""`)
		want[strings.ReplaceAll(c.CommandPath(), " ", "-")+".8"] = []byte(text)
		for _, below := range c.Commands() {
			render(below)
		}
	}
	render(root)
	if *update {
		old, err := filepath.Glob(filepath.Join(manDir, "pvelxc*.8"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range old {
			if text, err := os.ReadFile(path); err == nil && !bytes.Contains(text, []byte(`\" by hand`)) {
				_ = os.Remove(path)
			}
		}
	}
	for name, text := range want {
		path := filepath.Join(manDir, name)
		if *update {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, text) {
			t.Errorf("%s is not what the program says (go test ./cmd/pvelxc -run TestManPages -update): %v", name, err)
		}
	}
}
