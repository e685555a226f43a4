package ctrd

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pvelxc/pvelxc/internal/host"
)

// imports says whether the daemon reads the file at path by itself.
func imports(t Tree, path string) bool {
	list, _ := t.At("imports").([]any)
	return slices.ContainsFunc(list, func(v any) bool {
		pattern, ok := v.(string)
		if !ok {
			return false
		}
		match, err := filepath.Match(pattern, path)
		return err == nil && match
	})
}

// importing makes a configuration that imports the present one and then text.
func (l Layout) importing(h *host.Host, text string) func(dir string) (string, error) {
	return func(dir string) (string, error) {
		part := filepath.Join(dir, "part.toml")
		if err := os.WriteFile(part, []byte(text), 0o600); err != nil {
			return "", err
		}
		return fmt.Sprintf("version = %d\nimports = [%q, %q]\n", l.Schema, h.At(l.Config), part), nil
	}
}

// changed is a configuration that would change more than it should.
type changed struct {
	what string
	// runtimes are those that would go.
	runtimes map[string]any
}

func (c *changed) Error() string {
	return "containerd's configuration: " + c.what + " would change: it is left alone (hint: add the tables by hand: docs/install.md)"
}

// try asks the daemon's binary what would be in force, and compares.
func (l Layout) try(ctx context.Context, h *host.Host, before Tree, candidate func(dir string) (string, error)) error {
	dir, err := os.MkdirTemp("", "pvelxc-containerd-")
	if err != nil {
		return fmt.Errorf("try containerd's configuration: %w", err)
	}
	defer os.RemoveAll(dir)
	text, err := candidate(dir)
	if err != nil {
		return fmt.Errorf("try containerd's configuration: %w", err)
	}
	// Imports that are relative start at the file's directory.
	file := filepath.Join(dir, "config.toml")
	if parent := h.At(path.Dir(l.Live)); l.Kind == "containerd" && isDir(parent) {
		f, err := os.CreateTemp(parent, ".pvelxc-try-*.toml")
		if err != nil {
			return fmt.Errorf("try containerd's configuration: %w", err)
		}
		f.Close()
		file = f.Name()
		defer func() { _ = os.Remove(file) }()
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("try containerd's configuration: %w", err)
	}
	if l.Binary, err = h.Look(l.Binary); err != nil {
		return err
	}
	after, err := l.Dump(ctx, &host.Host{Path: h.Path, Timeout: h.Timeout}, file)
	if err != nil {
		return err
	}
	return compare(before, after)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// compare says what differs beside our own tables and the names of the files read.
func compare(before, after Tree) error {
	for _, schema := range []int{2, 3} {
		if had, ok := before.At("plugins", CRI(schema), "containerd", "runtimes").(map[string]any); ok {
			has, _ := after.At("plugins", CRI(schema), "containerd", "runtimes").(map[string]any)
			lost := map[string]any{}
			for name, table := range had {
				if has[name] == nil {
					lost[name] = table
				}
			}
			if len(lost) > 0 {
				return &changed{"runtimes." + slices.Sorted(maps.Keys(lost))[0], lost}
			}
		}
	}
	if what := differ("", map[string]any(before), map[string]any(after)); what != "" {
		return &changed{what: what}
	}
	return nil
}

// differ is the path of the first difference; empty for none.
func differ(at string, a, b map[string]any) string {
	keys := maps.Clone(a)
	if keys == nil {
		keys = map[string]any{}
	}
	maps.Copy(keys, b)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		where := strings.TrimPrefix(at+"."+key, ".")
		x, inA := a[key]
		y, inB := b[key]
		switch {
		case where == "imports" || slices.Contains(ours, where):
		case (key == Handler || key == Handler+"-diff") && !inA && (at == proxies || strings.HasSuffix(at, ".containerd.runtimes")):
		case where == proxies && !inA: // an empty table may not have been printed
			x = map[string]any{}
			fallthrough
		default:
			if !inB {
				return where
			}
			tx, okx := x.(map[string]any)
			ty, oky := y.(map[string]any)
			if okx && oky {
				if found := differ(where, tx, ty); found != "" {
					return found
				}
			} else if !reflect.DeepEqual(x, y) {
				return where
			}
		}
	}
	return ""
}
