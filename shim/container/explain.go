package container

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Explanation is what would become of a bundle.
type Explanation struct {
	Spec *specs.Spec
	// Plan is nil for a bundle that is refused.
	Plan *oci2lxc.Plan
	// Warnings are the fields that have no effect, in a bundle that is refused too.
	Warnings []oci2lxc.Warning
	// Refused is the conversion's error: oci2lxc.Refusals or an *oci2lxc.FieldError in it.
	Refused error
}

// Explain converts a bundle as Create does, and makes nothing. Its error is about the
// bundle that could not be read.
func Explain(ctx context.Context, cfg Config) (Explanation, error) {
	c, err := readBundle(ctx, cfg)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Spec: c.spec}
	e.Plan, e.Warnings, e.Refused = oci2lxc.Explain(c.spec, c.options())
	return e, nil
}

// parked says whether the program of a container's first process is still ours: it is
// executed from a detached mount of pvelxc-init, whose path has no more than a root.
func parked(pid int) bool { return executable(pid) == "/" }
