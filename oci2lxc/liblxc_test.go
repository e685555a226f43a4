package oci2lxc

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// buildReadback compiles the program that has liblxc read a config.
func buildReadback(t *testing.T) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("needs cc: install gcc")
	}
	if err := exec.CommandContext(t.Context(), cc, "-E", "-include", "lxc/lxccontainer.h", "-x", "c", "/dev/null", "-o", "/dev/null").Run(); err != nil {
		t.Skip("needs lxc/lxccontainer.h: install lxc-dev")
	}
	bin := filepath.Join(t.TempDir(), "readback")
	if out, err := exec.CommandContext(t.Context(), cc, "-Wall", "-Wextra", "-Werror", "-o", bin, "testdata/liblxc/readback.c", "-llxc").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// readback gives the values that liblxc holds for keys after it read a config; false
// when it refuses it.
func readback(t *testing.T, bin string, config []byte, keys []string) (map[string]string, bool) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), bin, append([]string{file}, keys...)...).Output()
	if err != nil {
		return nil, false
	}
	values := map[string]string{}
	rest := string(out)
	for _, key := range keys {
		head, tail, _ := strings.Cut(rest, "\n")
		n, err := strconv.Atoi(head)
		if err != nil || n >= len(tail) {
			t.Fatalf("%s: %q", key, rest)
		}
		values[key], rest = tail[:n], tail[n+1:]
	}
	return values, true
}

// listKeys hold several values, which liblxc gives one a line.
var listKeys = map[string]bool{"lxc.hook.mount": true, "lxc.hook.post-stop": true, "lxc.mount.entry": true, "lxc.idmap": true}

// expected is what liblxc must give back for each key.
func expected(c Config) map[string]string {
	want := map[string]string{}
	for _, it := range c {
		switch {
		case it.Key == "lxc.log.file":
			// liblxc opens it at once; the test's has none.
		case it.Key == "lxc.signal.halt":
			// Read back as a number, of which realtime signals have several names.
		case it.Key == "lxc.rootfs.path":
			want[it.Key] = strings.TrimPrefix(it.Value, "dir:")
		case it.Key == "lxc.namespace.clone":
			want[it.Key] += strings.ReplaceAll(it.Value, " ", "\n") + "\n"
		case it.Key == "lxc.idmap":
			want[it.Key] += it.Value + "\n"
		case listKeys[it.Key]:
			want[it.Key] += it.Value + "\n"
		default:
			want[it.Key] = it.Value
		}
	}
	return want
}

// TestLiblxcReadsConfigs has the real liblxc read the config of every golden: it must
// take each key and hold each value.
func TestLiblxcReadsConfigs(t *testing.T) {
	bin := buildReadback(t)
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, file := range files {
		g := loadGolden(t, file)
		g.opts.LogFile = ""
		p, err := Convert(g.spec, g.opts)
		if err != nil {
			continue
		}
		read++
		b, err := p.Config.Render()
		if err != nil {
			t.Fatal(err)
		}
		want := expected(p.Config)
		got, ok := readback(t, bin, b, sortedKeys(want))
		if !ok {
			t.Errorf("%s: liblxc refuses\n%s", file, b)
			continue
		}
		for k := range got {
			// Whether the last value of a list ends with a newline differs by key.
			got[k], want[k] = strings.TrimSuffix(got[k], "\n"), strings.TrimSuffix(want[k], "\n")
		}
		if d := cmp.Diff(sortLines(want), sortLines(got)); d != "" {
			t.Errorf("%s (-written +read):\n%s", file, d)
		}
	}
	if read < 50 {
		t.Errorf("only %d configs", read)
	}
}

// sortLines makes the order of namespaces, which liblxc gives in its own, irrelevant.
func sortLines(m map[string]string) map[string]string {
	lines := strings.Split(m["lxc.namespace.clone"], "\n")
	set := map[string]int{}
	for _, l := range lines {
		set[l]++
	}
	m["lxc.namespace.clone"] = strings.Join(sortedKeys(set), " ")
	return m
}

// TestLiblxcReadsQuotes holds quote to the real parser.
func TestLiblxcReadsQuotes(t *testing.T) {
	bin := buildReadback(t)
	for _, v := range []string{
		"/a b", "/a ", "/a\t", "/'a'", `/"a"`, `/a"`, `/a'`, `/a" `, "/a=b", "/#a", `/a\`, "/a\\n", "/ä", "/a;b", "/%s", "/$(x)", "/a\vb", "/a\x01b",
	} {
		c := Config{{"lxc.rootfs.mount", v}, {"lxc.rootfs.managed", "0"}, {"lxc.cgroup.dir.container", "x" + v}}
		b, err := c.Render()
		if err != nil {
			t.Fatal(err)
		}
		got, ok := readback(t, bin, b, []string{"lxc.rootfs.mount", "lxc.cgroup.dir.container"})
		if !ok {
			t.Errorf("%q: liblxc refuses %q", v, b)
			continue
		}
		if got["lxc.rootfs.mount"] != v || got["lxc.cgroup.dir.container"] != "x"+v {
			t.Errorf("%q was read as %q", v, got)
		}
	}
	if _, ok := readback(t, bin, []byte("lxc.no.such.key = 1\n"), nil); ok {
		t.Error("liblxc takes a key that does not exist, so this test proves nothing")
	}
}
