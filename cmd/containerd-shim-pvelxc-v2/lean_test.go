package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// containerd waits for this program twice in the life of each container. What it links is listed here in full, so that nothing
// comes in unseen: most packages cost by their initialisation alone.
func TestFrontIsLean(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatalf("list dependencies: %v", err)
	}
	want := []string{
		"github.com/containerd/errdefs",
		"github.com/pvelxc/pvelxc/cmd/containerd-shim-pvelxc-v2",
		"github.com/pvelxc/pvelxc/shim/bootstrap",
		"github.com/pvelxc/pvelxc/shim/layout",
		"golang.org/x/sys/unix",
	}
	if got := strings.Fields(string(out)); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("the front links %q, not just %q", got, want)
	}
	out, err = exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("list dependencies: %v", err)
	}
	for _, heavy := range []string{"net", "os/exec", "runtime/cgo", "log", "text/template"} {
		if slices.Contains(strings.Fields(string(out)), heavy) {
			t.Errorf("the front links %s", heavy)
		}
	}
}
