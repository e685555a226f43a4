package oci2lxc

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// capabilityNames are in the order of linux/capability.h: the index is the number.
var capabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

var capabilityNumbers = func() map[string]uint {
	m := make(map[string]uint, len(capabilityNames))
	for n, name := range capabilityNames {
		m[name] = uint(n)
	}
	return m
}()

// capabilities converts the five sets; nil drops everything. An unknown name is
// ignored, as the specification asks, for bundles made for newer kernels.
func (c *converter) capabilities(caps *specs.LinuxCapabilities) Capabilities {
	if caps == nil {
		return Capabilities{}
	}
	const field = "process.capabilities."
	out := Capabilities{
		Bounding:    c.capabilitySet(field+"bounding", caps.Bounding),
		Effective:   c.capabilitySet(field+"effective", caps.Effective),
		Inheritable: c.capabilitySet(field+"inheritable", caps.Inheritable),
		Permitted:   c.capabilitySet(field+"permitted", caps.Permitted),
		Ambient:     c.capabilitySet(field+"ambient", caps.Ambient),
	}
	wanted := out.Bounding | out.Effective | out.Inheritable | out.Permitted | out.Ambient
	if missing := wanted & c.opts.MissingCapabilities; missing != 0 && !c.has(specs.UserNamespace) {
		c.warn("process.capabilities", "%s cannot be had: containerd itself runs without", capabilityList(missing))
	}
	// capabilities(7): the kernel refuses what follows, at a point where the message
	// could not say why any more.
	if extra := out.Effective &^ out.Permitted; extra != 0 {
		c.invalid(field+"effective", "add it to permitted", "%s is effective and not permitted", capabilityList(extra))
	}
	if extra := out.Inheritable &^ out.Bounding; extra != 0 {
		c.invalid(field+"inheritable", "add it to bounding", "%s is inheritable and not in the bounding set", capabilityList(extra))
	}
	if extra := out.Ambient &^ (out.Permitted & out.Inheritable); extra != 0 {
		c.warn(field+"ambient", "%s cannot be ambient: it is not both permitted and inheritable", capabilityList(extra))
		out.Ambient &^= extra
	}
	return out
}

func (c *converter) capabilitySet(field string, names []string) uint64 {
	var set uint64
	for i, name := range names {
		n, ok := capabilityNumbers[name]
		if !ok {
			c.warn(fmt.Sprintf("%s[%d]", field, i), "%.80q is not a capability of Linux", name)
			continue
		}
		set |= 1 << n
	}
	return set
}

// capabilityList names the members of a set.
func capabilityList(set uint64) string {
	var names []string
	for n, name := range capabilityNames {
		if set&(1<<n) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
