package program

import (
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// FDs receives the descriptors that the later operations use. It must be the
// first operation of a program that has any; the count is filled in by Program.
func (b *Builder) FDs() {
	b.begin(opFDS, "receive descriptors")
	b.fdsAt = len(b.buf)
	b.u32(0).end()
}

// Sync sends MsgSync with number and waits for MsgGo.
func (b *Builder) Sync(number uint32) {
	b.begin(opSync, "wait for the shim").u32(number).end()
}

// RunHook runs an OCI hook (config.md#posix-platform-hooks) with stdin as its
// input. A nil or zero timeout waits for ever.
func (b *Builder) RunHook(h specs.Hook, stdin []byte) {
	var seconds uint32
	if h.Timeout != nil && *h.Timeout > 0 {
		seconds = uint32(min(*h.Timeout, 1<<31-1))
	}
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	b.begin(opHook, "run hook %s", h.Path).str(h.Path).strs(args).strs(h.Env).bytes(stdin).u32(seconds).end()
}

// Root says below which directory of the host the later destinations lie.
func (b *Builder) Root(path string) {
	b.begin(opRoot, "open root %s", path).str(path).end()
}

// MountFS makes a new filesystem and mounts it on dest: attr is MOUNT_ATTR_*,
// flags are FSCopyUp and FSKeepMode.
func (b *Builder) MountFS(fstype, source, dest string, params []oci2lxc.FSParam, attr uint64, flags uint32) {
	b.begin(opMountFS, "mount %s on %s", fstype, dest).str(fstype).str(source).str(dest).params(params)
	b.u64(attr).u32(flags).end()
}

// Configure changes parameters of the filesystem that is mounted at dest, where no
// symlink may lead.
func (b *Builder) Configure(dest string, params []oci2lxc.FSParam) {
	b.begin(opConfigure, "change the filesystem at %s", dest).str(dest).params(params).end()
}

func (b *Builder) params(params []oci2lxc.FSParam) *Builder {
	b.u32(uint32(len(params)))
	for _, p := range params {
		b.flag(p.Flag).str(p.Key).str(p.Value)
	}
	return b
}

// MountTree mounts a detached tree on dest, making the mountpoint where it is
// missing. propagation is MS_* and set first (0 leaves the tree a peer of its
// source).
func (b *Builder) MountTree(tree *os.File, source, dest string, propagation uint64, recursive bool) {
	b.begin(opMountTree, "mount %s on %s", source, dest).fd(tree).str(dest).u64(propagation).flag(recursive).end()
}

// Attr changes MOUNT_ATTR_* and the propagation (0 leaves it) of the mount at dest.
func (b *Builder) Attr(dest string, set, clear, propagation uint64, recursive bool) {
	b.begin(opAttr, "change the mount on %s", dest).str(dest).u64(set).u64(clear).u64(propagation).flag(recursive).end()
}

// Mknod makes a device node or FIFO; mode holds the type (S_IFCHR …).
func (b *Builder) Mknod(path string, mode, major, minor, uid, gid uint32) {
	b.begin(opMknod, "make device %s", path).str(path).u32(mode).u32(major).u32(minor).u32(uid).u32(gid).end()
}

// Symlink makes a symbolic link; whatever has that name already is left alone.
func (b *Builder) Symlink(target, path string) {
	b.begin(opSymlink, "link %s to %s", path, target).str(target).str(path).end()
}

// Mkdir makes a directory and its parents, those with mode 0755.
func (b *Builder) Mkdir(path string, mode uint32) {
	b.begin(opMkdir, "make directory %s", path).str(path).u32(mode).end()
}

// UnshareCgroup enters a new cgroup namespace (cgroup_namespaces(7)).
func (b *Builder) UnshareCgroup() {
	b.begin(opUnshareCgroup, "create the cgroup namespace").end()
}

// Setns enters the namespace ns of the type CLONE_NEW* flag.
func (b *Builder) Setns(ns *os.File, flag uint32) {
	b.begin(opSetns, "join a namespace").fd(ns).u32(flag).end()
}

// Loopback brings up the device lo of the network namespace.
func (b *Builder) Loopback() {
	b.begin(opLoopback, "bring up lo").end()
}

// Hostname sets the host name of the UTS namespace.
func (b *Builder) Hostname(name string) {
	b.begin(opHostname, "set host name %s", name).str(name).end()
}

// Domainname sets the NIS domain name of the UTS namespace.
func (b *Builder) Domainname(name string) {
	b.begin(opDomainname, "set domain name %s", name).str(name).end()
}

// Sysctl writes a kernel parameter; path is relative to /proc/sys.
func (b *Builder) Sysctl(path, value string) {
	b.begin(opSysctl, "set sysctl %s to %q", path, value).str(path).str(value).end()
}

// Mask hides path: a file behind null, a detached tree of the host's /dev/null,
// a directory behind an empty filesystem. The same tree serves for all masks.
func (b *Builder) Mask(null *os.File, path string) {
	b.begin(opMask, "mask %s", path).fd(null).str(path).end()
}

// Readonly makes path and all mounts below it read-only.
func (b *Builder) Readonly(path string) {
	b.begin(opReadonly, "make %s read-only", path).str(path).end()
}

// Propagation is an exception of SetPropagation: Flag is MS_PRIVATE, MS_SLAVE,
// MS_SHARED or MS_UNBINDABLE, or 0 to leave the mount at Path as it is.
type Propagation struct {
	Path      string
	Flag      uint64
	Recursive bool
}

// SetPropagation gives every mount of the namespace the propagation flag, one by
// one, but the exceptions: of those, the last that matches a mount wins.
func (b *Builder) SetPropagation(flag uint64, except []Propagation) {
	b.begin(opPropagation, "set the propagation of mounts").u64(flag).u32(uint32(len(except)))
	for _, p := range except {
		b.str(p.Path).u64(p.Flag).flag(p.Recursive)
	}
	b.end()
}

// RootAttr changes MOUNT_ATTR_* and the propagation (0 leaves it) of "/" alone.
func (b *Builder) RootAttr(set, propagation uint64) {
	b.begin(opRootAttr, "change the root mount").u64(set).u64(propagation).end()
}

// TimeNamespace enters a new time namespace; offsets is the text for
// /proc/self/timens_offsets (time_namespaces(7)), empty for none.
func (b *Builder) TimeNamespace(offsets string) {
	b.begin(opTimens, "create the time namespace").str(offsets).end()
}

// Unmount detaches the mount at path; none there is fine.
func (b *Builder) Unmount(path string) {
	b.begin(opUnmount, "unmount %s", path).str(path).end()
}
