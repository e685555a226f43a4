package admin

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// Containers lie ten in a pod, so that there are shims as on a node.
const perPod = 10

// TestListCost measures what list costs with many containers: PVELXC_ADMIN_CONTAINERS, a handful by default, which only
// shows that it works. The processor's time is that of the whole command; nothing is asserted about time.
func TestListCost(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("PVELXC_ADMIN_CONTAINERS"))
	if err != nil {
		n = 3
	}
	a := on(t)
	empty := a.cost("list")
	for made := 0; made < n; {
		pod := a.NewID()
		a.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever())
		made++
		for i := 1; i < perPod && made < n; i++ {
			a.Start(t, harness.Pod(pod, "container"), harness.Forever())
			made++
		}
	}
	if rows := parse[[]row](t, a.run("list", "-o", "json")); len(rows) != n {
		t.Errorf("%d rows, want %d", len(rows), n)
	}
	t.Logf("list: no containers %v; %d containers %v", empty, n, a.cost("list"))
	t.Logf("doctor: %v", a.cost("doctor"))
}

// spent is processor time and wall time of a command, the medians of several runs.
type spent struct{ cpu, wall time.Duration }

func (s spent) String() string {
	return fmt.Sprintf("%v of processor time in %v", s.cpu.Round(time.Millisecond), s.wall.Round(time.Millisecond))
}

func (a *admin) cost(args ...string) spent {
	a.t.Helper()
	const rounds = 9
	var cpu, wall []time.Duration
	for range rounds {
		cmd := exec.Command(filepath.Join(daemon.Bin(), "pvelxc"), args...)
		cmd.Env = append(os.Environ(), "PVELXC_CONFIG="+filepath.Join(harness.Work, "pvelxc.toml"), "CONTAINERD_ADDRESS="+a.Daemon.Address)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		start := time.Now()
		// doctor has a status for what it finds.
		if err := cmd.Run(); err != nil && strings.HasPrefix(errs.String(), "pvelxc:") {
			a.t.Fatalf("%v: %v: %s", args, err, errs.String())
		}
		cpu, wall = append(cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()), append(wall, time.Since(start))
	}
	slices.Sort(cpu)
	slices.Sort(wall)
	return spent{cpu[rounds/2], wall[rounds/2]}
}
