package container

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/netdev"
	"github.com/pvelxc/pvelxc/shim/rdt"
)

// setOOMScore writes oom_score_adj (proc(5)), which a process inherits: the shim's
// own is low, and no container may have it. An equal value is not written, since
// that would need no privilege either.
func setOOMScore(pid, score int) error {
	path := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	have, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("process.oomScoreAdj: %w", err)
	}
	want := strconv.Itoa(score)
	if strings.TrimSpace(string(have)) == want {
		return nil
	}
	if err := os.WriteFile(path, []byte(want), 0); err != nil {
		return fmt.Errorf("process.oomScoreAdj: set %d where %s holds: %w (hint: lowering it needs CAP_SYS_RESOURCE; containerd's restrict_oom_score_adj avoids it)",
			score, strings.TrimSpace(string(have)), err)
	}
	return nil
}

// raiseLimits lifts the hard limits of the parked PID 1 to what its process wants:
// the root of a user namespace cannot do that for itself. The soft ones follow
// later, in the container.
func raiseLimits(pid int, plan *oci2lxc.Plan) error {
	if plan.IDMap == nil {
		return nil
	}
	for _, r := range plan.Process.Rlimits {
		var have unix.Rlimit
		if err := unix.Prlimit(pid, r.Resource, nil, &have); err != nil {
			return fmt.Errorf("process.rlimits: %w", err)
		}
		if r.Hard <= have.Max {
			continue
		}
		have.Max = r.Hard
		if err := unix.Prlimit(pid, r.Resource, &have, nil); err != nil {
			return fmt.Errorf("process.rlimits: raise hard limit %d to %d: %w", r.Resource, r.Hard, err)
		}
	}
	return nil
}

// classify puts the parked PID 1 into its class of resctrl, where all its children
// will be too.
func (c *Container) classify(pid int) error {
	if c.plan.IntelRdt == nil {
		return nil
	}
	root, err := rdt.Root()
	if err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	group, err := rdt.Apply(root, c.id, c.plan.IntelRdt, pid)
	if err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	c.state.Rdt = &group
	return nil
}

// moveDevices gives the container its network devices, while none of its programs
// runs yet.
func (c *Container) moveDevices(ctx context.Context, pid int) error {
	if len(c.plan.NetDevices) == 0 {
		return nil
	}
	if err := netdev.Move(ctx, fmt.Sprintf("/proc/%d/ns/net", pid), c.plan.NetDevices); err != nil {
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	return nil
}
