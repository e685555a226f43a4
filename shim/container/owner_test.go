package container

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestCheckUnprivileged: a network that the container's root could not enter is refused; a user namespace that is asked for, or a
// network of the container's own, is not.
func TestCheckUnprivileged(t *testing.T) {
	network := specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"}
	of := func(ns ...specs.LinuxNamespace) *specs.Spec { return &specs.Spec{Linux: &specs.Linux{Namespaces: ns}} }
	err := CheckUnprivileged(of(network))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "hostUsers: false") {
		t.Errorf("the host's: %v", err)
	}
	for name, spec := range map[string]*specs.Spec{
		"nothing":             {},
		"a new network":       of(specs.LinuxNamespace{Type: specs.NetworkNamespace}),
		"the host's network":  of(),
		"a user namespace":    of(network, specs.LinuxNamespace{Type: specs.UserNamespace}),
		"another's namespace": of(specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/proc/self/ns/ipc"}),
	} {
		if err := CheckUnprivileged(spec); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	network.Path = "/no/such/namespace"
	if err := CheckUnprivileged(of(network)); err == nil {
		t.Error("a namespace that is not there is good")
	}
}
