package program

import (
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// nobody is who holds a PID namespace; where ids are mapped, it is the map's root.
const nobody = 65535

// SandboxInput is what Sandbox needs: the namespaces of a pod, planned as those of a container.
type SandboxInput struct {
	// Plan tells the namespaces, the host name and the parameters. Nothing of it that is
	// about a process or files is looked at.
	Plan *oci2lxc.Plan
	// Network is the pod's network namespace, nil for the host's. User is its user
	// namespace, nil for the host's.
	Network, User *os.File
}

// sandboxNamespaces are those that a sandbox makes.
var sandboxNamespaces = []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace}

// Sandbox compiles the program that makes the namespaces of a pod: up to SyncCreated, at
// which the shim opens them. Where one of them is a PID namespace, its PID 1 goes on, and
// holds it until the shim closes the connection; else closing it then ends the process.
func Sandbox(in SandboxInput) (*Program, error) {
	b := new(Builder)
	b.FDs()
	network := func(s oci2lxc.Sysctl) bool { return strings.HasPrefix(s.Path, "net/") }
	if in.Network != nil {
		// Before the user namespace, which need not own it.
		b.For("linux.namespaces").Setns(in.Network, unix.CLONE_NEWNET)
		b.sysctls(in.Plan, network)
	}
	if in.User != nil {
		b.For("linux.namespaces").Setns(in.User, unix.CLONE_NEWUSER)
	}
	var kinds uint32
	for _, kind := range sandboxNamespaces {
		if in.Plan.Namespace(kind).Mode == oci2lxc.NamespaceNew {
			kinds |= namespaceFlags[kind]
		}
	}
	b.For("linux.namespaces").Unshare(kinds)
	if name := in.Plan.Setup.Hostname; name != "" {
		b.For("hostname").Hostname(name)
	}
	b.sysctls(in.Plan, func(s oci2lxc.Sysctl) bool { return !network(s) })
	b.For("").Sync(SyncCreated)
	if kinds&unix.CLONE_NEWPID != 0 {
		b.EmptyRoot()
		b.NoNewPrivileges()
		id := uint32(nobody)
		if in.User != nil {
			id = 0
		}
		b.User(oci2lxc.Capabilities{}, false, id, id, nil)
		b.Hold()
	}
	return b.Program()
}

func (b *Builder) sysctls(plan *oci2lxc.Plan, which func(oci2lxc.Sysctl) bool) {
	b.For("linux.sysctl")
	for _, s := range plan.Setup.Sysctls {
		if which(s) {
			b.Sysctl(s.Path, s.Value)
		}
	}
}

// Unshare makes new namespaces, of CLONE_NEW* kinds. With a PID namespace the process
// that goes on is its PID 1, a child of the shim.
func (b *Builder) Unshare(kinds uint32) {
	b.begin(opUnshare, "make namespaces").u32(kinds).end()
}

// EmptyRoot takes all files away from the process.
func (b *Builder) EmptyRoot() {
	b.begin(opEmptyRoot, "leave the host's files").end()
}

// Hold lets the process stay until the shim closes the connection.
func (b *Builder) Hold() {
	b.begin(opHold, "hold the namespaces").end()
}
