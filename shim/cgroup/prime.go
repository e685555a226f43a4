package cgroup

import (
	"os"
	"path/filepath"
	"sync/atomic"
)

// priming is true while a Prime is under way.
var priming atomic.Bool

// Prime makes the kernel ready for processes to be moved between cgroups soon, in
// the background. The first move after a quiet moment waits for an RCU grace
// period, 5 to 20 ms, because cgroup_threadgroup_rwsem (kernel/cgroup/cgroup.c)
// is a per-CPU lock that has to leave its fast path; moves that follow within
// about another grace period do not. Prime moves this process to where it is
// already, so that the wait passes while other work is being done.
//
// It is a hint: whatever fails, nothing is changed.
func Prime() {
	if !priming.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer priming.Store(false)
		if path := ownProcs(); path != "" {
			_ = os.WriteFile(path, []byte("0"), 0) // 0 is the writer itself (cgroups(7))
		}
	}()
}

// ownProcs is the cgroup.procs of the cgroup that this process is in; any hierarchy
// will do, since they share the lock.
func ownProcs() string {
	list, err := hierarchies(Mode())
	if err != nil || len(list) == 0 {
		return ""
	}
	own, err := readMembership("self")
	if err != nil {
		return ""
	}
	for _, m := range own {
		if h := list[0]; h.owns(m.controllers) {
			return filepath.Join(h.dir(m.path), "cgroup.procs")
		}
	}
	return ""
}
