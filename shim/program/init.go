package program

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Seccomp is a compiled filter.
type Seccomp struct {
	// Flags are SECCOMP_FILTER_FLAG_* (seccomp(2)).
	Flags uint32
	// Filter is an array of struct sock_filter.
	Filter []byte
}

// JoinNamespace is a namespace that PID 1 enters by itself.
type JoinNamespace struct {
	Type specs.LinuxNamespaceType
	File *os.File
}

// InitInput is what Init needs beside the plan.
type InitInput struct {
	Plan *oci2lxc.Plan
	// NullTree is a detached tree of the host's /dev/null, to mask files with. Needed
	// when Plan.Setup.MaskedPaths is not empty.
	NullTree *os.File
	// Join are the namespaces with mode NamespaceJoin that liblxc does not join:
	// cgroup and time.
	Join []JoinNamespace
	// Seccomp is nil for an unconfined container.
	Seccomp *Seccomp
	// State is the JSON for the startContainer hooks (runtime.md#state).
	State []byte
	// Keyring is the name of the session keyring to make, empty to keep the shim's.
	Keyring string
}

// Init compiles the program of PID 1: the setup, SyncCreated, the startContainer
// hooks, the process.
func Init(in InitInput) (*Program, error) {
	b := new(Builder)
	b.FDs()
	b.namespaces(in)
	b.setup(in)
	b.For("").Sync(SyncCreated)
	for i, h := range in.Plan.Hooks.StartContainer {
		b.For(fmt.Sprintf("hooks.startContainer[%d]", i)).RunHook(h, in.State)
	}
	b.process(&in.Plan.Process, processInput{
		seccomp: in.Seccomp,
		keyring: in.Keyring,
		pdeath:  uint32(unix.SIGKILL), // the container dies with its monitor
	})
	return b.Program()
}

// namespaceFlags are the CLONE_NEW* flags by type.
var namespaceFlags = map[specs.LinuxNamespaceType]uint32{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
}

// NamespaceFlag is the CLONE_NEW* flag of a namespace type, 0 for an unknown one.
func NamespaceFlag(t specs.LinuxNamespaceType) uint32 { return namespaceFlags[t] }

func (b *Builder) namespaces(in InitInput) {
	b.For("linux.namespaces")
	for _, j := range in.Join {
		b.Setns(j.File, namespaceFlags[j.Type])
	}
	if in.Plan.Namespace(specs.CgroupNamespace).Mode == oci2lxc.NamespaceNew {
		b.UnshareCgroup()
	}
	if in.Plan.Namespace(specs.TimeNamespace).Mode == oci2lxc.NamespaceNew {
		b.For("linux.timeOffsets").TimeNamespace(in.Plan.Setup.TimeOffsets)
	}
}

// setup changes the container's mounts from the outermost wish to the innermost:
// what needs a writable /proc/sys or root comes before they are read-only.
func (b *Builder) setup(in InitInput) {
	s, p := in.Plan.Setup, &in.Plan.Process
	if s.Hostname != "" {
		b.For("hostname").Hostname(s.Hostname)
	}
	if s.Domainname != "" {
		b.For("domainname").Domainname(s.Domainname)
	}
	b.For("linux.sysctl")
	for _, c := range s.Sysctls {
		b.Sysctl(c.Path, c.Value)
	}
	b.For("process.cwd").Mkdir(p.Cwd, 0o755)
	if p.Terminal {
		b.For("process.terminal").Terminal(p.Rows, p.Columns, p.UID, true)
	}
	b.For("linux.readonlyPaths")
	for _, path := range s.ReadonlyPaths {
		b.Readonly(path)
	}
	b.For("linux.maskedPaths")
	for _, path := range s.MaskedPaths {
		b.Mask(in.NullTree, path)
	}
	b.For("").SetPropagation(unix.MS_PRIVATE, propagations(in.Plan))
	if !hasProc(in.Plan) {
		b.Unmount("/proc")
	}
	b.rootAttr(in.Plan.Rootfs)
	if len(p.Args) > 0 {
		b.For("process.args").LookPath(p.Args[0], pathOf(p.Env), p.Cwd)
	}
}

func (b *Builder) rootAttr(r oci2lxc.Rootfs) {
	var set uint64
	if r.Readonly {
		set = unix.MOUNT_ATTR_RDONLY
	}
	flag := r.Propagation &^ unix.MS_REC
	if flag == 0 {
		flag = unix.MS_PRIVATE
	}
	b.For("linux.rootfsPropagation")
	if r.Readonly {
		b.For("root.readonly")
	}
	b.RootAttr(set, flag)
}

// propagations lists what must not become private: the root, which RootAttr
// changes, and the mounts that ask for something else, with the private ones below
// them.
func propagations(p *oci2lxc.Plan) []Propagation {
	list := []Propagation{{Path: "/"}}
	for _, m := range p.Mounts {
		if m.Kind == oci2lxc.MountRemount && m.Propagation == unix.MS_PRIVATE {
			continue
		}
		if m.Propagation == unix.MS_PRIVATE && !slices.ContainsFunc(list[1:], func(e Propagation) bool {
			return e.Recursive && e.Flag != unix.MS_PRIVATE && strings.HasPrefix(m.Destination, e.Path+"/")
		}) {
			continue
		}
		list = append(list, Propagation{Path: m.Destination, Flag: m.Propagation, Recursive: m.PropagationRecursive})
	}
	return list
}

func pathOf(env []string) string {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			return v
		}
	}
	return ""
}
