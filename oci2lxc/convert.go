package oci2lxc

import (
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// converter holds one conversion. Its steps read spec and opts, write their part of
// plan, and note what they ignore or refuse; none depends on the notes of another.
type converter struct {
	findings
	spec *specs.Spec
	opts Options
	plan *Plan
	// linux is spec.Linux, or an empty one.
	linux *specs.Linux
}

// Convert makes the Plan of a container. The error is a *FieldError, or Refusals
// when there are several; it unwraps to errdefs.ErrInvalidArgument or
// errdefs.ErrNotImplemented. spec is not changed, but the Plan shares memory with it.
func Convert(spec *specs.Spec, opts Options) (*Plan, error) {
	plan, _, err := Explain(spec, opts)
	return plan, err
}

// Explain is Convert for people: the warnings are there for a specification that is
// refused too.
func Explain(spec *specs.Spec, opts Options) (*Plan, []Warning, error) {
	c := newConverter(spec, opts)
	c.options()
	c.platform()
	c.root()
	c.namespaces()
	c.idMap()
	c.timeOffsets()
	c.mounts()
	c.devices()
	c.setup()
	if spec.Process == nil {
		c.invalid("process", "", "missing: there is nothing to run")
	} else {
		c.plan.Process = c.process(spec.Process)
	}
	c.cgroup()
	c.seccomp()
	c.intelRdt()
	c.netDevices()
	c.hooks()
	c.plan.Annotations = maps.Clone(spec.Annotations)
	c.config()
	if err := c.err(); err != nil {
		return nil, c.warnings, fmt.Errorf("convert specification: %w", err)
	}
	c.plan.Warnings = c.warnings
	return c.plan, c.warnings, nil
}

// ConvertProcess makes the Process of an exec in the container of spec. What proc
// leaves open is taken from the container's own process, as runc does: capabilities,
// rlimits, LSM labels, umask, OOM score, scheduler, I/O priority and CPU affinity.
func ConvertProcess(proc *specs.Process, spec *specs.Spec, opts Options) (*Process, []Warning, error) {
	c := newConverter(spec, opts)
	if proc == nil {
		c.invalid("process", "", "missing: there is nothing to run")
		return nil, nil, fmt.Errorf("convert process: %w", c.err())
	}
	c.namespaces()
	c.idMap()
	// What the container's specification has to say was said when it was created.
	c.findings = findings{}
	p := c.process(inherit(proc, spec.Process))
	if err := c.err(); err != nil {
		return nil, nil, fmt.Errorf("convert process: %w", err)
	}
	return &p, c.warnings, nil
}

// inherit fills what proc leaves open from the container's process.
func inherit(proc, from *specs.Process) *specs.Process {
	p := *proc
	if from == nil {
		return &p
	}
	if p.Capabilities == nil {
		p.Capabilities = from.Capabilities
	}
	if len(p.Rlimits) == 0 {
		p.Rlimits = from.Rlimits
	}
	if p.ApparmorProfile == "" {
		p.ApparmorProfile = from.ApparmorProfile
	}
	if p.SelinuxLabel == "" {
		p.SelinuxLabel = from.SelinuxLabel
	}
	if p.User.Umask == nil {
		p.User.Umask = from.User.Umask
	}
	if p.OOMScoreAdj == nil {
		p.OOMScoreAdj = from.OOMScoreAdj
	}
	if p.Scheduler == nil {
		p.Scheduler = from.Scheduler
	}
	if p.IOPriority == nil {
		p.IOPriority = from.IOPriority
	}
	if p.ExecCPUAffinity == nil {
		p.ExecCPUAffinity = from.ExecCPUAffinity
	}
	return &p
}

func newConverter(spec *specs.Spec, opts Options) *converter {
	c := &converter{spec: spec, opts: opts, plan: &Plan{}, linux: spec.Linux}
	if c.linux == nil {
		c.linux = &specs.Linux{}
	}
	return c
}

// options refuses what would make the rest of the conversion unsafe. These are
// mistakes of the caller, not of the bundle, and the field says so.
func (c *converter) options() {
	for _, id := range []struct{ field, value string }{
		{"options.ID", c.opts.ID}, {"options.Namespace", c.opts.Namespace}, {"options.Name", c.opts.Name},
	} {
		if !validID(id.value) {
			c.invalid(id.field, "letters and digits, with single . _ or - between them, 76 at most", "%.80q is not an identifier", id.value)
		}
	}
	if !cleanAbs(c.opts.Bundle) || path.Clean(c.opts.Bundle) != c.opts.Bundle {
		c.invalid("options.Bundle", "", "%.80q is not a clean absolute path", c.opts.Bundle)
	}
	if !cleanAbs(c.opts.InitPath) || !only(c.opts.InitPath, alnum+"/._+-") {
		c.invalid("options.InitPath", "it stands in a shell line: letters, digits and /._+- only", "%.80q cannot be used", c.opts.InitPath)
	}
	if c.opts.HaltSignal != "" && !validSignal(c.opts.HaltSignal) {
		c.invalid("options.HaltSignal", "a name such as SIGTERM or SIGRTMIN+3", "%.80q is not a signal", c.opts.HaltSignal)
	}
	switch c.opts.LogLevel {
	case "", "TRACE", "DEBUG", "INFO", "NOTICE", "WARN", "ERROR", "CRIT", "ALERT", "FATAL":
	default:
		c.invalid("options.LogLevel", "TRACE, DEBUG, INFO, NOTICE, WARN, ERROR, CRIT, ALERT or FATAL", "%.80q is not a level of liblxc", c.opts.LogLevel)
	}
	switch c.opts.CgroupMode {
	case CgroupUnified, CgroupHybrid, CgroupLegacy:
	default:
		c.invalid("options.CgroupMode", "", "%.80q is not a cgroup layout", c.opts.CgroupMode)
	}
}

// platform checks the version and the sections of other systems (config.md,
// "Specification version" and "Platform-specific configuration").
func (c *converter) platform() {
	if major, ok := versionMajor(c.spec.Version); !ok {
		c.invalid("ociVersion", "", "%.80q is not a version", c.spec.Version)
	} else if major != "1" {
		c.unsupported("ociVersion", "1.x is supported", "%.80q is of another major version", c.spec.Version)
	}
	for _, p := range []struct {
		name string
		set  bool
	}{
		{"solaris", c.spec.Solaris != nil}, {"windows", c.spec.Windows != nil}, {"vm", c.spec.VM != nil},
		{"zos", c.spec.ZOS != nil}, {"freebsd", c.spec.FreeBSD != nil},
	} {
		switch {
		case p.set && c.spec.Linux == nil:
			c.unsupported(p.name, "a bundle for Linux has a linux section", "the bundle is for another platform")
		case p.set:
			c.warn(p.name, "the section of another platform has no effect on Linux")
		}
	}
}

// versionMajor gives the first number of a SemVer 2.0.0 version.
func versionMajor(v string) (string, bool) {
	core := v
	if i := strings.IndexAny(v, "-+"); i >= 0 {
		if !only(v[i:], alnum+".-+") {
			return "", false
		}
		core = v[:i]
	}
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return "", false
	}
	for _, p := range parts {
		if p == "" || len(p) > 9 || !only(p, digits) {
			return "", false
		}
	}
	return parts[0], true
}

