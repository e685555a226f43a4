package pve

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// VMID is the number by which PVE knows a guest, unique in the cluster and shared
// by virtual machines and containers. Zero is none.
type VMID uint32

// The VMIDs that PVE accepts (pve-vmid in PVE::JSONSchema).
const (
	MinVMID VMID = 100
	MaxVMID VMID = 999999999
)

// String is the decimal number: the LXC name of the container.
func (v VMID) String() string { return strconv.FormatUint(uint64(v), 10) }

// ParseVMID reads a VMID in the one way in which PVE writes it. It fails with
// ErrInvalidArgument.
func ParseVMID(s string) (VMID, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if v := VMID(n); err != nil || v < MinVMID || v > MaxVMID || v.String() != s {
		return 0, fmt.Errorf("VMID %q is not a number in %d-%d: %w", s, MinVMID, MaxVMID, errdefs.ErrInvalidArgument)
	}
	return VMID(n), nil
}

// Range is the VMIDs that are ours to give, First to Last. It should be
// dedicated: permissions, pools, firewall rules, backup jobs and statistics are
// keyed by VMID.
type Range struct{ First, Last VMID }

// DefaultRange holds ten thousand containers, far from where PVE starts to count.
var DefaultRange = Range{900000, 909999}

// ParseRange reads "first-last". It fails with ErrInvalidArgument.
func ParseRange(s string) (Range, error) {
	first, last, _ := strings.Cut(s, "-")
	a, errA := ParseVMID(first)
	b, errB := ParseVMID(last)
	r := Range{a, b}
	if errA != nil || errB != nil || r.check() != nil {
		return Range{}, fmt.Errorf("VMID range %q is not first-last within %d-%d: %w", s, MinVMID, MaxVMID, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

// String is what ParseRange reads.
func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// Size is the number of VMIDs.
func (r Range) Size() int { return int(r.Last-r.First) + 1 }

// Contains reports whether v is in the range.
func (r Range) Contains(v VMID) bool { return v >= r.First && v <= r.Last }

// next is the VMID after v, the first after the last.
func (r Range) next(v VMID) VMID {
	if !r.Contains(v) || v == r.Last {
		return r.First
	}
	return v + 1
}

func (r Range) check() error {
	if r.First < MinVMID || r.Last > MaxVMID || r.Last < r.First {
		return fmt.Errorf("VMID range %s is empty or outside %d-%d: %w", r, MinVMID, MaxVMID, errdefs.ErrInvalidArgument)
	}
	return nil
}
