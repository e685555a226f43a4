package pvetest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// PCT is a container's configuration as PVE's own tools read it: a model of
// PVE::LXC::Config's parse_pct_config and write_pct_config, of the types in its
// schema, and of the part of PVE::LXC::vmstatus that dies on a malformed rootfs.
// It is deliberately independent of package conf, which is tested against it.
type PCT struct {
	Keys        map[string]string
	Raw         [][2]string
	Description string
	Pending     *PCT
	Snapshots   map[string]*PCT
	// Warnings are what PVE would print to its log.
	Warnings []string
}

var (
	pctBlank       = regexp.MustCompile(`^[\s\v]*$`)
	pctPending     = regexp.MustCompile(`(?i)^\[pve:pending\][\s\v]*$`)
	pctSection     = regexp.MustCompile(`(?i)^\[([a-z][a-z0-9_\-]+)\][\s\v]*$`)
	pctComment     = regexp.MustCompile(`^#(.*)$`)
	pctRaw         = regexp.MustCompile(`^(lxc\.[a-z0-9_\-.]+)(?::|[\s\v]*=)[\s\v]*(.*?)[\s\v]*$`)
	pctDescription = regexp.MustCompile(`^description:[\s\v]*(.*[^\s\v])[\s\v]*$`)
	pctSnapState   = regexp.MustCompile(`snapstate:[\s\v]*(prepare|delete)[\s\v]*$`)
	pctDelete      = regexp.MustCompile(`^delete:[\s\v]*(.*[^\s\v])[\s\v]*$`)
	pctKey         = regexp.MustCompile(`^([a-z][a-z_]*[0-9]*):[\s\v]*([^\s\v].*)[\s\v]*$`)
	pctRawAllowed  = regexp.MustCompile(`^lxc\.(?:cgroup2?\.|prlimit\.|net\.|apparmor\.(?:profile|allow_incomplete|allow_nesting|raw)$|` +
		`signal\.(?:halt|reboot|stop)$|group$|idmap$|mount\.(?:entry|auto|fstab)$|cap\.(?:drop|keep)$|hook\.|log\.(?:level|file)$|environment$|` +
		`init\.cmd$|uts\.name$|pty\.max$|tty\.max$|autodev$|include$|seccomp\.profile$|console\.(?:logfile|path)$)`)
)

func newPCT() *PCT { return &PCT{Keys: map[string]string{}} }

// ParsePCT reads a configuration as PVE does. It never fails: PVE warns and goes on.
func ParsePCT(raw string) *PCT {
	top := newPCT()
	top.Snapshots = map[string]*PCT{}
	at, inPending := top, false
	warn := func(format string, args ...any) { top.Warnings = append(top.Warnings, fmt.Sprintf(format, args...)) }
	for l := range strings.SplitSeq(raw, "\n") {
		if pctBlank.MatchString(l) {
			continue
		}
		if pctPending.MatchString(l) {
			at, inPending = newPCT(), true
			top.Pending = at
		} else if m := pctSection.FindStringSubmatch(l); m != nil {
			at, inPending = newPCT(), false
			top.Snapshots[m[1]] = at
		} else if m := pctComment.FindStringSubmatch(l); m != nil {
			at.Description += pctDecode(m[1]) + "\n"
		} else if m := pctRaw.FindStringSubmatch(l); m != nil {
			if !pctRawAllowed.MatchString(m[1]) {
				warn("unable to parse config: %s", l)
				continue
			}
			at.Raw = append(at.Raw, [2]string{m[1], m[2]})
		} else if m := pctDescription.FindStringSubmatch(l); m != nil {
			at.Description += pctDecode(m[1])
		} else if m := pctSnapState.FindStringSubmatch(l); m != nil {
			if at != top {
				at.Keys["snapstate"] = m[1]
			}
		} else if m := pctDelete.FindStringSubmatch(l); m != nil {
			if inPending {
				at.Keys["delete"] = m[1]
			} else {
				warn("property 'delete' is only allowed in [pve:pending]")
			}
		} else if m := pctKey.FindStringSubmatch(l); m != nil {
			value, err := pctCheckType(m[1], m[2])
			if err != nil {
				warn("unable to parse value of '%s' - %v", m[1], err)
			}
			at.Keys[m[1]] = value
		} else {
			warn("unable to parse config: %s", l)
		}
	}
	return top
}