// root converts the root filesystem (config.md#root).
func (c *converter) root() {
	if c.spec.Root == nil {
		c.invalid("root", "", "missing")
		return
	}
	p := c.spec.Root.Path
	if p == "" {
		c.invalid("root.path", "", "empty")
		return
	}
	if !c.text("root.path", p) {
		return
	}
	if !path.IsAbs(p) {
		p = path.Join(c.opts.Bundle, p)
	}
	if p = path.Clean(p); p == "/" {
		c.unsupported("root.path", "give the container a root filesystem of its own", "the host's root cannot be a container's")
		return
	}
	if !c.quotable("root.path", p) {
		return
	}
	c.plan.Rootfs = Rootfs{Path: p, Readonly: c.spec.Root.Readonly}
	if prop := c.linux.RootfsPropagation; prop != "" {
		f, ok := propagations[prop]
		if !ok {
			c.invalid("linux.rootfsPropagation", "[r]private, [r]slave, [r]shared or [r]unbindable", "%.80q is not a propagation", prop)
		}
		c.plan.Rootfs.Propagation = f
	}
}

// quotable refuses a path that liblxc's config cannot hold.
func (c *converter) quotable(field, p string) bool {
	if _, err := quote(p); err != nil {
		c.unsupported(field, "use a path without line breaks", "%.80q: %v", p, err)
		return false
	}
	if !cleanAbs(p) {
		c.invalid(field, "", "%.80q is not an absolute path of less than 4096 bytes", p)
		return false
	}
	return true
}
