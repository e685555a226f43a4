package program

import (
	"os"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// Terminal opens a pseudoterminal of the container for the process: its master
// comes as MsgFD FDConsole. console binds it over /dev/console as well.
func (b *Builder) Terminal(rows, columns uint16, uid uint32, console bool) {
	b.begin(opTerminal, "open a terminal").u32(uint32(rows)).u32(uint32(columns)).u32(uid).flag(console).end()
}

// LookPath fails where Exec would, as far as that can be known beforehand.
func (b *Builder) LookPath(arg0, path, cwd string) {
	b.begin(opLookpath, "find %q", arg0).str(arg0).str(path).str(cwd).end()
}

// Enter makes the rest of the program run in a running container: as a child of
// the caller's parent, in the cgroup and in the namespaces (CLONE_NEW*) of pidfd.
func (b *Builder) Enter(pidfd, cgroup *os.File, cgroupV1 []*os.File, namespaces uint32, userNamespace bool, cpus []int) {
	b.begin(opEnter, "enter the container").fd(pidfd).optfd(cgroup).u32(uint32(len(cgroupV1)))
	for _, f := range cgroupV1 {
		b.fd(f)
	}
	b.u32(namespaces).flag(userNamespace).i32s(cpus).end()
}

// Keyring joins a new session keyring (session-keyring(7)).
func (b *Builder) Keyring(name string) {
	b.begin(opKeyring, "join session keyring %s", name).str(name).end()
}

// Personality sets the execution domain (personality(2)).
func (b *Builder) Personality(persona uint32) {
	b.begin(opPersonality, "set personality %#x", persona).u64(uint64(persona)).end()
}

// Rlimit sets a resource limit. With raise it only lifts the hard limit to at
// least r.Hard, for what a later Rlimit then may set with fewer capabilities.
func (b *Builder) Rlimit(r oci2lxc.Rlimit, raise bool) {
	b.begin(opRlimit, "set limit %s to %s:%s", rlimitName(r.Resource), limitText(r.Soft), limitText(r.Hard)).
		u32(uint32(r.Resource)).u64(r.Soft).u64(r.Hard).flag(raise).end()
}

// Scheduler sets the scheduling policy (sched_setattr(2)).
func (b *Builder) Scheduler(s oci2lxc.Scheduler) {
	b.begin(opSched, "set scheduling policy %d", s.Policy).
		u32(s.Policy).u64(s.Flags).i32(s.Nice).u32(s.Priority).u64(s.Runtime).u64(s.Deadline).u64(s.Period).end()
}

// IOPriority sets the I/O priority (ioprio_set(2)).
func (b *Builder) IOPriority(priority int) {
	b.begin(opIoprio, "set I/O priority %#x", priority).u32(uint32(priority)).end()
}

// MemoryPolicy sets the NUMA policy (set_mempolicy(2)).
func (b *Builder) MemoryPolicy(p oci2lxc.MemoryPolicy) {
	var words []uint64
	for _, n := range p.Nodes {
		if n < 0 {
			continue
		}
		for len(words) <= n/64 {
			words = append(words, 0)
		}
		words[n/64] |= 1 << (n % 64)
	}
	b.begin(opMempolicy, "set memory policy %#x", p.Mode).u32(uint32(p.Mode)).u32(uint32(len(words)))
	for _, w := range words {
		b.u64(w)
	}
	b.end()
}

// Affinity sets the CPUs that the process may run on (sched_setaffinity(2)).
func (b *Builder) Affinity(cpus []int) {
	b.begin(opAffinity, "set CPU affinity").i32s(cpus).end()
}

// Umask sets the file mode creation mask.
func (b *Builder) Umask(mask uint32) {
	b.begin(opUmask, "set umask %#o", mask).u32(mask).end()
}

// LSM sets the security label of the next exec; kind is LSMAppArmor or LSMSELinux.
func (b *Builder) LSM(kind uint32, label string) {
	name := "AppArmor profile"
	if kind == LSMSELinux {
		name = "SELinux label"
	}
	b.begin(opLSM, "set %s %q", name, label).u32(kind).str(label).end()
}

// NoNewPrivileges sets no_new_privs (PR_SET_NO_NEW_PRIVS).
func (b *Builder) NoNewPrivileges() {
	b.begin(opNNP, "set no_new_privs").end()
}

// StdioOwner gives stdin, stdout and stderr to uid where they are pipes, sockets
// or terminals.
func (b *Builder) StdioOwner(uid uint32) {
	b.begin(opStdioOwner, "give stdio to uid %d", uid).u32(uid).end()
}

// Home takes HOME from the container's /etc/passwd, for an environment without it.
func (b *Builder) Home(uid uint32) {
	b.begin(opHome, "find the home directory of uid %d", uid).u32(uid).end()
}

// Ready sends MsgFD FDExec; errors of later operations come through that pipe.
func (b *Builder) Ready() {
	b.begin(opReady, "open the exec pipe").end()
}

// Signals restores default dispositions and an empty mask; pdeath is the signal
// that the process gets when its parent dies, 0 for none.
func (b *Builder) Signals(pdeath uint32) {
	b.begin(opSignals, "reset signals").u32(pdeath).end()
}

// LoadSeccomp loads a filter. With Seccomp.Flags NEW_LISTENER the listener comes as
// MsgFD FDSeccomp, sent with sendmsg(2): a filter that notifies that call waits for
// ever for a listener that cannot come.
func (b *Builder) LoadSeccomp(s Seccomp) {
	b.begin(opSeccomp, "load the seccomp filter").u32(s.Flags).bytes(s.Filter).end()
}

// User drops the bounding set, changes to the ids and sets the other capability
// sets. With keepSysAdmin CAP_SYS_ADMIN stays until Exec, for LoadSeccomp.
func (b *Builder) User(c oci2lxc.Capabilities, keepSysAdmin bool, uid, gid uint32, groups []uint32) {
	b.begin(opUser, "change to user %d:%d", uid, gid).
		u64(c.Bounding).u64(c.Effective).u64(c.Permitted).u64(c.Inheritable).u64(c.Ambient).
		flag(keepSysAdmin).u32(uid).u32(gid).u32s(groups).end()
}

// Cwd changes the working directory; early tolerates a lack of permission, for a
// second attempt as another user.
func (b *Builder) Cwd(path string, early bool) {
	b.begin(opCwd, "change to directory %s", path).str(path).flag(early).end()
}

// Exec becomes the process.
func (b *Builder) Exec(args, env []string) {
	b.begin(opExec, "exec %q", args[0]).strs(args).strs(env).end()
}
