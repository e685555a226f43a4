package task

import (
	"context"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// hook adds a shell script as a hook of the kind that list selects.
func hook(list func(*specs.Hooks) *[]specs.Hook, script string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		if s.Hooks == nil {
			s.Hooks = &specs.Hooks{}
		}
		hooks := list(s.Hooks)
		*hooks = append(*hooks, specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}})
		return nil
	}
}
