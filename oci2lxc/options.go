package oci2lxc

// CgroupMode is the cgroup layout of the host (cgroups(7)).
type CgroupMode string

// The three layouts that hosts have.
const (
	CgroupUnified CgroupMode = "unified" // v2 alone
	CgroupHybrid  CgroupMode = "hybrid"  // v1 controllers, v2 at /sys/fs/cgroup/unified
	CgroupLegacy  CgroupMode = "legacy"  // v1 alone
)

// Options is what the conversion must know beside the bundle: facts of the host
// and choices of the administrator.
type Options struct {
	// ID is the container's id in its Namespace of containerd.
	ID, Namespace string
	// Bundle is the absolute path of the bundle; relative paths of the
	// specification start there.
	Bundle string
	// Name is the name under which liblxc knows the container: the VMID when it is
	// registered with Proxmox VE, else ID.
	Name string
	// InitPath is the absolute path of pvelxc-init on the host, which also is the
	// mount hook. Letters, digits and /._+- only: it stands in a shell line.
	InitPath string
	// LogFile is where liblxc logs; empty for no log. LogLevel is liblxc's name of
	// the level ("WARN").
	LogFile, LogLevel string
	// CgroupMode is the host's layout, SystemdCgroup asks for systemd scopes.
	CgroupMode    CgroupMode
	SystemdCgroup bool
	// AppArmor and SELinux say that the host's kernel has them enabled.
	AppArmor, SELinux bool
	// LXCAppArmor says that liblxc was built with AppArmor and so knows lxc.apparmor.*.
	LXCAppArmor bool
	// Unprivileged puts the container into a user namespace with this map when the
	// specification has none; nil leaves the specification as it is.
	Unprivileged *IDMap
	// JoinedIDMap is the map of the user namespace that the specification joins by
	// path, as /proc/PID/uid_map and gid_map have it; nil when it joins none.
	JoinedIDMap *IDMap
	// MissingCapabilities are those, as bits, that the shim does not have itself. A
	// container without a user namespace cannot have them either.
	MissingCapabilities uint64
	// NoNewKeyring leaves the session keyring of the shim (runc's Options.NoNewKeyring).
	NoNewKeyring bool
	// Signals: HaltSignal is what a graceful stop by lxc-stop or pct sends, for
	// example "SIGTERM"; empty for SIGTERM.
	HaltSignal string
}
