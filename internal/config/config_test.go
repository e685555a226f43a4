package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const full = `version = 1
registration = "all"
[runtime]
systemd_cgroup = true
no_new_keyring = true
unprivileged = true
shim_cgroup = "/shims.slice"
log_level = "DEBUG"
[pve]
root = "/mnt/pve"
node = "pve1"
vmid_range = "5000-5999"
tags = ["a", "b"]
pool = "kube"
on_no_quorum = "fail"
grace = "5m"
[pve.api]
url = "https://pve1:8006"
token_file = "/etc/pvelxc/token"
ca_file = "/etc/pve/pve-root-ca.pem"
fingerprint = "AB:CD"
`

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvPath, path)
	return Load()
}

func TestEveryKeyIsRead(t *testing.T) {
	got, err := load(t, full)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Version: 1, Registration: RegisterAll,
		Runtime: Runtime{SystemdCgroup: true, NoNewKeyring: true, Unprivileged: true, ShimCgroup: "/shims.slice", LogLevel: "DEBUG"},
		PVE: PVE{Root: "/mnt/pve", Node: "pve1", VMIDRange: "5000-5999", Tags: []string{"a", "b"}, Pool: "kube", OnNoQuorum: "fail", Grace: "5m",
			API: API{URL: "https://pve1:8006", TokenFile: "/etc/pvelxc/token", CAFile: "/etc/pve/pve-root-ca.pem", Fingerprint: "AB:CD"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, key := range keys("", reflect.TypeFor[Config]()) {
		if !strings.Contains(full, last(key)+" =") {
			t.Errorf("this test's file lacks the key %s", key)
		}
	}
}

func TestDefaultsPassTheirOwnCheck(t *testing.T) {
	if err := Default().check(); err != nil {
		t.Error(err)
	}
	got, err := load(t, "version = 1\n")
	if err != nil || !cmp.Equal(got, Default()) {
		t.Errorf("a file with a version alone gives %+v, %v", got, err)
	}
}

func TestBadFilesAreRefused(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"misspelt":     {"version = 1\n[runtime]\nunprivilegd = true\n", `config.toml:3:1: unknown key "runtime.unprivilegd"`},
		"meant":        {"version = 1\n[runtime]\nunprivilegd = true\n", "did you mean runtime.unprivileged?"},
		"wrong table":  {"version = 1\nvmid_range = \"1-2\"\n", "did you mean pve.vmid_range?"},
		"nothing like": {"version = 1\nxyzzyplughfrotz = 1\n", "the known keys are version, registration"},
		"no version":   {"registration = \"all\"\n", "version is missing"},
		"new version":  {"version = 2\n", "this program knows version 1"},
		"bad value":    {"version = 1\nregistration = \"some\"\n", "must be one of containers, all, none"},
		"pool alone":   {"version = 1\n[pve]\npool = \"k8s\"\n", "hint: set token_file in [pve.api]"},
		"no grace":     {"version = 1\n[pve]\ngrace = \"0s\"\n", "must be a duration above zero"},
		"bad type":     {"version = 1\n[runtime]\nunprivileged = \"yes\"\n", "config.toml:3:"},
		"bad syntax":   {"version = \n", "config.toml:1:"},
	} {
		if _, err := load(t, test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.want)
		}
	}
}

func TestMissingFile(t *testing.T) {
	t.Setenv(EnvPath, filepath.Join(t.TempDir(), "none"))
	if _, err := Load(); err == nil {
		t.Error("a file that was named and is not there: no error")
	}
}

func TestOverrideKeepsTheRest(t *testing.T) {
	base, err := load(t, full)
	if err != nil {
		t.Fatal(err)
	}
	got, err := base.Override("ConfigBody", []byte("registration = \"none\"\n[runtime]\nunprivileged = false\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := base
	want.Registration, want.Runtime.Unprivileged = RegisterNone, false
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEdits(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"tags", "tags", 0}} {
		if got := edits(test.a, test.b); got != test.want {
			t.Errorf("edits(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func FuzzOverride(f *testing.F) {
	f.Add(full)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Default().Override("fuzz", []byte(text))
		if err == nil && c.check() != nil {
			t.Errorf("a configuration that is not valid was read from %q", text)
		}
	})
}
