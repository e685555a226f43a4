package oci2lxc

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hooks validates the hooks (config.md#posix-platform-hooks).
func (c *converter) hooks() {
	h := c.spec.Hooks
	if h == nil {
		return
	}
	for _, kind := range []struct {
		name string
		list []specs.Hook
	}{
		{"prestart", h.Prestart}, // deprecated, and still in use
		{"createRuntime", h.CreateRuntime}, {"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer}, {"poststart", h.Poststart}, {"poststop", h.Poststop},
	} {
		for i, hook := range kind.list {
			c.hook(fmt.Sprintf("hooks.%s[%d]", kind.name, i), hook)
		}
	}
	c.plan.Hooks = *h
}

func (c *converter) hook(field string, h specs.Hook) {
	if !cleanAbs(h.Path) {
		c.invalid(field+".path", "", "%.80q is not an absolute path", h.Path)
	}
	for i, a := range h.Args {
		c.text(fmt.Sprintf("%s.args[%d]", field, i), a)
	}
	for i, e := range h.Env {
		if strings.IndexByte(e, 0) >= 0 {
			c.invalid(fmt.Sprintf("%s.env[%d]", field, i), "", "the variable contains a NUL byte")
		}
	}
	if h.Timeout != nil && *h.Timeout <= 0 {
		c.invalid(field+".timeout", "seconds, more than 0", "%d is out of range", *h.Timeout)
	}
}

// maxInterface is the kernel's IFNAMSIZ less the NUL.
const maxInterface = 15

// validInterface holds a name to the kernel's dev_valid_name.
func validInterface(name string) bool {
	return name != "" && len(name) <= maxInterface && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r\x00")
}

// netDevices validates linux.netDevices (config-linux.md#network-devices).
func (c *converter) netDevices() {
	devices := c.linux.NetDevices
	if len(devices) == 0 {
		return
	}
	const field = "linux.netDevices"
	if !c.has(specs.NetworkNamespace) {
		c.invalid(field, "add {\"type\": \"network\"} to linux.namespaces", "devices cannot be moved: the container has the host's network")
	}
	names := map[string]string{}
	for _, host := range sortedKeys(devices) {
		if !validInterface(host) {
			c.invalid(field, "", "%.80q is not the name of an interface", host)
			continue
		}
		name := orDefault(devices[host].Name, host)
		if !validInterface(name) {
			c.invalid(field+"."+host+".name", "", "%.80q is not the name of an interface", name)
			continue
		}
		if other, twice := names[name]; twice && !strings.Contains(name, "%d") {
			c.invalid(field+"."+host+".name", "", "%q and %q would both be called %q", other, host, name)
		}
		names[name] = host
	}
	c.plan.NetDevices = devices
}

// intelRdt validates linux.intelRdt (config-linux.md#intel-rdt): closID is a directory
// in /sys/fs/resctrl, each schema is a line of its schemata file.
func (c *converter) intelRdt() {
	r := c.linux.IntelRdt
	if r == nil {
		return
	}
	const field = "linux.intelRdt."
	id := strings.TrimPrefix(r.ClosID, "/") // "/" alone names the default group
	if id == "." || id == ".." || strings.ContainsAny(id, "/\n\x00") || len(id) > 255 || r.ClosID != "/" && id != r.ClosID {
		c.invalid(field+"closID", "", "%.80q is not the name of a group", r.ClosID)
	}
	if r.ClosID == "info" || r.ClosID == "mon_groups" || r.ClosID == "mon_data" {
		c.invalid(field+"closID", "", "%q is resctrl's own", r.ClosID)
	}
	lines := append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...)
	for i, l := range lines {
		if strings.ContainsAny(l, "\n\x00") {
			name := []string{"l3CacheSchema", "memBwSchema"}
			f := "schemata"
			if i < len(name) {
				f = name[i]
			}
			c.invalid(field+f, "one line per entry", "%.80q contains a line break or a NUL byte", l)
		}
	}
	if len(r.Schemata) > 0 && (r.L3CacheSchema != "" || r.MemBwSchema != "") {
		c.warn(field+"schemata", "its lines overwrite those of l3CacheSchema and memBwSchema")
	}
	c.plan.IntelRdt = r
}
