package oci2lxc

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// propagations are the names of mount(8) for the MS_* of mount_namespaces(7).
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// attrOption is a mount option that changes one attribute of a mount
// (mount_setattr(2)).
type attrOption struct {
	attr  uint64
	clear bool
}

// attrOptions are the attributes that are flags. Each also exists with an "r" in
// front, for the whole tree. Access times are no flags: see atimeOptions.
var attrOptions = map[string]attrOption{
	"ro": {unix.MOUNT_ATTR_RDONLY, false}, "rw": {unix.MOUNT_ATTR_RDONLY, true},
	"nosuid": {unix.MOUNT_ATTR_NOSUID, false}, "suid": {unix.MOUNT_ATTR_NOSUID, true},
	"nodev": {unix.MOUNT_ATTR_NODEV, false}, "dev": {unix.MOUNT_ATTR_NODEV, true},
	"noexec": {unix.MOUNT_ATTR_NOEXEC, false}, "exec": {unix.MOUNT_ATTR_NOEXEC, true},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, false}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, true},
	"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, false}, "symfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, true},
}

// atimeOptions choose one of the three values of MOUNT_ATTR__ATIME; "clear" goes back
// to the kernel's default, relatime, from that value alone.
var atimeOptions = map[string]attrOption{
	"noatime": {unix.MOUNT_ATTR_NOATIME, false}, "atime": {unix.MOUNT_ATTR_NOATIME, true},
	"relatime": {unix.MOUNT_ATTR_RELATIME, false}, "norelatime": {unix.MOUNT_ATTR_RELATIME, true},
	"strictatime": {unix.MOUNT_ATTR_STRICTATIME, false}, "nostrictatime": {unix.MOUNT_ATTR_STRICTATIME, true},
}

// superOptions are flags of the filesystem, not of the mount, with the words that
// fsconfig(2) knows for them.
var superOptions = map[string]bool{
	"sync": true, "async": true, "dirsync": true, "lazytime": true, "nolazytime": true, "mand": true, "nomand": true,
}

// inertOptions are accepted and do nothing, each with its reason.
var inertOptions = map[string]string{
	"silent":     "the new mount interface of the kernel has no such flag",
	"loud":       "the new mount interface of the kernel has no such flag",
	"iversion":   "filesystems decide this themselves since kernel 4.16",
	"noiversion": "filesystems decide this themselves since kernel 4.16",
	"auto":       "it is for /etc/fstab",
	"noauto":     "it is for /etc/fstab",
	"nofail":     "it is for /etc/fstab: a mount that fails always fails the container",
	"_netdev":    "it is for /etc/fstab",
}

// attrs are the changes to one scope: the mount, or all of its tree.
type attrs struct {
	set, clear uint64
	atime      bool // an access time was chosen
}

func (a *attrs) flag(o attrOption) {
	if o.clear {
		a.set, a.clear = a.set&^o.attr, a.clear|o.attr
	} else {
		a.set, a.clear = a.set|o.attr, a.clear&^o.attr
	}
}

func (a *attrs) accessTime(o attrOption) {
	current := a.set & unix.MOUNT_ATTR__ATIME
	switch {
	case !o.clear:
		a.set = a.set&^unix.MOUNT_ATTR__ATIME | o.attr
	case a.atime && current != o.attr:
		return // "noatime,nostrictatime" stays noatime
	default:
		a.set &^= unix.MOUNT_ATTR__ATIME
	}
	// mount_setattr wants the whole field cleared whenever it is written.
	a.clear |= unix.MOUNT_ATTR__ATIME
	a.atime = true
}

// mountOptions is what the options of one mount say.
type mountOptions struct {
	bind, recursive, remount, copyUp bool
	idmap, idmapRecursive            bool
	own, tree                        attrs
	propagation                      uint64 // with MS_REC; 0 when not given
	super                            []string
	data                             []FSParam
	ignored                          []Warning // Field is the option
}

// parseMountOptions reads the options of config.md, "Linux mount options", and those
// that mount(8) knows beside them. What it does not know is for the filesystem. Where
// options contradict each other the last one wins.
func parseMountOptions(options []string) mountOptions {
	var m mountOptions
	for _, o := range options {
		for _, part := range splitOption(o) {
			m.add(part)
		}
	}
	return m
}

func (m *mountOptions) add(o string) {
	base, tree := o, false
	if r, ok := strings.CutPrefix(o, "r"); ok && isAttr(r) {
		base, tree = r, true
	}
	scope := &m.own
	if tree {
		scope = &m.tree
	}
	if a, ok := attrOptions[base]; ok {
		scope.flag(a)
		return
	}
	if a, ok := atimeOptions[base]; ok {
		scope.accessTime(a)
		return
	}
	if p, ok := propagations[o]; ok {
		if m.propagation != 0 && m.propagation != p {
			m.ignore(o, "it replaces another propagation given before it")
		}
		m.propagation = p
		return
	}
	if superOptions[o] {
		m.super = append(m.super, o)
		return
	}
	if reason, ok := inertOptions[o]; ok {
		m.ignore(o, reason)
		return
	}
	m.addSpecial(o)
}

func (m *mountOptions) addSpecial(o string) {
	switch {
	case o == "" || o == "defaults":
	case o == "bind":
		m.bind = true
	case o == "rbind":
		m.bind, m.recursive = true, true
	case o == "remount":
		m.remount = true
	case o == "tmpcopyup":
		m.copyUp = true
	case o == "idmap":
		m.idmap = true
	case o == "ridmap":
		m.idmap, m.idmapRecursive = true, true
	case strings.HasPrefix(o, "x-"), strings.HasPrefix(o, "X-"), strings.HasPrefix(o, "comment="):
		m.ignore(o, "it is a comment for user-space programs")
	default:
		m.data = append(m.data, fsParam(o))
	}
}

func (m *mountOptions) ignore(option, reason string) {
	m.ignored = append(m.ignored, Warning{Field: fmt.Sprintf("%.80q", option), Reason: reason})
}

func isAttr(o string) bool {
	_, flag := attrOptions[o]
	_, atime := atimeOptions[o]
	return flag || atime
}

// splitOption splits at commas, as the kernel would once all options are joined to one
// text: not at "\,", which overlay uses inside a path, and not between double quotes,
// which SELinux contexts with several categories have.
func splitOption(o string) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(o); i++ {
		switch {
		case o[i] == '\\':
			i++
		case o[i] == '"':
			quoted = !quoted
		case o[i] == ',' && !quoted:
			parts = append(parts, o[start:i])
			start = i + 1
		}
	}
	return append(parts, o[start:])
}

// contextOptions are the mount options of SELinux (mount(8)), whose value may be quoted.
var contextOptions = []string{"context", "fscontext", "defcontext", "rootcontext"}

// isContext says whether a parameter is one of SELinux's.
func isContext(key string) bool {
	for _, k := range contextOptions {
		if key == k {
			return true
		}
	}
	return false
}

// fsParam makes a parameter for fsconfig(2), which takes key and value apart and no
// quotes.
func fsParam(o string) FSParam {
	key, value, ok := strings.Cut(o, "=")
	if !ok || key == "" {
		return FSParam{Key: o, Flag: true}
	}
	if isContext(key) && len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	return FSParam{Key: key, Value: value}
}
