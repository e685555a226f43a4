package oci2lxc

import (
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// namespaceTypes is every type of namespace that Linux has, in the order of
// Plan.Namespaces.
var namespaceTypes = []specs.LinuxNamespaceType{
	specs.UserNamespace, specs.MountNamespace, specs.PIDNamespace, specs.IPCNamespace,
	specs.UTSNamespace, specs.NetworkNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

// Namespace gives the entry of a type; the host's when there is none.
func (p *Plan) Namespace(t specs.LinuxNamespaceType) Namespace {
	for _, ns := range p.Namespaces {
		if ns.Type == t {
			return ns
		}
	}
	return Namespace{Type: t, Mode: NamespaceHost}
}

// namespaces decides where each namespace comes from (config-linux.md#namespaces).
func (c *converter) namespaces() {
	given := map[specs.LinuxNamespaceType]Namespace{}
	for i, ns := range c.linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		n := Namespace{Type: ns.Type, Mode: NamespaceNew}
		if ns.Path != "" {
			n.Mode, n.Path = NamespaceJoin, path.Clean(ns.Path)
			if !path.IsAbs(ns.Path) {
				c.invalid(field+".path", "", "%.80q is not absolute", ns.Path)
				continue
			}
			if !c.quotable(field+".path", n.Path) {
				continue
			}
		}
		if !knownNamespace(ns.Type) {
			c.invalid(field+".type", "", "%.80q is not a namespace type", ns.Type)
			continue
		}
		if _, twice := given[ns.Type]; twice {
			c.invalid(field+".type", "", "%q is given twice", ns.Type)
			continue
		}
		given[ns.Type] = n
	}
	if _, ok := given[specs.UserNamespace]; !ok && c.opts.Unprivileged != nil {
		given[specs.UserNamespace] = Namespace{Type: specs.UserNamespace, Mode: NamespaceNew}
	}
	switch m, ok := given[specs.MountNamespace]; {
	case !ok:
		c.unsupported("linux.namespaces", "add {\"type\": \"mount\"}", "a container cannot run in the host's mount namespace")
	case m.Mode == NamespaceJoin:
		c.unsupported("linux.namespaces", "leave the path of the mount namespace out", "a container cannot join a mount namespace: it has a root filesystem of its own")
	}
	for _, t := range namespaceTypes {
		n, ok := given[t]
		if !ok {
			n = Namespace{Type: t, Mode: NamespaceHost}
		}
		c.plan.Namespaces = append(c.plan.Namespaces, n)
	}
}

func knownNamespace(t specs.LinuxNamespaceType) bool {
	for _, k := range namespaceTypes {
		if k == t {
			return true
		}
	}
	return false
}

// has says whether the container has a namespace of the type that is not the
// host's: as far as a pure function can tell, since a joined path may lead to the
// host's all the same.
func (c *converter) has(t specs.LinuxNamespaceType) bool {
	return c.plan.Namespace(t).Mode != NamespaceHost
}

// idMap decides the map of the user namespace (config-linux.md#user-namespace-mappings).
func (c *converter) idMap() {
	given := &IDMap{UIDs: c.linux.UIDMappings, GIDs: c.linux.GIDMappings}
	empty := len(given.UIDs) == 0 && len(given.GIDs) == 0
	field := "linux.uidMappings"
	switch c.plan.Namespace(specs.UserNamespace).Mode {
	case NamespaceHost:
		if !empty {
			c.invalid(field, "add {\"type\": \"user\"} to linux.namespaces", "there are mappings, and no user namespace")
		}
		return
	case NamespaceNew:
		if empty && c.opts.Unprivileged != nil {
			given, field = c.opts.Unprivileged, "options.Unprivileged"
		}
	case NamespaceJoin:
		// liblxc joins a user namespace only together with its map, and everything that
		// the shim makes for the container is owned through it.
		joined := c.opts.JoinedIDMap
		if joined != nil && !empty && !joined.Equal(given) {
			c.invalid(field, "leave the mappings out: the namespace has its own", "the mappings differ from those of the user namespace that is joined")
			return
		}
		if joined != nil {
			given, field = joined, "options.JoinedIDMap"
		}
	}
	uids := c.checkIDs(field, given.UIDs)
	gids := c.checkIDs(strings.Replace(field, "uid", "gid", 1), given.GIDs)
	if uids && gids {
		c.plan.IDMap = given
	}
}

// checkIDs holds a map to the kernel's rules (user_namespaces(7)): not empty, at most 340
// lines, no overlap on either side, no id beyond 32 bits, one page of text.
func (c *converter) checkIDs(field string, ids []specs.LinuxIDMapping) bool {
	if len(ids) == 0 {
		c.invalid(field, "", "empty: uid and gid mappings are both needed")
		return false
	}
	if n := len(strings.Join(idMapLines("u", ids), "\n")); len(ids) > 340 || n > maxIDMapText {
		c.invalid(field, "", "%d mappings are more than the kernel takes", len(ids))
		return false
	}
	if i := overlap(ids, func(m specs.LinuxIDMapping) uint32 { return m.ContainerID }); i >= 0 {
		c.invalid(fmt.Sprintf("%s[%d]", field, i), "", "its size is 0, too large, or its containerID overlaps another mapping's")
		return false
	}
	if i := overlap(ids, func(m specs.LinuxIDMapping) uint32 { return m.HostID }); i >= 0 {
		c.invalid(fmt.Sprintf("%s[%d]", field, i), "", "its size is too large, or its hostID overlaps another mapping's")
		return false
	}
	return true
}

// overlap gives the index of a mapping that is empty, leaves the 32 bits or shares
// ids with another, counting from start; -1 when there is none.
func overlap(ids []specs.LinuxIDMapping, start func(specs.LinuxIDMapping) uint32) int {
	order := make([]int, len(ids))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return start(ids[order[a]]) < start(ids[order[b]]) })
	var next uint64
	for _, i := range order {
		s := uint64(start(ids[i]))
		end := s + uint64(ids[i].Size)
		// (uid_t)-1 means "no change" to system calls, so it is never mapped.
		if ids[i].Size == 0 || end > 1<<32-1 || s < next {
			return i
		}
		next = end
	}
	return -1
}

