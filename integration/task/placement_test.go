package task

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// A runtime handler may name a control group for its shims.
func TestShimCgroup(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		name := "pvelxc-shims-" + e.NewID()
		made := makeGroup(t, name)
		options := harness.With(containerd.WithRuntime(e.Runtime.Type, &runcoptions.Options{ShimCgroup: "/" + name}))
		c := e.Start(t, options, harness.Forever())
		shim := c.Shim(t)
		for _, dir := range made {
			if procs := read(t, filepath.Join(dir, "cgroup.procs")); !strings.Contains("\n"+procs, fmt.Sprintf("\n%d\n", shim)) {
				t.Errorf("shim %d is not in %s: %q", shim, dir, procs)
			}
		}
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		if _, err := e.TryCreate(t, harness.With(containerd.WithRuntime(e.Runtime.Type, &runcoptions.Options{ShimCgroup: "/" + name + "-none"}))); err == nil {
			t.Error("a control group that does not exist is taken")
		}
	})
}

// makeGroup makes a control group wherever shims may be put: in v2, or the memory and pids controllers of v1.
func makeGroup(t *testing.T, name string) []string {
	t.Helper()
	parents := []string{"/sys/fs/cgroup"}
	if !harness.Unified() {
		parents = []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"}
	}
	var made []string
	for _, parent := range parents {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			harness.Eventually(t, "an empty "+dir, func() error { return os.Remove(dir) })
		})
		made = append(made, dir)
	}
	return made
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
