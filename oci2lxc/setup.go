package oci2lxc

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxHostname is the kernel's __NEW_UTS_LEN.
const maxHostname = 64

// setup converts what PID 1 does to its namespaces.
func (c *converter) setup() {
	s := &c.plan.Setup
	s.Hostname = c.utsName("hostname", c.spec.Hostname)
	s.Domainname = c.utsName("domainname", c.spec.Domainname)
	c.sysctls()
	s.MaskedPaths = c.paths("linux.maskedPaths", c.linux.MaskedPaths)
	s.ReadonlyPaths = c.paths("linux.readonlyPaths", c.linux.ReadonlyPaths)
	if c.linux.MountLabel != "" {
		c.text("linux.mountLabel", c.linux.MountLabel)
		if !c.opts.SELinux {
			c.warn("linux.mountLabel", "SELinux is off on this host")
		}
	}
}

// utsName refuses a name in the host's UTS namespace: it would rename the host.
func (c *converter) utsName(field, name string) string {
	switch {
	case name == "":
		return ""
	case !c.has(specs.UTSNamespace):
		c.invalid(field, "add {\"type\": \"uts\"} to linux.namespaces", "it would rename the host")
	case len(name) > maxHostname:
		c.invalid(field, "", "%d bytes are more than the kernel's %d", len(name), maxHostname)
	default:
		c.text(field, name)
	}
	return name
}

// paths cleans a list of paths inside the container.
func (c *converter) paths(field string, list []string) []string {
	var out []string
	for i, p := range list {
		clean := path.Clean(p)
		switch {
		case !cleanAbs(p):
			c.invalid(fmt.Sprintf("%s[%d]", field, i), "", "%.80q is not an absolute path", p)
		case clean == "/":
			c.invalid(fmt.Sprintf("%s[%d]", field, i), "for a read-only root: root.readonly", "it is the whole container")
		default:
			out = append(out, clean)
		}
	}
	return out
}

// ipcSysctls are the parameters of an IPC namespace beside fs.mqueue.*.
var ipcSysctls = map[string]bool{
	"kernel.msgmax": true, "kernel.msgmnb": true, "kernel.msgmni": true, "kernel.sem": true, "kernel.shmall": true,
	"kernel.shmmax": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true,
}

// sysctls converts linux.sysctl. Only parameters that belong to a namespace of the
// container's own are allowed; everything else is the host's.
func (c *converter) sysctls() {
	values := map[string]string{}
	for _, key := range sortedKeys(c.linux.Sysctl) {
		field := fmt.Sprintf("linux.sysctl[%.80q]", key)
		value := c.linux.Sysctl[key]
		p, ok := sysctlPath(key)
		if !ok {
			c.invalid(field, "", "it is not the name of a kernel parameter")
			continue
		}
		c.text(field, value)
		if reason, hint := c.sysctlRefusal(strings.ReplaceAll(p, "/", ".")); reason != "" {
			c.invalid(field, hint, "%s", reason)
			continue
		}
		if other, twice := values[p]; twice && other != value {
			c.invalid(field, "", "it is given twice, with dots and with slashes, and the values differ")
			continue
		}
		values[p] = value
	}
	for _, p := range sortedKeys(values) {
		c.plan.Setup.Sysctls = append(c.plan.Setup.Sysctls, Sysctl{Path: p, Value: values[p]})
	}
}

// sysctlRefusal says why a parameter cannot be set, or "" when it can. name has dots
// alone; where an interface's name has one, the prefix decides all the same.
func (c *converter) sysctlRefusal(name string) (reason, hint string) {
	own := func(t specs.LinuxNamespaceType) (string, string) {
		if c.has(t) {
			return "", ""
		}
		return "it would change the host's, because the container has no " + string(t) + " namespace of its own",
			fmt.Sprintf("add {\"type\": %q} to linux.namespaces", string(t))
	}
	switch {
	case ipcSysctls[name], strings.HasPrefix(name, "fs.mqueue."):
		return own(specs.IPCNamespace)
	case strings.HasPrefix(name, "net."):
		return own(specs.NetworkNamespace)
	case strings.HasPrefix(name, "user."):
		return own(specs.UserNamespace)
	case name == "kernel.domainname":
		return own(specs.UTSNamespace)
	case name == "kernel.hostname":
		return "it conflicts with the field hostname", "set hostname instead"
	}
	return "it belongs to the whole host, not to a namespace", "set it on the host"
}

// sysctlPath turns a name into a path below /proc/sys as sysctl(8) does: the first
// separator, '.' or '/', is the separator, and the other one stands for it inside a
// component ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding").
func sysctlPath(name string) (string, bool) {
	i := strings.IndexAny(name, "./")
	if i < 0 || strings.IndexByte(name, 0) >= 0 || len(name) > 1024 {
		return "", false
	}
	p := name
	if name[i] == '.' {
		p = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	for _, part := range strings.Split(p, "/") {
		if part == "" || part == "." || part == ".." {
			return "", false
		}
	}
	return p, true
}