// Write returns the file that PVE writes for the configuration.
func (p *PCT) Write() string {
	var b strings.Builder
	p.writeSection(&b)
	if p.Pending != nil && (len(p.Pending.Keys) > 0 || len(p.Pending.Raw) > 0 || p.Pending.Description != "") {
		b.WriteString("\n[pve:pending]\n")
		p.Pending.writeSection(&b)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Snapshots)) {
		b.WriteString("\n[" + name + "]\n")
		p.Snapshots[name].writeSection(&b)
	}
	return b.String()
}

func (p *PCT) writeSection(b *strings.Builder) {
	if text := strings.TrimRight(p.Description, "\n"); text != "" {
		for l := range strings.SplitSeq(text, "\n") {
			b.WriteString("#")
			for _, c := range []byte(l) {
				if c < 0x20 || c > 0x7e || c == '%' || c == ':' {
					fmt.Fprintf(b, "%%%02X", c)
				} else {
					b.WriteByte(c)
				}
			}
			b.WriteString("\n")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.Keys)) {
		fmt.Fprintf(b, "%s: %s\n", k, p.Keys[k])
	}
	for _, kv := range p.Raw {
		fmt.Fprintf(b, "%s: %s\n", kv[0], kv[1])
	}
}

func pctDecode(s string) string {
	return pctEscape.ReplaceAllStringFunc(s, func(m string) string {
		n, _ := strconv.ParseUint(m[1:], 16, 8)
		return string([]byte{byte(n)})
	})
}

// PCTStatus is a row of `pct list` and of the UI for a stopped container.
type PCTStatus struct {
	Name, Lock, Tags                 string
	MaxMemory, MaxSwap, MaxDisk, CPU int64
}

// Status is what vmstatus computes of a stopped container. An error is fatal in
// PVE: not this container alone disappears, but every one of the node.
func (p *PCT) Status() (PCTStatus, error) {
	s := PCTStatus{Name: p.Keys["hostname"], Lock: p.Keys["lock"], Tags: p.Keys["tags"], MaxDisk: 4 << 30}
	number := func(key string, otherwise int64) int64 {
		if n, err := strconv.ParseInt(p.Keys[key], 10, 64); err == nil {
			return n
		}
		return otherwise
	}
	s.MaxMemory, s.MaxSwap, s.CPU = number("memory", 512)<<20, number("swap", 0)<<20, number("cores", 0)
	if v, ok := p.Keys["rootfs"]; ok {
		size, err := pctMountPoint(v)
		if err != nil {
			return PCTStatus{}, err
		}
		if size > 0 {
			s.MaxDisk = size
		}
	}
	return s, nil
}

// pctMountPoint is parse_property_string on the schema of rootfs.
func pctMountPoint(data string) (size int64, err error) {
	seen := map[string]string{}
	for part := range strings.SplitSeq(data, ",") {
		if pctBlank.MatchString(part) {
			continue
		}
		key, value, named := strings.Cut(part, "=")
		if !named {
			key, value = "volume", part
		} else if key == "" || value == "" {
			return 0, fmt.Errorf("missing key in comma-separated list property")
		}
		if _, dup := seen[key]; dup {
			return 0, fmt.Errorf("duplicate key in comma-separated list property: %s", key)
		}
		switch key {
		case "volume", "size", "acl", "mountoptions", "ro", "quota", "replicate", "shared":
		default:
			return 0, fmt.Errorf("invalid format - unknown key in comma-separated list property: %s", key)
		}
		seen[key] = value
	}
	volume, ok := seen["volume"]
	if !ok {
		return 0, fmt.Errorf("property is missing and it is not optional: volume")
	}
	if pctDots.MatchString(volume) {
		return 0, fmt.Errorf("%s contains illegal character sequences", volume)
	}
	text, ok := seen["size"]
	if !ok {
		return 0, nil
	}
	m := pctSize.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("invalid size: %s", text)
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, err
	}
	shift := 0
	if m[2] != "" {
		shift = 10 * (1 + strings.Index("KMGT", m[2]))
	}
	return int64(f * float64(int64(1)<<shift)), nil
}

