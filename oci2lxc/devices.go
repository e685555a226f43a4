package oci2lxc

import (
	"fmt"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultDevices are made in every container (config-linux.md#default-devices).
var defaultDevices = []Device{
	{Path: "/dev/null", Type: 'c', Major: 1, Minor: 3, Mode: 0o666},
	{Path: "/dev/zero", Type: 'c', Major: 1, Minor: 5, Mode: 0o666},
	{Path: "/dev/full", Type: 'c', Major: 1, Minor: 7, Mode: 0o666},
	{Path: "/dev/random", Type: 'c', Major: 1, Minor: 8, Mode: 0o666},
	{Path: "/dev/urandom", Type: 'c', Major: 1, Minor: 9, Mode: 0o666},
	{Path: "/dev/tty", Type: 'c', Major: 5, Minor: 0, Mode: 0o666},
}

// defaultLinks are made in every container. /dev/console is not among them: PID 1
// binds the terminal there when there is one.
var defaultLinks = []Link{
	{Path: "/dev/ptmx", Target: "pts/ptmx"},
	{Path: "/dev/fd", Target: "/proc/self/fd"},
	{Path: "/dev/stdin", Target: "/proc/self/fd/0"},
	{Path: "/dev/stdout", Target: "/proc/self/fd/1"},
	{Path: "/dev/stderr", Target: "/proc/self/fd/2"},
	{Path: "/dev/core", Target: "/proc/kcore"},
}

// maxDevice are the bounds of the kernel's dev_t: 12 bits and 20 bits.
const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1

// devices lists the device nodes: the defaults, then the specification's, which
// replace a default of the same path (config-linux.md#devices).
func (c *converter) devices() {
	given := map[string]Device{}
	var list []Device
	for i, d := range c.linux.Devices {
		field := fmt.Sprintf("linux.devices[%d]", i)
		dev, ok := c.device(field, d)
		if !ok {
			continue
		}
		if other, twice := given[dev.Path]; twice {
			if other != dev {
				c.invalid(field+".path", "", "%.80q is given twice, differently", dev.Path)
			}
			continue
		}
		given[dev.Path] = dev
		list = append(list, dev)
	}
	for _, m := range c.plan.Mounts {
		if m.Destination == "/dev" && m.Kind == MountTree {
			// The host's or a volume's /dev is not ours to change.
			if len(list) > 0 {
				c.warn("linux.devices", "the devices are those of the bind mount at /dev")
			}
			return
		}
	}
	for _, d := range defaultDevices {
		if _, replaced := given[d.Path]; !replaced {
			c.plan.Devices = append(c.plan.Devices, d)
		}
	}
	c.plan.Devices = append(c.plan.Devices, list...)
	for _, l := range defaultLinks {
		if _, replaced := given[l.Path]; !replaced {
			c.plan.Links = append(c.plan.Links, l)
		}
	}
}

func (c *converter) device(field string, d specs.LinuxDevice) (Device, bool) {
	out := Device{Path: path.Clean(d.Path), Major: d.Major, Minor: d.Minor, Mode: 0o666}
	switch {
	case !cleanAbs(d.Path) || out.Path == "/":
		c.invalid(field+".path", "", "%.80q is not an absolute path of a device", d.Path)
		return out, false
	case d.Type == "c" || d.Type == "u":
		out.Type = 'c'
	case d.Type == "b" || d.Type == "p":
		out.Type = d.Type[0]
	default:
		c.invalid(field+".type", "c, b, u or p", "%.80q is not a type of device", d.Type)
		return out, false
	}
	if out.Type == 'p' {
		out.Major, out.Minor = 0, 0
	} else if d.Major < 0 || d.Major > maxMajor || d.Minor < 0 || d.Minor > maxMinor {
		c.invalid(field, "", "there is no device %d:%d", d.Major, d.Minor)
		return out, false
	}
	if d.FileMode != nil {
		out.Mode = uint32(*d.FileMode) & 0o7777
	}
	for _, id := range []struct {
		name string
		from *uint32
		to   *uint32
		ids  func(*IDMap) []specs.LinuxIDMapping
	}{
		{"uid", d.UID, &out.UID, func(m *IDMap) []specs.LinuxIDMapping { return m.UIDs }},
		{"gid", d.GID, &out.GID, func(m *IDMap) []specs.LinuxIDMapping { return m.GIDs }},
	} {
		if id.from == nil {
			continue
		}
		*id.to = *id.from
		if m := c.plan.IDMap; m != nil && !mapped(id.ids(m), *id.from) {
			c.invalid(field+"."+id.name, "", "%d is not mapped in the container's user namespace", *id.from)
		}
	}
	return out, true
}

// deviceRules are allowed after whatever the specification says, so that a container
// whose list begins with "deny all" has its default devices: making nodes, the default
// devices, terminals, and tun, which runtimes have always allowed.
func deviceRules() []specs.LinuxDeviceCgroup {
	rule := func(typ string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: typ, Access: access}
		if major >= 0 {
			r.Major = &major
		}
		if minor >= 0 {
			r.Minor = &minor
		}
		return r
	}
	rules := []specs.LinuxDeviceCgroup{rule("c", -1, -1, "m"), rule("b", -1, -1, "m")}
	for _, d := range defaultDevices {
		rules = append(rules, rule("c", d.Major, d.Minor, "rwm"))
	}
	return append(rules,
		rule("c", 136, -1, "rwm"), // /dev/pts/*
		rule("c", 5, 2, "rwm"),    // /dev/ptmx
		rule("c", 10, 200, "rwm"), // /dev/net/tun
	)
}
