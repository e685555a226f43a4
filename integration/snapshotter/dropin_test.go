// Package snapshotter checks what ships with pvelxc-snapshotter against the programs that read it.
package snapshotter

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// at walks into tables.
func at(tree any, path ...string) any {
	for _, p := range path {
		table, _ := tree.(map[string]any)
		tree = table[p]
	}
	return tree
}

// The drop-ins are what containerd reads out of them, in the version that they are for, and change nothing else.
func TestDropIns(t *testing.T) {
	const socket = "/run/pvelxc-snapshotter/snapshotter.sock"
	for peer, c := range map[string]struct {
		file    string
		version int
	}{
		"containerd-1.7.35": {"snapshotter-1.7.toml", 2},
		"containerd-2.4.2":  {"snapshotter-2.toml", 3},
	} {
		t.Run(peer, func(t *testing.T) {
			binary := filepath.Join(daemon.Peers(), peer, "containerd")
			if _, err := os.Stat(binary); err != nil {
				t.Fatalf("%v (hint: integration/peers/build.sh)", err)
			}
			dropin, err := filepath.Abs("../../dist/containerd/" + c.file)
			if err != nil {
				t.Fatal(err)
			}
			dump := func(imports string) map[string]any {
				file := filepath.Join(t.TempDir(), "config.toml")
				if err := os.WriteFile(file, fmt.Appendf(nil, "version = %d\nimports = [%s]\n", c.version, imports), 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(binary, "-c", file, "config", "dump")
				var warnings strings.Builder
				cmd.Stderr = &warnings
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("config dump: %v\n%s", err, &warnings)
				}
				for line := range strings.Lines(warnings.String()) {
					if strings.Contains(line, "pvelxc") || strings.Contains(line, "unknown") {
						t.Errorf("containerd says: %s", line)
					}
				}
				var tree map[string]any
				if err := toml.Unmarshal(out, &tree); err != nil {
					t.Fatal(err)
				}
				delete(tree, "imports")
				return tree
			}
			stock, got := dump(""), dump(fmt.Sprintf("%q", dropin))
			differ := map[string]any{"type": "diff", "address": socket, "order": []any{"pvelxc-diff", "walking"}}
			if c.version == 2 { // containerd 1.7 asks a proxied differ without a namespace
				differ = map[string]any{"order": []any{"walking"}}
			}
			for path, want := range map[string]any{
				"proxy_plugins pvelxc type":                             "snapshot",
				"proxy_plugins pvelxc address":                          socket,
				"proxy_plugins pvelxc exports root":                     "/var/lib/pvelxc-snapshotter/exports",
				"proxy_plugins pvelxc capabilities":                     []any{"remap-ids"},
				"proxy_plugins pvelxc-diff type":                        differ["type"],
				"proxy_plugins pvelxc-diff address":                     differ["address"],
				"plugins io.containerd.service.v1.diff-service default": differ["order"],
			} {
				if v := at(got, strings.Fields(path)...); !reflect.DeepEqual(v, want) {
					t.Errorf("%s = %v, want %v", path, v, want)
				}
			}
			transfer := "io.containerd.transfer.v1.local"
			if c.version == 3 {
				var pairs []string
				list, _ := at(got, "plugins", transfer, "unpack_config").([]any)
				for _, u := range list {
					pairs = append(pairs, fmt.Sprint(at(u, "platform"), " ", at(u, "snapshotter"), " ", at(u, "differ")))
				}
				if want := []string{"linux overlayfs walking", "linux pvelxc pvelxc-diff"}; !reflect.DeepEqual(pairs, want) {
					t.Errorf("unpack_config: %q, want %q", pairs, want)
				}
			}
			// All else is as it was.
			for _, tree := range []map[string]any{stock, got} {
				delete(tree, "proxy_plugins")
				plugins, _ := tree["plugins"].(map[string]any)
				delete(plugins, "io.containerd.service.v1.diff-service")
				if table, ok := plugins[transfer].(map[string]any); ok {
					delete(table, "unpack_config")
				}
			}
			if !reflect.DeepEqual(stock, got) {
				t.Errorf("the drop-in changes more than its own:\n%v\n%v", stock, got)
			}
		})
	}
}
