package ctrd

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

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
