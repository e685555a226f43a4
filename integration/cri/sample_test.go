package cri

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// TestDropIn: the file that adds our handler to a containerd leaves the default one what it was.
func TestDropIn(t *testing.T) {
	sample, err := filepath.Abs("../../dist/containerd/pvelxc-runtime.toml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := daemon.New(t.TempDir(), daemon.Containerd2, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(d.Binary("containerd"), "--config", sample, "config", "dump").CombinedOutput()
	if err != nil {
		t.Fatalf("containerd config dump: %v: %s", err, out)
	}
	text := string(out)
	for _, want := range []string{
		"default_runtime_name = 'runc'",
		"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.pvelxc]\n          runtime_type = 'io.containerd.pvelxc.v2'",
		"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n          runtime_type = 'io.containerd.runc.v2'",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the configuration:\n%s", want, text)
		}
	}
}
