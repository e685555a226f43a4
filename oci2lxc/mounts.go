package oci2lxc

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hookFilesystems depend on the namespaces of whoever mounts them, so the mount hook
// makes them, inside the container's. All can be mounted in a user namespace.
var hookFilesystems = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "ramfs": true, "devpts": true, "mqueue": true, "binder": true,
}

// procFiles are the files below /proc that may be mounted over: LXCFS emulates them.
// Anything else would let an image put its own data where tools trust the kernel's.
var procFiles = map[string]bool{
	"/proc/cpuinfo": true, "/proc/diskstats": true, "/proc/meminfo": true, "/proc/stat": true, "/proc/swaps": true,
	"/proc/uptime": true, "/proc/loadavg": true, "/proc/slabinfo": true,
	"/proc/sys/kernel/ns_last_pid": true, "/proc/sys/crypto/fips_enabled": true,
}

// mounts converts the mounts, in their order (config.md#mounts).
func (c *converter) mounts() {
	for i, m := range c.spec.Mounts {
		mount, ok := c.mount(fmt.Sprintf("mounts[%d]", i), m)
		if !ok {
			continue
		}
		mount.Index = i
		c.plan.Mounts = append(c.plan.Mounts, mount)
	}
}

// mount converts one mount.
func (c *converter) mount(field string, m specs.Mount) (Mount, bool) {
	before := len(c.refusals)
	c.text(field+".type", m.Type)
	c.text(field+".source", m.Source)
	for i, o := range m.Options {
		c.text(fmt.Sprintf("%s.options[%d]", field, i), o)
	}
	opts := parseMountOptions(m.Options)
	for _, w := range opts.ignored {
		c.warn(field+".options", "%s: %s", w.Field, w.Reason)
	}
	out := Mount{
		Destination: c.destination(field+".destination", m.Destination), Source: m.Source,
		AttrSet: opts.own.set, AttrClear: opts.own.clear, RecAttrSet: opts.tree.set, RecAttrClear: opts.tree.clear,
		Propagation: opts.propagation &^ unix.MS_REC, PropagationRecursive: opts.propagation&unix.MS_REC != 0,
		TmpCopyUp: opts.copyUp,
	}
	replaced := c.kind(field, m.Type, opts, &out)
	if out.Propagation == 0 {
		out.Propagation, out.PropagationRecursive = unix.MS_PRIVATE, out.Kind == MountTree && out.Recursive
	}
	c.guardProc(field, &out)
	c.params(field, opts, replaced, &out)
	c.mountIDMap(field, m, opts, &out)
	if opts.copyUp && out.FSType != "tmpfs" {
		c.invalid(field+".options", "", "tmpcopyup is for tmpfs alone")
	}
	return out, len(c.refusals) == before
}

// destination cleans the path. ".." cannot lead out: symlinks in the path are
// resolved by the mount hook, inside the container's root.
func (c *converter) destination(field, d string) string {
	if d == "" {
		c.invalid(field, "", "empty")
		return ""
	}
	if !c.text(field, d) {
		return ""
	}
	if !path.IsAbs(d) {
		c.warn(field, "%.80q is not absolute (deprecated): taken as relative to /", d)
	}
	d = path.Clean("/" + d)
	if len(d) >= unix.PathMax {
		c.invalid(field, "", "%.80q… is too long for a path", d)
		return ""
	}
	return d
}

// kind decides how a mount comes about, and says whether the host's tree replaces the
// filesystem that was asked for.
func (c *converter) kind(field, typ string, opts mountOptions, out *Mount) (replaced bool) {
	switch {
	case opts.remount:
		out.Kind = MountRemount
		return false
	case opts.bind || typ == "bind" || typ == "rbind":
		out.Kind, out.Recursive = MountTree, opts.recursive || typ == "rbind"
		switch {
		case out.Source == "":
			c.invalid(field+".source", "", "a bind mount needs a source")
		case !path.IsAbs(out.Source):
			// Not cleaned: a ".." after a symlink means what the kernel makes of it.
			out.Source = c.opts.Bundle + "/" + out.Source
		}
		if len(out.Source) >= unix.PathMax {
			c.invalid(field+".source", "", "%.80q… is too long for a path", out.Source)
		}
	case typ == "" || typ == "none":
		c.invalid(field+".type", "give a filesystem, or the option bind", "there is no type, and the options have neither bind nor rbind")
	case strings.ContainsAny(typ, "/ \t\n,"):
		c.invalid(field+".type", "", "%.80q is not a filesystem", typ)
	case typ == "cgroup" || typ == "cgroup2":
		out.Kind, out.FSType = MountCgroup, typ
	case hookFilesystems[typ]:
		out.Kind, out.FSType = MountNew, typ
		replaced = c.hostTree(out)
	default:
		out.Kind, out.FSType = MountHostFS, typ
	}
	if out.Destination == "/" {
		c.unsupported(field+".destination", "put it into root.path, or mount below /", "a mount over / would hide the root filesystem")
	}
	return replaced
}

