package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Every pod pays for what is linked into the shim. These cost most, and each has
// been kept out on purpose: docs/libraries.md says how.
func TestShimIsLean(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("list dependencies: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "github.com/containerd/ttrpc") {
		t.Fatal("the list has not even ttrpc")
	}
	for _, heavy := range []string{
		"net/http", "crypto/tls", "google.golang.org/grpc", "github.com/spf13/cobra",
		"github.com/containerd/containerd/v2/pkg/shim", "github.com/lxc/go-lxc",
	} {
		if slices.Contains(deps, heavy) {
			t.Errorf("the shim links %s", heavy)
		}
	}
}
