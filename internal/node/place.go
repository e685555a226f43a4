package node

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/shim/cgroup"
)

// schedCoreEnv is how containerd asks for core scheduling (sched_core = true of its
// io.containerd.runtime.v2.task plugin): no value but the empty one means no.
const schedCoreEnv = "SCHED_CORE"

// placed is what this shim has done for itself; it is done once, before the first
// container, whose processes inherit it.
var placed struct {
	sync.Mutex
	cgroup string // where the shim is, by its own doing
	core   bool   // it has a core scheduling cookie
}

// place does for the shim's own process what containerd was configured to ask for.
func place(conf config.Config) error {
	placed.Lock()
	defer placed.Unlock()
	if os.Getenv(schedCoreEnv) != "" && !placed.core {
		if err := newSchedCore(); err != nil {
			return err
		}
		placed.core = true
	}
	if group := conf.Runtime.ShimCgroup; group != "" && placed.cgroup == "" {
		if err := cgroup.Join(group, os.Getpid()); err != nil {
			return fmt.Errorf("shim_cgroup: %w", err)
		}
		placed.cgroup = group
	}
	return nil
}

// newSchedCore gives all threads of this process, and with them all processes that
// they will start, a core scheduling cookie of their own: only they share the
// siblings of a core (admin-guide/hw-vuln/core-scheduling.rst).
func newSchedCore() error {
	err := unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_CREATE, 0, unix.PR_SCHED_CORE_SCOPE_THREAD_GROUP, 0)
	if err != nil {
		return fmt.Errorf("core scheduling: %w (hint: it needs a kernel with CONFIG_SCHED_CORE on a processor with threads; else set sched_core = false in containerd's configuration)", err)
	}
	return nil
}
