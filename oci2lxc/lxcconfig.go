package oci2lxc

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxIDMapText is what the kernel takes for one uid_map or gid_map in one write: less
// than a page (user_namespaces(7)).
const maxIDMapText = 4095

// lxcNamespaces names the namespaces that liblxc makes or joins for us, in the order
// in which they stand in lxc.namespace.clone. The cgroup and time namespaces are
// missing: PID 1 makes or joins them itself, because it must be placed in its cgroup,
// and must write its clock offsets, before it enters them.
var lxcNamespaces = []struct {
	typ  specs.LinuxNamespaceType
	name string
}{
	{specs.MountNamespace, "mnt"}, {specs.PIDNamespace, "pid"}, {specs.IPCNamespace, "ipc"},
	{specs.UTSNamespace, "uts"}, {specs.NetworkNamespace, "net"}, {specs.UserNamespace, "user"},
}

// config writes the LXC config. It has no user data but proven paths: the root, the
// namespaces that are joined, the cgroup.
//
// What is missing matters as much. lxc.uts.name renames the HOST when there is no
// UTS namespace of the container's own; lxc.net.* would restore devices to the host on
// its own; an lxc.include of the distribution's defaults brings hooks and mounts
// along. lxc.cap.*, lxc.seccomp.*, lxc.prlimit.* and the like act before PID 1 has
// finished what needs the privilege; lxc.mount.entry drops and misreads options.
func (c *converter) config() {
	p := c.plan
	add := func(key, value string) { p.Config = append(p.Config, Item{key, value}) }
	if c.opts.LogFile != "" {
		if c.quotable("options.LogFile", c.opts.LogFile) {
			add("lxc.log.file", c.opts.LogFile)
		}
		add("lxc.log.level", orDefault(c.opts.LogLevel, "WARN"))
	}
	// The prefix keeps liblxc from guessing a storage type. The mount point is the
	// directory itself, so that hooks find the root where root.path says.
	add("lxc.rootfs.path", "dir:"+p.Rootfs.Path)
	add("lxc.rootfs.mount", p.Rootfs.Path)
	add("lxc.rootfs.managed", "0")
	add("lxc.ephemeral", "0")
	add("lxc.autodev", "0")
	add("lxc.mount.auto", "")
	add("lxc.tty.max", "0")
	add("lxc.pty.max", "0")
	add("lxc.console.path", "none")
	add("lxc.keyring.session", "0") // PID 1 joins its own, under the container's id
	if c.opts.LXCAppArmor {
		add("lxc.apparmor.profile", "unconfined") // PID 1 sets the real one, for the exec
	}
	add("lxc.hook.version", "1")
	add("lxc.hook.mount", c.opts.InitPath+" hook 3") // liblxc runs it by /bin/sh -c "exec ...": no exec of our own
	// A failing hook keeps liblxc from starting the container again when PID 1 dies
	// of SIGHUP or calls reboot(2), both of which it takes for a reboot.
	add("lxc.hook.post-stop", "/bin/false")
	// liblxc opens /dev before the mount hook and puts its symlinks there afterwards.
	// Without this tmpfs they would land in the snapshot, and an image without /dev
	// would not start.
	add("lxc.mount.entry", "none dev tmpfs mode=755,create=dir 0 0")
	add("lxc.signal.halt", orDefault(c.opts.HaltSignal, "SIGTERM"))
	c.namespaceItems(add)
	add("lxc.cgroup.relative", "0")
	add("lxc.cgroup.dir.container", p.Cgroup.Path)
	add("lxc.cgroup.dir.monitor", p.Cgroup.Monitor)
	add("lxc.cgroup.dir.monitor.pivot", p.Cgroup.Pivot)
}

func (c *converter) namespaceItems(add func(key, value string)) {
	var clone []string
	for _, ns := range lxcNamespaces {
		if c.plan.Namespace(ns.typ).Mode == NamespaceNew {
			clone = append(clone, ns.name)
		}
	}
	add("lxc.namespace.clone", strings.Join(clone, " "))
	for _, ns := range lxcNamespaces {
		if n := c.plan.Namespace(ns.typ); n.Mode == NamespaceJoin {
			add("lxc.namespace.share."+ns.name, n.Path)
		}
	}
	if m := c.plan.IDMap; m != nil {
		for _, line := range idMapLines("u", m.UIDs) {
			add("lxc.idmap", line)
		}
		for _, line := range idMapLines("g", m.GIDs) {
			add("lxc.idmap", line)
		}
	}
}

func idMapLines(kind string, ids []specs.LinuxIDMapping) []string {
	lines := make([]string, len(ids))
	for i, m := range ids {
		lines[i] = kind + " " + strconv.FormatUint(uint64(m.ContainerID), 10) + " " +
			strconv.FormatUint(uint64(m.HostID), 10) + " " + strconv.FormatUint(uint64(m.Size), 10)
	}
	return lines
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// validSignal says whether liblxc's sig_parse knows the name.
func validSignal(s string) bool {
	name, ok := strings.CutPrefix(s, "SIG")
	if !ok {
		return false
	}
	for _, rt := range []string{"RTMIN+", "RTMAX-"} {
		if n, ok := strings.CutPrefix(name, rt); ok {
			v, err := strconv.ParseUint(n, 10, 8)
			return err == nil && v <= 30
		}
	}
	switch name {
	case "HUP", "INT", "QUIT", "ILL", "ABRT", "FPE", "KILL", "SEGV", "PIPE", "ALRM", "TERM", "USR1", "USR2", "CHLD",
		"CONT", "STOP", "TSTP", "TTIN", "TTOU", "TRAP", "IOT", "BUS", "STKFLT", "URG", "IO", "POLL", "XCPU", "XFSZ",
		"VTALRM", "PROF", "WINCH", "PWR", "SYS", "RTMIN", "RTMAX":
		return true
	}
	return false
}
