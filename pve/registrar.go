package pve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Policy is what becomes of a container while /etc/pve cannot be written.
type Policy string

const (
	// Degrade starts it unregistered.
	Degrade Policy = "degrade"
	// Fail refuses it.
	Fail Policy = "fail"
)

// Where Proxmox VE keeps things, and where we do.
const (
	DefaultRoot     = "/etc/pve"
	DefaultLocal    = "/var/lib/pvelxc/pve"
	DefaultLXCPath  = "/var/lib/lxc"
	DefaultLockDir  = "/run/lock/lxc"
	DefaultStateDir = "/var/lib/pvelxc/registration"
)

// Registrar registers the containers of one node. Fields that are left zero get
// their defaults from New; none may change afterwards. It is safe for concurrent
// use, by many processes too.
type Registrar struct {
	// Root is where pmxcfs is mounted. Default: DefaultRoot where it exists, else
	// DefaultLocal.
	Root string
	// Local says that Root is a plain directory, which is made where it is missing.
	// New sets it for DefaultLocal and for any Root but DefaultRoot where no cluster
	// file system is mounted.
	Local bool
	// Node is this node's name. Default: the target of Root's link local, else the
	// host's name.
	Node string
	// LXCPath is the lxcpath under whose <vmid> directories PVE looks for a container.
	LXCPath string
	// LockDir holds PVE's locks, one for each VMID.
	LockDir string
	// StateDir holds this node's round-robin position and the intents of
	// reservations in progress. It should survive a reboot.
	StateDir string
	// Range is the VMIDs to give.
	Range Range
	// Tags are given to every container, after its own.
	Tags []string
	// OnNoQuorum is Degrade by default.
	OnNoQuorum Policy
	// LockTimeout bounds the wait for PVE's lock: 10 s, as PVE itself waits.
	LockTimeout time.Duration
	// RetryFor bounds the wait for pmxcfs to answer or to come back from a restart: 5 s.
	// Of all processes of the node with the same StateDir one waits; the others know.
	RetryFor time.Duration
	// Grace is how old a conf without a task must be to be removed: 2 min. It covers
	// the time between a reservation and the record of its task.
	Grace time.Duration
	// HostCPUs is the list of CPUs for a container that is pinned to none. Default:
	// those that are online.
	HostCPUs string
	// SocketTable lists the Unix sockets; a container runs while its command socket
	// is among them. Default: /proc/net/unix.
	SocketTable string
	// Observe, where set, is told of every operation and its duration. It must be
	// safe for concurrent use and must not block.
	Observe func(op string, took time.Duration, err error)

	host  host
	store store
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?$`)

// New completes r, checks it, and makes the directories that are ours. It fails
// with ErrInvalidArgument for a field that makes no sense, and with
// ErrUnreachable where Root is there but the cluster file system is not.
func New(r Registrar) (*Registrar, error) {
	if err := r.complete(); err != nil {
		return nil, err
	}
	if err := makeDirs(r.StateDir, r.intents(), r.LockDir); err != nil {
		return nil, err
	}
	if r.Local {
		if err := r.makeLocal(); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

// Reader is New for who only looks: List, Find and Render. It makes nothing.
func Reader(r Registrar) (*Registrar, error) {
	if err := r.complete(); err != nil {
		return nil, err
	}
	return &r, nil
}

// complete fills in what was left zero and checks all.
func (r *Registrar) complete() error {
	fill(&r.LXCPath, DefaultLXCPath)
	fill(&r.LockDir, DefaultLockDir)
	fill(&r.StateDir, DefaultStateDir)
	fill(&r.SocketTable, "/proc/net/unix")
	fill(&r.Range, DefaultRange)
	fill(&r.OnNoQuorum, Degrade)
	fill(&r.LockTimeout, 10*time.Second)
	fill(&r.RetryFor, 5*time.Second)
	fill(&r.Grace, 2*time.Minute)
	if r.Root == "" {
		r.Root = DefaultRoot
		// An empty /etc/pve is a PVE node whose pmxcfs is down; only a machine
		// without the directory is no PVE node.
		if _, err := os.Lstat(r.Root); errors.Is(err, os.ErrNotExist) {
			r.Root, r.Local = DefaultLocal, true
		}
	}
	r.Local = r.Local || r.Root != DefaultRoot && !isFUSE(r.Root)
	if err := r.check(); err != nil {
		return err
	}
	if err := r.readHost(); err != nil {
		return err
	}
	r.store = store{root: r.Root, local: r.Local}
	if err := r.findNode(); err != nil {
		return err
	}
	r.store.node = r.Node
	return nil
}

// makeLocal makes in a plain directory what pmxcfs has by itself.
func (r *Registrar) makeLocal() error {
	if err := makeDirs(r.store.dir(r.Node)); err != nil {
		return err
	}
	for name, target := range map[string]string{"local": filepath.Join("nodes", r.Node), "lxc": "local/lxc"} {
		if err := os.Symlink(target, filepath.Join(r.Root, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make registration directory: %w", err)
		}
	}
	return nil
}

func makeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make registration directory: %w", err)
		}
	}
	return nil
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// isFUSE asks the kernel alone: a mount whose daemon hangs or is gone is one.
func isFUSE(path string) bool {
	var st unix.Statx_t
	if err := ignoreEINTR(func() error { return unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, 0, &st) }); err != nil {
		return isGone(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	device := fmt.Sprintf(" %d:%d ", st.Dev_major, st.Dev_minor)
	for l := range strings.Lines(string(mounts)) {
		if what, kind, ok := strings.Cut(l, " - "); ok && strings.Contains(what, device) {
			return strings.HasPrefix(kind, "fuse")
		}
	}
	return false
}

// findNode takes PVE's word for the node's name before the host's: a renamed host
// keeps its directory in the cluster until it is moved.
func (r *Registrar) findNode() error {
	if r.Node != "" {
		return nil
	}
	names := make(chan string, 1)
	err := r.reach(context.Background(), "find this node in "+r.Root, 0, func(ctx context.Context) error {
		return r.store.retry(ctx, func() error {
			target, err := os.Readlink(filepath.Join(r.Root, "local"))
			if err == nil {
				names <- filepath.Base(target)
			}
			return err
		})
	})
	switch {
	case err == nil:
		r.Node = <-names
	case !r.Local:
		return err
	default:
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find this node's name: %w", err)
		}
		if r.Node, _, _ = strings.Cut(name, "."); !nodeName.MatchString(r.Node) {
			r.Node = "localhost"
		}
	}
	return r.check()
}

func (r *Registrar) check() error {
	if r.Node != "" && !nodeName.MatchString(r.Node) {
		return fmt.Errorf("node name %q is not a host name: %w", r.Node, errdefs.ErrInvalidArgument)
	}
	if err := r.Range.check(); err != nil {
		return err
	}
	if r.OnNoQuorum != Degrade && r.OnNoQuorum != Fail {
		return fmt.Errorf("on_no_quorum %q is neither %q nor %q: %w", r.OnNoQuorum, Degrade, Fail, errdefs.ErrInvalidArgument)
	}
	for _, dir := range []string{r.Root, r.LXCPath, r.LockDir, r.StateDir} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return fmt.Errorf("directory %q is not absolute and clean: %w", dir, errdefs.ErrInvalidArgument)
		}
	}
	for _, tag := range r.Tags {
		if Tag(tag) != tag || tag == "" {
			return fmt.Errorf("tag %q has other characters than a-z, 0-9 and inner _-+.: %w", tag, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (r *Registrar) readHost() error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("read the host's memory: %w", err)
	}
	if r.HostCPUs == "" {
		const online = "/sys/devices/system/cpu/online"
		data, err := os.ReadFile(online)
		if err != nil {
			return fmt.Errorf("read the host's CPUs: %w", err)
		}
		r.HostCPUs = strings.TrimSpace(string(data))
	}
	if countCPUs(r.HostCPUs) == 0 {
		return fmt.Errorf("CPU list %q is not like 0-3,8: %w", r.HostCPUs, errdefs.ErrInvalidArgument)
	}
	unit := int64(info.Unit)
	r.host = host{memory: int64(info.Totalram) * unit, swap: int64(info.Totalswap) * unit, cpus: r.HostCPUs}
	return nil
}

// owner names a container of this node.
func (r *Registrar) owner(namespace, id string) Owner {
	return Owner{Node: r.Node, Namespace: namespace, ID: id}
}

// observe reports an operation when it ends: defer r.observe("reserve", &err)().
func (r *Registrar) observe(op string, err *error) func() {
	start := time.Now()
	return func() {
		if r.Observe != nil {
			r.Observe(op, time.Since(start), *err)
		}
	}
}