var (
	pctEscape   = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	pctDots     = regexp.MustCompile(`/\.\.?(?:/|$)|^\.\./`)
	pctSize     = regexp.MustCompile(`^(\d+(?:\.\d+)?)([KMGT])?$`)
	pctNumbered = regexp.MustCompile(`^(?:mp|net|dev|unused)\d+$`)
	pctInteger  = regexp.MustCompile(`^\d+$`)
	pctNumber   = regexp.MustCompile(`^\d+(?:\.\d+)?$`)
	pctLabel    = `[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?`
	pctDNSName  = regexp.MustCompile(`^(?:` + pctLabel + `\.)*` + pctLabel + `$`)
	pctTag      = regexp.MustCompile(`(?i)^[a-z0-9_][a-z0-9_\-+.]*$`)
	pctArches   = []string{"amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"}
	pctLocks    = []string{"backup", "create", "destroyed", "disk", "fstrim", "migrate", "mounted", "rollback", "snapshot", "snapshot-delete"}
)

// pctCheckType is check_type, with the ranges and enumerations of the schema.
func pctCheckType(key, value string) (string, error) {
	between := func(least, most int64) (string, error) {
		n, err := strconv.ParseInt(value, 10, 64)
		if !pctInteger.MatchString(value) || err != nil || n < least || n > most {
			return value, fmt.Errorf("type check ('integer') failed - got '%s'", value)
		}
		return strconv.FormatInt(n, 10), nil
	}
	among := func(values ...string) (string, error) {
		if !slices.Contains(values, value) {
			return value, fmt.Errorf("value '%s' does not have a value in the enumeration", value)
		}
		return value, nil
	}
	switch key {
	case "onboot", "template", "console", "protection", "unprivileged", "debug":
		switch strings.ToLower(value) {
		case "1", "on", "yes", "true":
			return "1", nil
		case "0", "off", "no", "false":
			return "0", nil
		}
		return value, fmt.Errorf("type check ('boolean') failed - got '%s'", value)
	case "memory":
		return between(16, 1<<62)
	case "swap", "snaptime":
		return between(0, 1<<62)
	case "tty":
		return between(0, 6)
	case "cores":
		return between(1, 8192)
	case "cpuunits":
		return between(0, 500000)
	case "cpulimit":
		if f, err := strconv.ParseFloat(value, 64); err != nil || !pctNumber.MatchString(value) || f > 8192 {
			return value, fmt.Errorf("type check ('number') failed - got '%s'", value)
		}
		return value, nil
	case "hostname":
		if len(value) > 255 || !pctDNSName.MatchString(value) {
			return value, fmt.Errorf("value does not look like a valid DNS name")
		}
		return value, nil
	case "tags":
		for tag := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(",; \t\x00", r) }) {
			if !pctTag.MatchString(tag) {
				return value, fmt.Errorf("invalid characters in tag")
			}
		}
		return value, nil
	case "lock":
		return among(pctLocks...)
	case "arch":
		return among(pctArches...)
	case "cmode":
		return among("shell", "console", "tty")
	case "ostype":
		return among("debian", "devuan", "ubuntu", "centos", "fedora", "opensuse", "archlinux", "alpine", "gentoo", "nixos", "unmanaged")
	case "rootfs":
		_, err := pctMountPoint(value)
		return value, err
	case "description", "features", "hookscript", "nameserver", "searchdomain", "startup", "parent", "timezone", "env", "entrypoint":
		return value, nil
	}
	if pctNumbered.MatchString(key) {
		return value, nil
	}
	return value, fmt.Errorf("unknown setting '%s'", key)
}
