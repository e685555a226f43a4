package oci2lxc

import (
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The groups of our own, at the root of each hierarchy: OwnGroup is for containers that name none, MonitorGroup has a
// group "NAMESPACE--ID" for each monitor. liblxc enables every controller in all ancestors of the groups
// that it makes, so the monitors have a tree to themselves.
const (
	OwnGroup     = "pvelxc"
	MonitorGroup = "pvelxc.monitor"
	pivotDir     = "pvelxc.pivot"
)

// cgroup decides where the container lives (config-linux.md#cgroups-path).
func (c *converter) cgroup() {
	g := &c.plan.Cgroup
	name := c.opts.Namespace + "--" + c.opts.ID
	if c.opts.SystemdCgroup {
		c.systemdPath(c.linux.CgroupsPath, name)
	} else {
		g.Path = c.leaf(c.linux.CgroupsPath)
		g.Monitor = MonitorGroup + "/" + name
		g.Pivot = pivotDir + "/lxc.pivot"
	}
	given := c.linux.Resources
	if given == nil {
		given = &specs.LinuxResources{} // no rules of its own still means: the default devices alone
	}
	g.Resources = c.resources(given)
	g.Resources.Devices = append(c.cgroupDevices(given.Devices), deviceRules()...)
}

// leaf gives the path of the container's group, relative to the root of the hierarchy.
func (c *converter) leaf(p string) string {
	const field = "linux.cgroupsPath"
	if p == "" {
		return OwnGroup + "/" + c.opts.Namespace + "/" + c.opts.ID
	}
	leaf := strings.TrimPrefix(path.Clean("/"+p), "/")
	first, _, _ := strings.Cut(leaf, "/")
	switch {
	case !c.groupName(field, p):
	case leaf == "":
		c.invalid(field, "name a group of the container's own", "%.80q is the root of the hierarchy", p)
	case first == MonitorGroup || first == pivotDir:
		c.invalid(field, "", "%q is reserved for the runtime", first)
	}
	return leaf
}

// groupName holds a path to what the kernel and liblxc take.
func (c *converter) groupName(field, p string) bool {
	// liblxc refuses ".." anywhere, even inside a name (confile.c, dotdot).
	if strings.Contains(p, "..") {
		c.invalid(field, "", "%.80q contains \"..\"", p)
		return false
	}
	if !c.quotable(field, path.Clean("/"+p)) {
		return false
	}
	for _, part := range strings.Split(p, "/") {
		if len(part) > 255 {
			c.invalid(field, "", "%.80q… is too long for the name of a group", part)
			return false
		}
	}
	return true
}

// systemdPath reads "slice:prefix:name". liblxc must create the container's group
// itself, and the monitor must stay in the scope, so both get groups below it.
func (c *converter) systemdPath(p, name string) {
	const field = "linux.cgroupsPath"
	slice, prefix, unit := "system.slice", "pvelxc", strings.Replace(name, "--", ":", 1)
	if p != "" {
		parts := strings.Split(p, ":")
		if len(parts) != 3 {
			c.invalid(field, "slice:prefix:name, or turn SystemdCgroup off", "%.80q is not the form that systemd needs", p)
			return
		}
		if parts[0] != "" {
			slice = parts[0]
		}
		prefix, unit = parts[1], parts[2]
	}
	dir, ok := slicePath(slice)
	if !ok {
		c.invalid(field, "a name such as kubepods-burstable.slice", "%.80q is not a slice", slice)
		return
	}
	scope := unit + ".scope"
	if prefix != "" {
		scope = prefix + "-" + scope
	}
	switch {
	case unit == "" || len(scope) > 255 || !only(scope, alnum+":-_.\\") || strings.Contains(scope, ".."):
		c.invalid(field, "", "%.80q is not the name of a unit", scope)
		return
	case strings.HasSuffix(unit, ".slice"):
		c.unsupported(field, "name a scope", "a container cannot be a slice")
		return
	}
	g := &c.plan.Cgroup
	g.Systemd, g.Slice, g.Scope = true, slice, scope
	base := path.Join(dir, scope)
	if !c.groupName(field, base) {
		return
	}
	g.Path, g.Monitor, g.Pivot = base+"/payload", base+"/monitor", base+"/pivot"
}

// slicePath expands a slice's name to its path: each dash is a level (systemd.slice(5)),
// a-b.slice lies in a.slice. "-.slice" is the root.
func slicePath(slice string) (string, bool) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || len(slice) > 255 {
		return "", false
	}
	if name == "-" {
		return "", true
	}
	if !only(name, alnum+":-_.\\") || strings.Contains(name, "..") {
		return "", false
	}
	var dir, prefix string
	for _, part := range strings.Split(name, "-") {
		if part == "" {
			return "", false
		}
		prefix += part
		dir = path.Join(dir, prefix+".slice")
		prefix += "-"
	}
	return dir, true
}
