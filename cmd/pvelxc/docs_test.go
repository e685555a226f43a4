package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are the documents that speak of the command.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/adr/*.md", "../../dist/*/*.md", "../../integration/*/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found[path] = string(text)
		}
	}
	return found
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)

// Every link between documents leads somewhere.
func TestLinks(t *testing.T) {
	for path, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", path, m[1])
			}
		}
	}
}

var call = regexp.MustCompile("(?m)(?:^    |`|&& )pvelxc ([a-z][a-z-]*)((?: +[^`|;&#\n]+)?)")

// Every command that the documents tell to type is one, with its flags.
func TestDocumentedCommands(t *testing.T) {
	seen := 0
	for path, text := range pages(t) {
		if strings.HasSuffix(path, "CHANGELOG.md") {
			continue
		}
		for _, m := range call.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[2])
			c, _, err := newCommand(io.Discard).Find(append([]string{m[1]}, words...))
			if err != nil || c.Name() == "pvelxc" {
				t.Errorf("%s: pvelxc %s%s: %v", path, m[1], m[2], err)
				continue
			}
			seen++
			for _, w := range words {
				name, _, _ := strings.Cut(strings.TrimLeft(w, "-"), "=")
				known := c.Flags().Lookup(name) != nil || c.InheritedFlags().Lookup(name) != nil || len(name) == 1 && c.Flags().ShorthandLookup(name) != nil
				if strings.HasPrefix(w, "-") && !known && !slices.Contains([]string{"-h", "--help"}, w) {
					t.Errorf("%s: pvelxc %s has no flag %s", path, m[1], w)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands were found in the documents", seen)
	}
}