// Equal says whether two maps map the same ids, in whatever order; nil is equal to nil.
func (m *IDMap) Equal(other *IDMap) bool {
	if m == nil || other == nil {
		return m == other
	}
	return sameIDs(m.UIDs, other.UIDs) && sameIDs(m.GIDs, other.GIDs)
}

func sameIDs(a, b []specs.LinuxIDMapping) bool {
	if len(a) != len(b) {
		return false
	}
	for _, m := range a {
		found := false
		for _, n := range b {
			found = found || m == n
		}
		if !found {
			return false
		}
	}
	return true
}

// mapped says whether a map has a place for an id of the container.
func mapped(ids []specs.LinuxIDMapping, id uint32) bool {
	for _, m := range ids {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return true
		}
	}
	return false
}

// timeOffsets writes the text for /proc/self/timens_offsets (time_namespaces(7)).
// liblxc's lxc.time.offset.* holds seconds or nanoseconds, not both.
func (c *converter) timeOffsets() {
	if len(c.linux.TimeOffsets) == 0 {
		return
	}
	const field = "linux.timeOffsets"
	if c.plan.Namespace(specs.TimeNamespace).Mode != NamespaceNew {
		c.invalid(field, "add {\"type\": \"time\"} without a path to linux.namespaces", "offsets need a new time namespace")
		return
	}
	var b strings.Builder
	for _, clock := range []string{"monotonic", "boottime"} {
		o, ok := c.linux.TimeOffsets[clock]
		if !ok {
			continue
		}
		if o.Nanosecs >= 1e9 {
			c.invalid(field+"."+clock+".nanosecs", "", "%d is a second or more", o.Nanosecs)
		}
		fmt.Fprintf(&b, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	for _, clock := range sortedKeys(c.linux.TimeOffsets) {
		if clock != "monotonic" && clock != "boottime" {
			c.invalid(field, "monotonic or boottime", "%.80q is not a clock with an offset", clock)
		}
	}
	c.plan.Setup.TimeOffsets = b.String()
}

// sortedKeys makes the order of messages and of the Plan independent of the map's.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
