package program

import (
	"os"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// ExecInput is what Exec needs: the process, and the container to run it in. The
// helper (pvelxc-init exec) is started by the shim with the process's stdio.
type ExecInput struct {
	Process *oci2lxc.Process
	// PidFD is of the container's init (pidfd_open(2)).
	PidFD *os.File
	// Cgroup is the directory of init's current cgroup on v2; nil on a host without.
	Cgroup *os.File
	// CgroupV1 are the cgroup.procs files of init's groups in the v1 hierarchies, open
	// for writing.
	CgroupV1 []*os.File
	// Namespaces are the CLONE_NEW* flags of the namespaces in which init differs
	// from the shim. A user namespace among them makes the process its root first.
	Namespaces uint32
	// Seccomp is the container's filter, nil for none.
	Seccomp *Seccomp
	// Keyring is the name of the session keyring to make, empty to keep the shim's.
	Keyring string
}

// Exec compiles the program of an additional process.
func Exec(in ExecInput) (*Program, error) {
	b := new(Builder)
	b.FDs()
	// The host's root may raise limits, that of a user namespace may not.
	b.For("process.rlimits")
	for _, r := range in.Process.Rlimits {
		b.Rlimit(r, true)
	}
	var initial, final []int
	if a := in.Process.Affinity; a != nil {
		initial, final = a.Initial, a.Final
	}
	b.For("").Enter(in.PidFD, in.Cgroup, in.CgroupV1, in.Namespaces,
		in.Namespaces&namespaceFlags["user"] != 0, initial)
	if len(final) > 0 {
		b.For("process.execCPUAffinity.final").Affinity(final)
	}
	if in.Process.Terminal {
		b.For("process.terminal").Terminal(in.Process.Rows, in.Process.Columns, in.Process.UID, false)
	}
	b.process(in.Process, processInput{seccomp: in.Seccomp, keyring: in.Keyring})
	return b.Program()
}
