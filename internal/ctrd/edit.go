package ctrd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/pvelxc/pvelxc/internal/host"
)

// Want is what containerd's configuration must have.
type Want struct {
	// Socket is the snapshotter's, empty where there is none; Exports is the directory on its
	// pool that the kubelet takes the images' capacity from, empty for none.
	Socket, Exports string
	// Differ has layers unpacked and compared by the snapshotter itself, where containerd's
	// configuration leaves that to its default.
	Differ bool
	// Options go to the runtime as they are: the format of the node's own file.
	Options map[string]any
}

// Edit is a change of one file. Before is nil for a file that is not there, After for one
// that goes.
type Edit struct {
	Path          string
	Before, After []byte
}

const (
	dropIn = "/etc/containerd/conf.d/pvelxc.toml"
	begin  = "# pvelxc: begin. Written by pvelxc install; pvelxc uninstall removes it.\n"
	end    = "# pvelxc: end.\n"
)

// Plan says which files to change so that containerd has what is wanted. Tables that exist are
// never touched, and containerd itself is asked, with the new files, whether all else stays as
// it was. Nothing to change is no edit.
func (l Layout) Plan(ctx context.Context, h *host.Host, want Want) ([]Edit, error) {
	before, err := l.Dump(ctx, h, l.Live)
	if err != nil {
		return nil, err
	}
	add := want.missing(before, l.Schema)
	if len(add) == 0 {
		return nil, nil
	}
	main, err := readOrNil(h, l.Config)
	if err != nil {
		return nil, err
	}
	if l.Kind == "k3s" && !h.Exists(l.Live) {
		return nil, fmt.Errorf("k3s has not made %s yet: %w (hint: systemctl start %s)", l.Live, errdefs.ErrFailedPrecondition, l.Unit)
	}
	edits, err := l.plan(ctx, h, before, main, add)
	if err != nil && want.Differ {
		// The differ's tables may be there in another form. Without it all works, slower.
		want.Differ = false
		if add = want.missing(before, l.Schema); len(add) == 0 {
			return nil, nil
		}
		return l.plan(ctx, h, before, main, add)
	}
	return edits, err
}

func (l Layout) plan(ctx context.Context, h *host.Host, before Tree, main []byte, add tables) ([]Edit, error) {
	if l.Kind != "k3s" && main != nil && l.Schema > 2 && imports(before, h.At(dropIn)) {
		text, err := render(l.Schema, true, add)
		if err != nil {
			return nil, err
		}
		if err := l.try(ctx, h, before, l.importing(h, text)); err == nil {
			return []Edit{{Path: dropIn, After: []byte(begin + text + end)}}, nil
		}
	}
	return l.planBlock(ctx, h, before, main, add)
}

// planBlock appends to the file itself.
func (l Layout) planBlock(ctx context.Context, h *host.Host, before Tree, main []byte, add tables) ([]Edit, error) {
	for range 2 {
		text, err := render(l.Schema, main == nil && l.Kind != "k3s", add)
		if err != nil {
			return nil, err
		}
		var after, candidate string
		if l.Kind == "k3s" {
			live, err := h.Read(l.Live)
			if err != nil {
				return nil, fmt.Errorf("containerd's configuration: %w", err)
			}
			base := ""
			if main == nil {
				base = "{{ template \"base\" . }}\n\n"
			}
			after, candidate = newline(string(main))+begin+base+text+end, newline(live)+text
		} else {
			after = newline(string(main)) + begin + text + end
			candidate = after
		}
		err = l.try(ctx, h, before, func(string) (string, error) { return candidate, nil })
		if err == nil {
			return []Edit{{Path: l.Config, Before: main, After: []byte(after)}}, nil
		}
		// containerd 1.7 forgets its default runtimes when a file names another one.
		var lost *changed
		if !errors.As(err, &lost) || len(lost.runtimes) == 0 || len(add[runtimes(l.Schema)]) > 1 {
			return nil, err
		}
		maps.Copy(add[runtimes(l.Schema)], lost.runtimes)
	}
	return nil, fmt.Errorf("containerd %s: its default runtimes cannot be kept: %w", l.Version, errdefs.ErrInternal)
}

// Unplan says which files to change so that nothing of Plan's is left.
func (l Layout) Unplan(h *host.Host) ([]Edit, error) {
	var edits []Edit
	for _, file := range slices.Compact([]string{dropIn, l.Config}) {
		text, err := readOrNil(h, file)
		if err != nil {
			return nil, err
		}
		rest, ok := withoutBlock(string(text))
		if !ok {
			continue
		}
		e := Edit{Path: file, Before: text}
		if strings.TrimSpace(rest) != "" {
			e.After = []byte(rest)
		}
		edits = append(edits, e)
	}
	return edits, nil
}

