package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// run is the command line with the node's file at a path of its own.
func run(t *testing.T, file string, args ...string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PVELXC_CONFIG", path)
	var out bytes.Buffer
	c := newCommand(&out)
	c.SetArgs(args)
	err := c.Execute()
	return out.String(), err
}

// The printed defaults are a file that says the same.
func TestDefaultIsAFile(t *testing.T) {
	text, err := run(t, "", "config", "default")
	if err != nil {
		t.Fatal(err)
	}
	again, err := run(t, text, "config", "dump")
	if err != nil || again != text {
		t.Errorf("dump of the defaults: %v\n%s\nwant\n%s", err, again, text)
	}
}

func TestCheckNamesTheKey(t *testing.T) {
	if _, err := run(t, "version = 1\n[pve]\npol = \"x\"\n", "config", "check"); err == nil || !strings.Contains(err.Error(), "pve.pool") {
		t.Errorf("error %v, want one that names pve.pool", err)
	}
}

func TestTakenForRunc(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log.json")
	args := []string{"--root", "/run/runc", "--log", log, "--log-format", "json", "create", "--bundle", "/b", "id"}
	message := takenForRunc(args)
	if !strings.Contains(message, "--runtime io.containerd.pvelxc.v2") {
		t.Fatalf("message %q", message)
	}
	tellRuncsCaller(args, message)
	if data, err := os.ReadFile(log); err != nil || !strings.Contains(string(data), `"level":"error","msg":"pvelxc is not`) {
		t.Errorf("log %q, %v", data, err)
	}
	for _, own := range [][]string{nil, {"gc", "--apply"}, {"config", "check", "/etc/x"}} {
		if got := takenForRunc(own); got != "" {
			t.Errorf("%q was taken for a call of runc: %s", own, got)
		}
	}
}
