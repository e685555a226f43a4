package oci2lxc

import (
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Plan is one container, ready to be built. See the package documentation for
// who carries out which part.
type Plan struct {
	// Config is the LXC config, in the order in which liblxc must read it.
	Config Config
	// Namespaces says, for every namespace type that Linux has, where the
	// container gets it from. Exactly one entry per type, in a fixed order.
	Namespaces []Namespace
	// IDMap is the mapping of the container's user namespace; nil when the
	// container stays in the host's.
	IDMap *IDMap
	// Rootfs is the root filesystem on the host.
	Rootfs Rootfs
	// Mounts are carried out in this order by the mount hook.
	Mounts []Mount
	// Devices are made after the mounts, below the container's root.
	Devices []Device
	// Links are made after the devices; an existing name is left alone.
	Links []Link
	// Setup is what PID 1 does to its namespaces while the container is created.
	Setup Setup
	// Process is the user's process.
	Process Process
	// Cgroup is where the container lives and what limits it.
	Cgroup Cgroup
	// Seccomp is the validated filter, nil when unconfined (config-linux.md#seccomp).
	Seccomp *specs.LinuxSeccomp
	// IntelRdt is carried out by the shim in /sys/fs/resctrl, nil when unset.
	IntelRdt *specs.LinuxIntelRdt
	// NetDevices are moved into the container's network namespace by the shim;
	// key = the name on the host.
	NetDevices map[string]specs.LinuxNetDevice
	// Hooks are validated (absolute paths, positive timeouts) and run by whoever
	// the specification says: shim, mount hook or PID 1.
	Hooks specs.Hooks
	// Annotations are the bundle's, for hook state and registration. They never
	// enter Config.
	Annotations map[string]string
	// Warnings are the fields that have no effect, each with its reason.
	Warnings []Warning
}

// Warning says that a field of the specification was ignored.
type Warning struct {
	// Field is the JSON path, for example "linux.resources.memory.swappiness".
	Field string
	// Reason says why, and what to use instead where there is something.
	Reason string
}

// NamespaceMode is where a namespace comes from.
type NamespaceMode string

// The three places that a namespace may come from.
const (
	// NamespaceNew is created with the container.
	NamespaceNew NamespaceMode = "new"
	// NamespaceHost is the shim's own: the type is absent from the specification.
	NamespaceHost NamespaceMode = "host"
	// NamespaceJoin is an existing one, at Namespace.Path.
	NamespaceJoin NamespaceMode = "join"
)

// Namespace is one namespace of the container (config-linux.md#namespaces).
type Namespace struct {
	Type specs.LinuxNamespaceType
	Mode NamespaceMode
	// Path is absolute, and set only with NamespaceJoin.
	Path string
}

// IDMap maps ids of the container to ids of the host.
type IDMap struct {
	UIDs []specs.LinuxIDMapping
	GIDs []specs.LinuxIDMapping
}

// Rootfs is the root filesystem as the shim finds it on the host.
type Rootfs struct {
	// Path is absolute.
	Path string
	// Readonly is applied by PID 1 as the last of all changes to mounts.
	Readonly bool
	// Propagation is the MS_* flag for "/" (with MS_REC where recursive); 0 means
	// the default, private.
	Propagation uint64
}

// MountKind is the way in which a mount comes about.
type MountKind string

// The kinds of Mount.
const (
	// MountTree is a detached copy of a host path, made by the shim in the host's
	// mount namespace and moved in by the mount hook.
	MountTree MountKind = "tree"
	// MountNew is a new filesystem made by the hook inside the container's
	// namespaces (proc, sysfs, tmpfs, devpts, mqueue …).
	MountNew MountKind = "new"
	// MountHostFS is a new filesystem made by the shim in the host's namespaces and
	// moved in (ext4, zfs, overlay …: not mountable in a user namespace).
	MountHostFS MountKind = "hostfs"
	// MountCgroup is the container's own cgroup tree, whatever version the host has.
	MountCgroup MountKind = "cgroup"
	// MountRemount changes the attributes of what is mounted at Destination already.
	MountRemount MountKind = "remount"
)

// FSParam is one fsconfig(2) parameter.
type FSParam struct {
	Key string
	// Value is set with FSCONFIG_SET_STRING; Flag true means FSCONFIG_SET_FLAG
	// and no value.
	Value string
	Flag  bool
}

// Mount is one entry of the specification's mounts. Where none is at /proc, the hook
// mounts one all the same, for PID 1, who unmounts it before the process starts.
type Mount struct {
	Kind MountKind
	// Index is the place in spec.Mounts, for error messages.
	Index int
	// Destination is a clean absolute path inside the container; symlinks in it are
	// resolved inside the container's root.
	Destination string
	// Source is the host path of a MountTree (absolute) or the source of a new
	// filesystem.
	Source string
	// Recursive says that a MountTree takes the source's submounts along (rbind).
	Recursive bool
	// FSType is set for MountNew and MountHostFS.
	FSType string
	// Params are for MountNew and MountHostFS.
	Params []FSParam
	// AttrSet and AttrClear are MOUNT_ATTR_* for the mount itself.
	AttrSet, AttrClear uint64
	// RecAttrSet and RecAttrClear are MOUNT_ATTR_* for the mount and all below it.
	RecAttrSet, RecAttrClear uint64
	// Propagation is MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE; never 0: the
	// default is MS_PRIVATE.
	Propagation uint64
	// PropagationRecursive says that Propagation holds for all mounts below (rprivate …).
	PropagationRecursive bool
	// IDMap maps the ids of the mount; IDMapRecursive all mounts below as well.
	// IDMap with no mappings means: as the container's user namespace.
	IDMap          *IDMap
	IDMapRecursive bool
	// TmpCopyUp copies what Destination held into a new tmpfs before it is mounted.
	TmpCopyUp bool
}

// Device is a device node (config-linux.md#devices), or a FIFO with type 'p'.
type Device struct {
	Path string
	// Type is 'c', 'b' or 'p' ('u' is given as 'c').
	Type         byte
	Major, Minor int64
	// Mode is the permission bits.
	Mode     uint32
	UID, GID uint32
}

// Link is a symbolic link.
type Link struct{ Path, Target string }

// Sysctl is one kernel parameter; Path is relative to /proc/sys.
type Sysctl struct{ Path, Value string }

// Setup is what PID 1 does before the container counts as created.
type Setup struct {
	// Hostname and Domainname are set when not empty.
	Hostname, Domainname string
	// Sysctls are sorted by path.
	Sysctls []Sysctl
	// MaskedPaths and ReadonlyPaths are absolute and clean.
	MaskedPaths, ReadonlyPaths []string
	// TimeOffsets is the text for /proc/self/timens_offsets ("monotonic 1 2\n…"),
	// empty when there is no new time namespace or no offset.
	TimeOffsets string
}

// Capabilities holds the five sets as bit masks: bit n is capability n of
// linux/capability.h.
type Capabilities struct {
	Bounding, Effective, Inheritable, Permitted, Ambient uint64
}

// Rlimit is a setrlimit(2) triple; Resource is the number of RLIMIT_*.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// Scheduler holds the fields of struct sched_attr (sched_setattr(2)); times are
// nanoseconds.
type Scheduler struct {
	Policy                    uint32
	Flags                     uint64
	Nice                      int32
	Priority                  uint32
	Runtime, Deadline, Period uint64
}

// MemoryPolicy holds the arguments of set_mempolicy(2): Mode includes the
// MPOL_F_* flags, Nodes are node numbers.
type MemoryPolicy struct {
	Mode  int
	Nodes []int
}

// Affinity is process.execCPUAffinity as CPU numbers: Initial before the process
// enters its cgroup, Final after.
type Affinity struct {
	Initial, Final []int
}

// Process is the user's process: the container's first one, or an exec's.
type Process struct {
	Terminal bool
	// Rows and Columns are of the terminal; 0 leaves the kernel's default.
	Rows, Columns uint16
	// Args has at least one entry.
	Args []string
	// Env is the environment, exactly (PID 1 adds HOME where it is missing).
	Env            []string
	Cwd            string
	UID, GID       uint32
	AdditionalGids []uint32
	// Umask is nil for the default 0022.
	Umask           *uint32
	Capabilities    Capabilities
	Rlimits         []Rlimit
	NoNewPrivileges bool
	// AppArmorProfile is empty for none or unconfined; SELinuxLabel is empty for none.
	AppArmorProfile, SELinuxLabel string
	// OOMScoreAdj is always set: the shim's own must not be inherited.
	OOMScoreAdj int
	Scheduler   *Scheduler
	// IOPriority is the argument of ioprio_set(2): class << 13 | priority.
	IOPriority *int
	// Personality is the argument of personality(2).
	Personality  *uint32
	MemoryPolicy *MemoryPolicy
	// Affinity is honoured for exec only (config.md: "execCPUAffinity").
	Affinity *Affinity
}

// Cgroup says where the container's cgroup is and what limits it. All paths are
// relative to the cgroup root (of every hierarchy on v1), without a leading '/'.
type Cgroup struct {
	// Systemd says that a scope is made over D-Bus: Slice and Scope are set then.
	Systemd      bool
	Slice, Scope string
	// Path is the container's leaf, which liblxc creates.
	Path string
	// Monitor is where liblxc puts the monitor, Pivot where it parks itself while it
	// removes Monitor. Both have fixed parents of our own.
	Monitor, Pivot string
	// Resources is validated, and never nil: fields that have no effect on this host
	// are left out. The device list is in order, the later rule wins; it ends with the
	// default devices that every container may use. A device without a rule is denied.
	Resources *specs.LinuxResources
}