// hostTree replaces filesystems that the kernel does not let the container mount,
// because they show a namespace that is not its own, with the host's.
func (c *converter) hostTree(out *Mount) bool {
	var src string
	userns := c.has(specs.UserNamespace)
	switch {
	case out.FSType == "proc" && userns && !c.has(specs.PIDNamespace):
		src = "/proc"
	case out.FSType == "sysfs" && userns && !c.ownsNet():
		src = "/sys"
		out.RecAttrSet |= unix.MOUNT_ATTR_RDONLY
		out.RecAttrClear &^= unix.MOUNT_ATTR_RDONLY
		out.AttrClear &^= unix.MOUNT_ATTR_RDONLY
	case out.FSType == "mqueue" && userns && !c.has(specs.IPCNamespace):
		src = "/dev/mqueue"
	default:
		return false
	}
	out.Kind, out.FSType, out.Source, out.Recursive, out.PropagationRecursive = MountTree, "", src, true, true
	return true
}

// ownsNet says whether the container's user namespace owns its network namespace:
// both are new, or both are joined, as for the containers of one pod.
func (c *converter) ownsNet() bool {
	net, user := c.plan.Namespace(specs.NetworkNamespace).Mode, c.plan.Namespace(specs.UserNamespace).Mode
	return net == NamespaceNew || net == NamespaceJoin && user == NamespaceJoin
}

// guardProc keeps /proc the kernel's.
func (c *converter) guardProc(field string, out *Mount) {
	d := out.Destination
	switch {
	case d == "/proc":
		src := path.Clean(out.Source)
		if out.FSType == "proc" || out.Kind == MountRemount || out.Kind == MountTree && src == "/proc" {
			return
		}
		c.unsupported(field+".destination", "type proc, or a bind of /proc", "only the kernel's own /proc may be mounted at /proc")
	case strings.HasPrefix(d, "/proc/") && !procFiles[d]:
		c.unsupported(field+".destination", "only the files that LXCFS emulates may be mounted over", "%.80q is inside /proc", d)
	}
}

// params gives the filesystem its parameters.
func (c *converter) params(field string, opts mountOptions, replaced bool, out *Mount) {
	for _, s := range opts.super {
		if out.Kind == MountTree || out.Kind == MountCgroup {
			c.warn(field+".options", "%q: a flag of the filesystem, which a bind or cgroup mount does not make", s)
			continue
		}
		out.Params = append(out.Params, FSParam{Key: s, Flag: true})
	}
	for _, p := range opts.data {
		switch {
		case isContext(p.Key) && !c.opts.SELinux:
			c.warn(field+".options", "%.80q: SELinux is off on this host", p.Key)
		case len(p.Key) > 255:
			c.invalid(field+".options", "", "%.80q… is too long for a parameter", p.Key)
		case out.Kind == MountTree && !replaced:
			c.invalid(field+".options", "leave it out: the kernel would ignore it", "%.80q is for a filesystem, and this is a bind mount", p.Key)
		case out.Kind == MountTree || out.Kind == MountCgroup:
			c.warn(field+".options", "%.80q: the filesystem exists already", p.Key)
		default:
			out.Params = append(out.Params, p)
		}
	}
	if out.Kind == MountRemount && len(out.Params) > 0 && !c.isNew(out.Destination) {
		c.unsupported(field+".options", "leave it out, or remount what an earlier entry mounts anew",
			"%.80q changes a filesystem, and the one at %.80q is not the container's own", out.Params[0].Key, out.Destination)
	}
	if label := c.linux.MountLabel; label != "" && c.opts.SELinux && (out.Kind == MountNew || out.Kind == MountHostFS) &&
		out.FSType != "proc" && out.FSType != "sysfs" && !hasContext(out.Params) {
		out.Params = append(out.Params, FSParam{Key: "context", Value: label})
	}
	if out.Kind == MountHostFS && out.AttrSet&unix.MOUNT_ATTR_RDONLY != 0 {
		// A read-only device cannot be mounted otherwise.
		out.Params = append(out.Params, FSParam{Key: "ro", Flag: true})
	}
}

// isNew says whether a filesystem of the container's own is mounted at destination:
// all others belong to the host as well.
func (c *converter) isNew(destination string) bool {
	for _, m := range slices.Backward(c.plan.Mounts) {
		if m.Destination == destination && m.Kind != MountRemount {
			return m.Kind == MountNew
		}
	}
	return false
}

func hasContext(params []FSParam) bool {
	for _, p := range params {
		if isContext(p.Key) {
			return true
		}
	}
	return false
}

// mountIDMap decides the ids of a mount (config.md, "idmap" and "uidMappings").
func (c *converter) mountIDMap(field string, m specs.Mount, opts mountOptions, out *Mount) {
	given := len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0
	if !given && !opts.idmap {
		return
	}
	if out.Kind != MountTree {
		c.unsupported(field, "use a bind mount", "ids can be mapped on bind mounts alone")
		return
	}
	if given {
		c.checkIDs(field+".uidMappings", m.UIDMappings)
		c.checkIDs(field+".gidMappings", m.GIDMappings)
	} else if !c.has(specs.UserNamespace) {
		c.invalid(field+".options", "add uidMappings and gidMappings, or a user namespace", "idmap without mappings, in a container without a user namespace")
		return
	}
	out.IDMap = &IDMap{UIDs: m.UIDMappings, GIDs: m.GIDMappings}
	out.IDMapRecursive = opts.idmapRecursive
}
