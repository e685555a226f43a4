package ctrd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/internal/host"
)

// The daemons under test are the real ones, built for the integration tests.
var daemons = map[string]string{"1.7": "containerd-1.7.35", "2.4": "containerd-2.4.2"}

// machine is a root directory with a daemon and files.
func machine(t *testing.T, daemon string, files map[string]string) *host.Host {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("../../out/peers", daemons[daemon]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".done")); err != nil {
		t.Skip("needs the built containerd (integration/peers/build.sh containerd containerd-1.7)")
	}
	h := &host.Host{Root: t.TempDir(), Path: dir}
	for name, text := range files {
		// A configuration that imports does so by absolute paths.
		if err := h.Write(name, []byte(strings.ReplaceAll(text, "ROOT", h.At("/"))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, k3s := files[k3sDir+"/config.toml"]; k3s {
		if err := os.MkdirAll(filepath.Dir(h.At(k3sBinary)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(dir, "containerd"), h.At(k3sBinary)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func apply(t *testing.T, h *host.Host, edits []Edit) {
	t.Helper()
	for _, e := range edits {
		if e.After == nil {
			if err := os.Remove(h.At(e.Path)); err != nil {
				t.Fatal(err)
			}
		} else if err := h.Write(e.Path, e.After, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var want = Want{Socket: "/run/pvelxc-snapshotter/snapshotter.sock", Exports: "/var/lib/pvelxc-snapshotter/exports", Differ: true,
	Options: map[string]any{"runtime": map[string]any{"systemd_cgroup": true}}}

const cri2, cri3 = `plugins."io.containerd.grpc.v1.cri"`, `plugins.'io.containerd.cri.v1.runtime'`

// The tables come into force, all else stays as it was, a second run has nothing to do, and
// what is taken out again leaves every byte as it was.
func TestPlan(t *testing.T) {
	for name, test := range map[string]struct {
		daemon string
		files  map[string]string
		edited string // the one file that changes
		kept   []string
	}{
		"1.7, no file": {"1.7", nil, stockMain, []string{"runc"}},
		"2.4, no file": {"2.4", nil, stockMain, []string{"runc"}},
		"1.7, a file without runtimes": {"1.7", map[string]string{stockMain: "version = 2\n# mine\n[" + cri2 + ".cni]\nbin_dir = \"/usr/lib/cni\""},
			stockMain, []string{"runc"}},
		"1.7, a file with runtimes": {"1.7", map[string]string{stockMain: "version = 2\n[" + cri2 + ".containerd.runtimes.crun]\nruntime_type = \"io.containerd.runc.v2\"\n"},
			stockMain, []string{"crun"}},
		"2.4, a file of schema 2": {"2.4", map[string]string{stockMain: "version = 2\n[" + cri2 + ".containerd.runtimes.crun]\nruntime_type = \"io.containerd.runc.v2\"\n"},
			stockMain, []string{"runc", "crun"}},
		"2.4, a file that imports nothing of ours": {"2.4", map[string]string{stockMain: "version = 3\nimports = []\n"}, stockMain, []string{"runc"}},
		"2.4, a file that imports conf.d": {"2.4", map[string]string{stockMain: "version = 3\nimports = [\"ROOT/etc/containerd/conf.d/*.toml\"]\n[" + cri3 + ".cni]\nbin_dirs = [\"/x\"]\n"},
			dropIn, []string{"runc"}},
		"2.4, a file that imports by a relative path": {"2.4", map[string]string{
			stockMain: "version = 3\nimports = [\"other.toml\"]\n", "/etc/containerd/other.toml": "version = 3\n[" + cri3 + ".containerd.runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n",
		}, stockMain, []string{"runc", "kata"}},
		"1.7, another differ":       {"1.7", map[string]string{stockMain: "version = 2\n[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"mine\", \"walking\"]\n"}, stockMain, []string{"runc"}},
		"2.4, a differ's table":     {"2.4", map[string]string{stockMain: "version = 3\n[plugins.\"io.containerd.service.v1.diff-service\"]\nsync_fs = true\n"}, stockMain, []string{"runc"}},
		"1.7, another proxy plugin": {"1.7", map[string]string{stockMain: "version = 2\n[proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = \"/run/s.sock\"\n"}, stockMain, []string{"runc"}},
		"k3s, schema 2":             {"1.7", map[string]string{k3sDir + "/config.toml": "version = 2\n[" + cri2 + ".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"}, k3sDir + "/config.toml.tmpl", []string{"runc"}},
		"k3s, schema 3, a template": {"2.4", map[string]string{k3sDir + "/config.toml": "version = 3\n", k3sDir + "/config-v3.toml.tmpl": "{{ template \"base\" . }}\n# mine\n"},
			k3sDir + "/config-v3.toml.tmpl", []string{"runc"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := machine(t, test.daemon, test.files)
			l, err := Find(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			edits, err := l.Plan(t.Context(), h, want)
			if err != nil {
				t.Fatal(err)
			}
			if len(edits) != 1 || edits[0].Path != test.edited {
				t.Fatalf("edits %+v, want one of %s", edits, test.edited)
			}
			e := edits[0]
			if !strings.HasPrefix(string(e.After), string(e.Before)) {
				t.Errorf("what was there is touched:\n%s\n%s", e.Before, e.After)
			}
			apply(t, h, edits)
			if l.Kind == "k3s" { // what k3s makes of it
				live, err := h.Read(l.Live)
				if err != nil {
					t.Fatal(err)
				}
				_, ours, _ := strings.Cut(string(e.After), begin)
				if e.Before == nil && !strings.HasPrefix(ours, "{{ template \"base\" . }}\n") {
					t.Errorf("a template without its base:\n%s", ours)
				}
				if err := h.Write(l.Live, []byte(live+strings.ReplaceAll(ours, "{{ template \"base\" . }}\n", "")), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			tree, err := l.Dump(t.Context(), h, l.Live)
			if err != nil {
				t.Fatal(err)
			}
			if got := Tree(tree.RuntimeTable()); got.Text("runtime_type") != Runtime || got.Text("snapshotter") != Handler || got.At("options", "runtime", "systemd_cgroup") != true {
				t.Errorf("handler %v", got)
			}
			if got := Tree(tree.ProxyTable()); got.Text("address") != want.Socket || got.Text("exports", "root") != want.Exports {
				t.Errorf("snapshotter %v", got)
			}
			// A list that an administrator wrote stays; else the differ is there.
			order := fmt.Sprint(tree.At("plugins", differs, "default"))
			proxy := tree.Text(proxies, "pvelxc-diff", "type")
			if wantOrder, wantProxy := chosen(name); order != wantOrder || proxy != wantProxy {
				t.Errorf("differs %s, proxy %q; want %s, %q", order, proxy, wantOrder, wantProxy)
			}
			if list, _ := tree.At("plugins", unpacks, "unpack_config").([]any); test.daemon == "2.4" && l.Schema > 2 && proxy != "" && len(list) != 2 {
				t.Errorf("unpack_config %v", list)
			}
			schema := 3
			if test.daemon == "1.7" {
				schema = 2
			}
			for _, name := range test.kept {
				if tree.At("plugins", CRI(schema), "containerd", "runtimes", name) == nil {
					t.Errorf("the runtime %s is gone", name)
				}
			}
			if again, err := l.Plan(t.Context(), h, want); err != nil || len(again) != 0 {
				t.Errorf("a second run: %+v, %v", again, err)
			}
			back, err := l.Unplan(h)
			if err != nil {
				t.Fatal(err)
			}
			apply(t, h, back)
			now, err := h.Read(test.edited)
			if newline(string(e.Before)) != now && (e.Before != nil || !os.IsNotExist(err)) {
				t.Errorf("taken out: %q, was %q (%v)", now, e.Before, err)
			}
			if left := h.Glob("/etc/containerd/.pvelxc*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// chosen is what becomes of the differ in a case of TestPlan.
func chosen(name string) (order, proxy string) {
	switch name {
	case "1.7, another differ":
		return "[mine walking]", ""
	case "2.4, a differ's table": // which cannot be added to, so that it is done without
		return "[walking]", ""
	}
	return "[pvelxc-diff walking]", "diff"
}

// A table that exists is never touched, whatever is in it.
func TestPlanKeepsTables(t *testing.T) {
	h := machine(t, "2.4", map[string]string{stockMain: "version = 3\n[" + cri3 + ".containerd.runtimes.pvelxc]\nruntime_type = \"io.containerd.pvelxc.v2\"\nsnapshotter = \"overlayfs\"\n"})
	l, err := Find(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	edits, err := l.Plan(t.Context(), h, want)
	if err != nil || len(edits) != 1 || strings.Contains(string(edits[0].After), "snapshotter = 'pvelxc'") {
		t.Errorf("%+v, %v", edits, err)
	}
}

// A file that cannot be appended to, or that containerd does not take, stays as it is.
func TestPlanRefuses(t *testing.T) {
	for name, test := range map[string]struct{ daemon, text, hint string }{
		"inline table": {"2.4", "version = 3\nproxy_plugins = {stargz = {type = \"snapshot\", address = \"/s\"}}\n", "containerd does not take its configuration"},
		"broken":       {"2.4", "version = 3\n[x\n", "config.toml"},
		"schema 1":     {"1.7", "[plugins.cri]\n", "hint: migrate it: containerd config migrate"},
	} {
		h := machine(t, test.daemon, map[string]string{stockMain: test.text})
		l, err := Find(t.Context(), h)
		if err == nil {
			_, err = l.Plan(t.Context(), h, want)
		}
		if err == nil || !strings.Contains(err.Error(), test.hint) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.hint)
		}
	}
}

func TestCompare(t *testing.T) {
	before := Tree{"a": map[string]any{"b": "1"}, "imports": []any{"x"}}
	for name, test := range map[string]struct {
		after Tree
		want  string
	}{
		"same":    {Tree{"a": map[string]any{"b": "1"}, "imports": []any{"y"}, "proxy_plugins": map[string]any{"pvelxc": map[string]any{}}}, ""},
		"changed": {Tree{"a": map[string]any{"b": "2"}}, "a.b would change"},
		"lost":    {Tree{"a": map[string]any{}}, "a.b would change"},
		"more":    {Tree{"a": map[string]any{"b": "1", "c": "1"}}, "a.c would change"},
		"proxy":   {Tree{"a": map[string]any{"b": "1"}, "proxy_plugins": map[string]any{"other": map[string]any{}}}, "proxy_plugins.other would change"},
	} {
		err := compare(before, test.after)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