// withoutBlock cuts out what Plan wrote; ok is false when there is nothing of it.
func withoutBlock(text string) (rest string, ok bool) {
	head, tail, found := strings.Cut(text, begin)
	if !found {
		return text, false
	}
	_, tail, found = strings.Cut(tail, end)
	if !found {
		return text, false
	}
	return head + tail, true
}

func readOrNil(h *host.Host, path string) ([]byte, error) {
	text, err := h.Read(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("containerd's configuration: %w", err)
	}
	return []byte(text), nil
}

// newline ends a text with one, unless it is empty.
func newline(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// tables are what is to be added: the path of a parent, and its new children.
type tables map[string]map[string]any

// runtimes is the path of the table of handlers.
func runtimes(schema int) string {
	return `plugins."` + CRI(schema) + `".containerd.runtimes`
}

const (
	proxies = "proxy_plugins"
	differs = "io.containerd.service.v1.diff-service"
	unpacks = "io.containerd.transfer.v1.local"
)

// raw is TOML as it is to be written.
type raw string

// ours are the paths that change when the differ comes into force.
var ours = []string{"plugins." + differs + ".default", "plugins." + unpacks + ".unpack_config"}

// missing is what a configuration lacks of w.
func (w Want) missing(have Tree, schema int) tables {
	t := tables{}
	if have.RuntimeTable() == nil {
		handler := map[string]any{"runtime_type": Runtime}
		if w.Socket != "" {
			handler["snapshotter"] = Handler
		}
		if len(w.Options) > 0 {
			handler["options"] = w.Options
		}
		t[runtimes(schema)] = map[string]any{Handler: handler}
	}
	if w.Socket != "" && have.ProxyTable() == nil {
		proxy := map[string]any{"type": "snapshot", "address": w.Socket}
		if w.Exports != "" {
			proxy["exports"] = map[string]any{"root": w.Exports}
		}
		t[proxies] = map[string]any{Handler: proxy}
	}
	if w.Socket != "" && w.Differ && have.At(proxies, Handler+"-diff") == nil && fmt.Sprint(have.At("plugins", differs, "default")) == "[walking]" {
		if t[proxies] == nil {
			t[proxies] = map[string]any{}
		}
		t[proxies][Handler+"-diff"] = map[string]any{"type": "diff", "address": w.Socket}
		// The first differ that knows the mounts does the work: others' stay with containerd's own.
		t["plugins"] = map[string]any{`"` + differs + `"`: map[string]any{"default": []any{Handler + "-diff", "walking"}}}
		if list, _ := have.At("plugins", unpacks, "unpack_config").([]any); schema > 2 && len(list) == 0 {
			// A list replaces containerd's default, which is its first entry here.
			t["plugins"][`"`+unpacks+`"`] = map[string]any{"unpack_config": raw(
				`[{platform = "linux", snapshotter = "overlayfs", differ = "walking"}, {platform = "linux", snapshotter = "` + Handler + `", differ = "` + Handler + `-diff"}]`)}
		}
	}
	return t
}

// render writes the tables, each under its full name, so that they may follow any other text.
func render(schema int, withVersion bool, add tables) (string, error) {
	var b strings.Builder
	if withVersion {
		fmt.Fprintf(&b, "version = %d\n", schema)
	}
	for _, parent := range slices.Sorted(maps.Keys(add)) {
		for _, name := range slices.Sorted(maps.Keys(add[parent])) {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			if err := renderTable(&b, parent+"."+name, add[parent][name]); err != nil {
				return "", err
			}
		}
	}
	return b.String(), nil
}

func renderTable(b *strings.Builder, name string, v any) error {
	table, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("containerd's configuration: %s is no table: %w", name, errdefs.ErrInvalidArgument)
	}
	plain := map[string]any{}
	var below []string
	var verbatim strings.Builder
	for _, key := range slices.Sorted(maps.Keys(table)) {
		switch value := table[key].(type) {
		case map[string]any:
			below = append(below, key)
		case raw:
			fmt.Fprintf(&verbatim, "%s = %s\n", key, value)
		default:
			plain[key] = value
		}
	}
	var text bytes.Buffer
	if err := toml.NewEncoder(&text).Encode(plain); err != nil {
		return fmt.Errorf("containerd's configuration: %w", err)
	}
	fmt.Fprintf(b, "[%s]\n%s%s", name, text.String(), verbatim.String())
	for _, key := range below {
		if err := renderTable(b, name+"."+key, table[key]); err != nil {
			return err
		}
	}
	return nil
}

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

// Edited is when the files that Plan may have changed were changed last; the zero time when
// none of them is there.
func (l Layout) Edited(h *host.Host) (time.Time, error) {
	var last time.Time
	for _, file := range []string{dropIn, l.Config} {
		info, err := os.Stat(h.At(file))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return last, fmt.Errorf("containerd's configuration: %w", err)
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, nil
}
