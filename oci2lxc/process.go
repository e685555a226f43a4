package oci2lxc

import (
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// process converts a process (config.md#process): the container's first, or an exec's.
func (c *converter) process(p *specs.Process) Process {
	out := Process{Terminal: p.Terminal, Args: p.Args, NoNewPrivileges: p.NoNewPrivileges}
	if len(p.Args) == 0 {
		c.invalid("process.args", "", "empty: there is nothing to run")
	}
	for i, a := range p.Args {
		c.text(fmt.Sprintf("process.args[%d]", i), a)
	}
	if p.CommandLine != "" {
		c.warn("process.commandLine", "for Windows: args is used")
	}
	if p.Terminal && p.ConsoleSize != nil {
		out.Rows = c.consoleSide("process.consoleSize.height", p.ConsoleSize.Height)
		out.Columns = c.consoleSide("process.consoleSize.width", p.ConsoleSize.Width)
	}
	out.Env = c.env(p.Env)
	if !cleanAbs(p.Cwd) {
		c.invalid("process.cwd", "", "%.80q is not an absolute path", p.Cwd)
	}
	out.Cwd = path.Clean(p.Cwd)
	c.user(p.User, &out)
	out.Capabilities = c.capabilities(p.Capabilities)
	out.Rlimits = c.rlimits(p.Rlimits)
	c.labels(p, &out)
	if p.OOMScoreAdj != nil {
		out.OOMScoreAdj = *p.OOMScoreAdj
		if out.OOMScoreAdj < -1000 || out.OOMScoreAdj > 1000 {
			c.invalid("process.oomScoreAdj", "-1000 to 1000", "%d is out of range", out.OOMScoreAdj)
		}
	}
	out.Scheduler = c.scheduler(p.Scheduler)
	out.IOPriority = c.ioPriority(p.IOPriority)
	out.Personality = c.personality()
	out.MemoryPolicy = c.memoryPolicy()
	out.Affinity = c.affinity(p.ExecCPUAffinity)
	return out
}

func (c *converter) consoleSide(field string, n uint) uint16 {
	if n > math.MaxUint16 {
		c.invalid(field, "", "%d is more than a terminal has", n)
		return 0
	}
	return uint16(n)
}

// env keeps the last of several entries for one name, in the place of the last.
func (c *converter) env(env []string) []string {
	last := make(map[string]int, len(env))
	for i, e := range env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			// The value may be a secret: name the place alone.
			c.invalid(fmt.Sprintf("process.env[%d]", i), "NAME=value", "it has no name or no '='")
			continue
		}
		if strings.IndexByte(e, 0) >= 0 {
			c.invalid(fmt.Sprintf("process.env[%d]", i), "", "the variable contains a NUL byte")
		}
		last[name] = i
	}
	out := make([]string, 0, len(last))
	for i, e := range env {
		if name, _, ok := strings.Cut(e, "="); ok && name != "" && last[name] == i {
			out = append(out, e)
		}
	}
	return out
}

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

func (c *converter) user(u specs.User, out *Process) {
	out.UID, out.GID, out.AdditionalGids = u.UID, u.GID, u.AdditionalGids
	c.id("process.user.uid", u.UID, func(m *IDMap) []specs.LinuxIDMapping { return m.UIDs })
	gids := func(m *IDMap) []specs.LinuxIDMapping { return m.GIDs }
	c.id("process.user.gid", u.GID, gids)
	if len(u.AdditionalGids) > maxGroups {
		c.invalid("process.user.additionalGids", "", "%d groups are more than the kernel's %d", len(u.AdditionalGids), maxGroups)
	}
	for i, g := range u.AdditionalGids {
		c.id(fmt.Sprintf("process.user.additionalGids[%d]", i), g, gids)
	}
	if u.Umask != nil {
		mask := *u.Umask
		if mask > 0o777 {
			c.invalid("process.user.umask", "0 to 0777", "%#o is out of range", mask)
		}
		out.Umask = &mask
	}
	if u.Username != "" {
		c.warn("process.user.username", "for Windows: uid and gid are used")
	}
}

// id refuses what setuid(2) and its relatives cannot set.
func (c *converter) id(field string, id uint32, ids func(*IDMap) []specs.LinuxIDMapping) {
	switch {
	case id == math.MaxUint32:
		c.invalid(field, "", "%d means \"no change\" to the kernel", id)
	case c.plan.IDMap != nil && !mapped(ids(c.plan.IDMap), id):
		c.invalid(field, "", "%d is not mapped in the container's user namespace", id)
	}
}

// labels converts the labels of the security modules.
func (c *converter) labels(p *specs.Process, out *Process) {
	for _, l := range []struct{ field, value string }{
		{"process.apparmorProfile", p.ApparmorProfile}, {"process.selinuxLabel", p.SelinuxLabel},
	} {
		if strings.ContainsAny(l.value, "\n\x00") {
			c.invalid(l.field, "", "%.80q contains a line break or a NUL byte", l.value)
		}
	}
	switch {
	case p.ApparmorProfile == "" || p.ApparmorProfile == "unconfined":
	case !c.opts.AppArmor:
		c.invalid("process.apparmorProfile", "leave it out, or boot with apparmor=1", "%.80q is asked for, and AppArmor is off on this host", p.ApparmorProfile)
	default:
		out.AppArmorProfile = p.ApparmorProfile
	}
	switch {
	case p.SelinuxLabel == "":
	case !c.opts.SELinux:
		c.warn("process.selinuxLabel", "SELinux is off on this host")
	default:
		out.SELinuxLabel = p.SelinuxLabel
	}
}

// rlimitNumbers are the RLIMIT_* of asm-generic/resource.h, which x86 and arm64 have.
var rlimitNumbers = map[string]int{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
	"RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
	"RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

func (c *converter) rlimits(limits []specs.POSIXRlimit) []Rlimit {
	var out []Rlimit
	seen := map[string]bool{}
	for i, l := range limits {
		field := fmt.Sprintf("process.rlimits[%d]", i)
		n, ok := rlimitNumbers[l.Type]
		switch {
		case !ok:
			c.invalid(field+".type", "", "%.80q is not a limit of Linux", l.Type)
		case seen[l.Type]:
			c.invalid(field+".type", "", "%q is given twice", l.Type)
		case l.Soft > l.Hard:
			c.invalid(field, "", "the soft limit %d is above the hard limit %d", l.Soft, l.Hard)
		}
		seen[l.Type] = true
		out = append(out, Rlimit{Resource: n, Soft: l.Soft, Hard: l.Hard})
	}
	return out
}
