package zfs

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// Backend is what a snapshotter needs from OpenZFS. Every name is a full one: "pool/a/b" or "pool/a/b@snap".
// Every error is an *Error. All methods may be called in parallel.
type Backend interface {
	// Name is "ioctl", "cli" or "fake".
	Name() string

	// Create makes a file system; its parent must exist. Two txgs with properties, else one.
	Create(ctx context.Context, dataset string, props map[string]string) error

	// Clone makes a file system of a snapshot of the same pool, all properties inherited. One txg.
	Clone(ctx context.Context, snapshot, dataset string) error

	// Snapshot makes a snapshot with user properties (names with a colon), which are part of the same txg.
	Snapshot(ctx context.Context, snapshot string, user map[string]string) error

	// Destroy destroys file systems and snapshots of one pool in the given order, each on its own, in few
	// txgs. The result has an entry for each name that could not be destroyed; a name that does not exist
	// counts as destroyed. A mounted file system or snapshot is ErrBusy: nothing is unmounted. The error
	// is for a failure of the whole.
	Destroy(ctx context.Context, names []string) (map[string]error, error)

	// Rollback makes a file system what its snapshot is, which must be its newest: else ErrExist. One txg.
	Rollback(ctx context.Context, snapshot string) error

	// Stat reads one file system or snapshot. No txg.
	Stat(ctx context.Context, name string) (Info, error)

	// Children are the file systems directly below a file system. No txg.
	Children(ctx context.Context, dataset string) ([]Info, error)

	// Snapshots are those of one file system, oldest first. No txg.
	Snapshots(ctx context.Context, dataset string) ([]Info, error)

	// SetProperty sets a native or a user property. One txg.
	SetProperty(ctx context.Context, dataset, property, value string) error

	// Objects counts the inodes of a file system or snapshot, those in memory that no txg has written
	// yet left out. No txg.
	Objects(ctx context.Context, name string) (uint64, error)

	// Sync waits until everything written to the pool so far is on disk.
	Sync(ctx context.Context, pool string) error

	// Mount tells how the kernel mounts a file system, or a snapshot (read-only whatever readonly is).
	Mount(name string, readonly bool) Mount

	// Close lets go of the backend's files. A second call does nothing.
	Close() error
}

// Mount is one mount: type, source and options of mount(2) as containerd writes them.
type Mount struct {
	Type, Source string
	Options      []string
}

// Info is what Stat tells. The numbers are the properties of the same name of zfsprops(7), sizes in bytes.
type Info struct {
	// Name is the full name.
	Name string
	// GUID stays the same over rename, export, send and receive.
	GUID uint64
	// CreateTXG is the txg in which this was made: an order of creation within a pool.
	CreateTXG uint64
	// Origin is the snapshot that a clone was made of, or "".
	Origin string
	// Used is the space of this and all below it; UsedByDataset that of this alone. Both of a file system.
	Used, UsedByDataset uint64
	// Referenced is the space reachable from here, shared or not.
	Referenced uint64
	// Written is the space written since the previous snapshot.
	Written uint64
	// Available is what may still be written.
	Available uint64
	// Refquota limits Referenced; 0 is no limit.
	Refquota uint64
	// Mountpoint is the property: a path, "legacy" or "none".
	Mountpoint string
	// User holds the user properties, inherited ones too.
	User map[string]string
	// Local holds those user properties that are set on this very object.
	Local map[string]string
}

// MaxNameLen is ZFS_MAX_DATASET_NAME_LEN less its NUL, for a whole name with its snapshot.
const MaxNameLen = 255

// component is zfs_namecheck's: no '%', which only ZFS itself may use.
var component = regexp.MustCompile(`^[A-Za-z0-9_.:-]( ?[A-Za-z0-9_.: -]*[A-Za-z0-9_.:-])?$`)

// CheckName says whether a name is a full dataset or snapshot name as zfs(8) has it. Backends call it before
// they pass a name on.
func CheckName(name string) error {
	if len(name) > MaxNameLen {
		return &Error{Op: "check name", Name: name[:32] + "…", Kind: ErrInvalid, Detail: fmt.Sprintf("longer than %d bytes", MaxNameLen)}
	}
	dataset, snap, has := strings.Cut(name, "@")
	parts := strings.Split(dataset, "/")
	if has {
		parts = append(parts, snap)
	}
	for i, p := range parts {
		if p == "." || p == ".." || !component.MatchString(p) || i == 0 && (p[0] < 'A' || p[0] > 'Z') && (p[0] < 'a' || p[0] > 'z') {
			return &Error{Op: "check name", Name: name, Kind: ErrInvalid, Detail: fmt.Sprintf("%q is no part of a ZFS name", p)}
		}
	}
	return nil
}

// Pool is the first part of a name.
func Pool(name string) string {
	pool, _, _ := strings.Cut(name, "/")
	pool, _, _ = strings.Cut(pool, "@")
	return pool
}

// Dataset is the file system of a snapshot's name, or the name itself.
func Dataset(name string) string {
	dataset, _, _ := strings.Cut(name, "@")
	return dataset
}

// IsSnapshot says whether a name is a snapshot's.
func IsSnapshot(name string) bool { return strings.Contains(name, "@") }

// Parent is the name of the file system above a file system; "" above a pool's own.
func Parent(dataset string) string {
	i := strings.LastIndexByte(dataset, '/')
	if i < 0 {
		return ""
	}
	return dataset[:i]
}
