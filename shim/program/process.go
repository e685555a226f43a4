package program

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

type processInput struct {
	seccomp *Seccomp
	keyring string
	pdeath  uint32
}

// process makes the process out of one with all capabilities. The order follows
// from what each step takes away:
//   - scheduling, the memory policy and hard limits need capabilities, and owners of
//     files root: before User;
//   - the LSM label is written before no_new_privs, and the working directory tried
//     as root first, then as the user (root may lack permission on NFS);
//   - limits come late, since pvelxc-init must live with them, but need root;
//   - User clears the parent-death signal: Signals follows it;
//   - a filter needs CAP_SYS_ADMIN or no_new_privs, so without the latter User leaves
//     that capability, which exec then takes away. Nothing but exec comes after the
//     filter: it need not allow anything else.
func (b *Builder) process(p *oci2lxc.Process, in processInput) {
	if in.keyring != "" {
		b.For("").Keyring(in.keyring)
	}
	if p.Personality != nil {
		b.For("linux.personality").Personality(*p.Personality)
	}
	if p.Scheduler != nil {
		b.For("process.scheduler").Scheduler(*p.Scheduler)
	}
	if p.IOPriority != nil {
		b.For("process.ioPriority").IOPriority(*p.IOPriority)
	}
	if p.MemoryPolicy != nil {
		b.For("linux.memoryPolicy").MemoryPolicy(*p.MemoryPolicy)
	}
	umask := uint32(0o022)
	if p.Umask != nil {
		umask = *p.Umask
	}
	b.For("process.user.umask").Umask(umask)
	b.For("process.user").StdioOwner(p.UID)
	if p.AppArmorProfile != "" {
		b.For("process.apparmorProfile").LSM(LSMAppArmor, p.AppArmorProfile)
	}
	if p.SELinuxLabel != "" {
		b.For("process.selinuxLabel").LSM(LSMSELinux, p.SELinuxLabel)
	}
	env := lastWins(p.Env)
	if !slices.ContainsFunc(env, func(e string) bool { return len(e) > 5 && strings.HasPrefix(e, "HOME=") }) {
		b.For("process.user.uid").Home(p.UID)
		env = slices.DeleteFunc(env, func(e string) bool { return e == "HOME=" })
	}
	b.For("process.cwd").Cwd(p.Cwd, true)
	if p.NoNewPrivileges {
		b.For("process.noNewPrivileges").NoNewPrivileges()
	}
	b.For("").Ready()
	b.For("process.rlimits")
	for _, r := range p.Rlimits {
		b.Rlimit(r, false)
	}
	keepSysAdmin := in.seccomp != nil && !p.NoNewPrivileges
	b.For("process.user").User(p.Capabilities, keepSysAdmin, p.UID, p.GID, p.AdditionalGids)
	b.For("process.cwd").Cwd(p.Cwd, false)
	b.For("").Signals(in.pdeath)
	if in.seccomp != nil {
		b.For("linux.seccomp").LoadSeccomp(*in.seccomp)
	}
	if len(p.Args) == 0 {
		b.err = fmt.Errorf("process.args is empty")
		return
	}
	b.For("process.args").Exec(p.Args, env)
}

// lastWins keeps the last of several definitions of a variable, as programs that
// search an environment find the first.
func lastWins(env []string) []string {
	seen := make(map[string]bool, len(env))
	out := make([]string, 0, len(env))
	for _, e := range slices.Backward(env) {
		name, _, _ := strings.Cut(e, "=")
		if !seen[name] {
			seen[name] = true
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out
}

var rlimitNames = []string{
	"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS",
	"RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS",
	"RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
}

func rlimitName(resource int) string {
	if resource >= 0 && resource < len(rlimitNames) {
		return rlimitNames[resource]
	}
	return strconv.Itoa(resource)
}

func limitText(v uint64) string {
	if v == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(v, 10)
}
