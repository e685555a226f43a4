package survival

import (
	"os"
	"path/filepath"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// An upgrade replaces the programs of a pod that runs. Its shim goes on with those that it knows, for
// execs and for the pod's next containers.
func TestProgramsAreReplaced(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	dir := t.TempDir()
	const front = "containerd-shim-pvelxc-v2"
	helpers := []string{"pvelxc-init", "pvelxc-monitor"}
	for _, name := range append([]string{front, "pvelxc-shim", "pvelxc-seccomp"}, helpers...) {
		data, err := os.ReadFile(filepath.Join(daemon.Bin(), name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	here := harness.With(containerd.WithRuntime(filepath.Join(dir, front), nil))
	pod := e.NewID()
	pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever(), here)

	for _, name := range helpers {
		other := filepath.Join(dir, "new")
		if err := os.WriteFile(other, []byte("#!/bin/sh\nexit 99\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(other, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := pause.Sh(t, "echo well"); got != "well\n" {
		t.Errorf("exec after the upgrade: %q", got)
	}
	app := e.Start(t, harness.Pod(pod, "container"), harness.Forever(), here)
	if app.Shim(t) != pause.Shim(t) {
		t.Fatal("test is void: the container has a shim of its own")
	}
	if got := app.Sh(t, "echo well"); got != "well\n" {
		t.Errorf("exec in a container of after the upgrade: %q", got)
	}
	// A new pod has the new programs, and fails with these.
	if _, err := e.TryCreate(t, harness.Forever(), here); err == nil {
		t.Error("test is void: the new programs work")
	}
}
