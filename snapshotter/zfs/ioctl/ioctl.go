// Package ioctl speaks to OpenZFS through /dev/zfs, in Go alone: what libzfs_core does, for the few requests
// that a snapshotter makes. No process is started and nothing is listed before or after an operation.
//
// The layout of struct zfs_cmd and the numbers of the requests are the same from OpenZFS 2.2.0 to the 2.3 series;
// New refuses other versions, for which the cli backend is there.
package ioctl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/nvlist"
)

const (
	device      = "/dev/zfs"
	versionFile = "/sys/module/zfs/version"
)

// Backend is a zfs.Backend on /dev/zfs.
type Backend struct {
	mu  sync.Mutex
	dev *os.File // guarded by mu; nil when closed

	mounted zfs.Mounted
}

var _ zfs.Backend = (*Backend)(nil)

// New opens /dev/zfs when the loaded module is one whose interface is known; else the error is
// zfs.ErrUnsupported and says why.
func New() (*Backend, error) {
	version, err := os.ReadFile(versionFile)
	if err != nil {
		return nil, &zfs.Error{Op: "open", Name: device, Kind: zfs.ErrUnsupported, Detail: "module zfs is not loaded: " + err.Error()}
	}
	if err := Supported(strings.TrimSpace(string(version))); err != nil {
		return nil, err
	}
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		return nil, zfs.FromErrno("open", device, errno)
	}
	return &Backend{dev: dev}, nil
}

// Supported says whether the interface of a module's version ("2.3.9-1") is known here.
func Supported(version string) error {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) == 3 && parts[0] == "2" {
		if minor, err := strconv.Atoi(parts[1]); err == nil && (minor == 2 || minor == 3) {
			return nil
		}
	}
	return &zfs.Error{Op: "open", Name: device, Kind: zfs.ErrUnsupported,
		Detail: fmt.Sprintf("module version %q, known are 2.2 and 2.3 (hint: backend = \"cli\")", version)}
}

// Name is "ioctl".
func (b *Backend) Name() string { return "ioctl" }

// Close closes /dev/zfs. Operations under way end first.
func (b *Backend) Close() error {
	b.mounted.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dev == nil {
		return nil
	}
	err := b.dev.Close()
	b.dev = nil
	return err
}

// typeZFS is DMU_OST_ZFS: a file system.
const typeZFS = 2

// Create implements zfs.Backend.
func (b *Backend) Create(ctx context.Context, dataset string, props map[string]string) error {
	in := nvlist.List{"type": int32(typeZFS)}
	if len(props) > 0 {
		packed, err := pack("create", dataset, props)
		if err != nil {
			return err
		}
		in["props"] = packed
	}
	return b.run(ctx, iocCreate, &command{op: "create", name: dataset, in: in})
}

// Clone implements zfs.Backend.
func (b *Backend) Clone(ctx context.Context, snapshot, dataset string) error {
	return b.run(ctx, iocClone, &command{op: "clone", name: dataset, in: nvlist.List{"origin": snapshot}})
}

// Snapshot implements zfs.Backend.
func (b *Backend) Snapshot(ctx context.Context, snapshot string, user map[string]string) error {
	if err := zfs.CheckName(snapshot); err != nil {
		return err
	}
	in := nvlist.List{"snaps": nvlist.List{snapshot: nvlist.Flag{}}}
	if len(user) > 0 {
		props := nvlist.List{}
		for k, v := range user {
			props[k] = v
		}
		in["props"] = props
	}
	c := &command{op: "snapshot", name: zfs.Pool(snapshot), in: in}
	err := b.run(ctx, iocSnapshot, c)
	if errno, ok := c.out[snapshot].(int32); ok && err != nil {
		return zfs.FromErrno("snapshot", snapshot, syscall.Errno(errno))
	}
	return rename(err, snapshot)
}

// rename makes an error one of the object instead of the pool that the request is addressed to.
func rename(err error, name string) error {
	var e *zfs.Error
	if !errors.As(err, &e) {
		return err
	}
	c := *e
	c.Name = name
	return &c
}

// Destroy implements zfs.Backend with channel programs.
func (b *Backend) Destroy(ctx context.Context, names []string) (map[string]error, error) {
	failed := map[string]error{}
	for batch := range slices.Chunk(names, zfs.DestroyBatch) {
		for _, name := range batch {
			if err := zfs.CheckName(name); err != nil {
				return nil, err
			}
		}
		c := &command{op: "destroy", name: zfs.Pool(batch[0]), in: nvlist.List{
			"program":    zfs.DestroyProgram,
			"arg":        nvlist.List{"argv": batch},
			"sync":       true,
			"instrlimit": uint64(10_000_000),
			"memlimit":   uint64(10 << 20),
		}}
		if err := b.run(ctx, iocChannelProgram, c); err != nil {
			if text, ok := c.out["error"].(string); ok {
				return nil, &zfs.Error{Op: "destroy", Name: c.name, Kind: zfs.ErrFailed, Detail: text}
			}
			return nil, err
		}
		result, _ := c.out["return"].(nvlist.List)
		for name, v := range result {
			errno, _ := v.(int64)
			if err := zfs.FromErrno("destroy", name, syscall.Errno(errno)); err != nil && !zfs.IsNotExist(err) {
				failed[name] = zfs.BusyIfInUse(err)
			}
		}
	}
	return failed, nil
}

// Rollback implements zfs.Backend.
func (b *Backend) Rollback(ctx context.Context, snapshot string) error {
	c := &command{op: "rollback", name: zfs.Dataset(snapshot), in: nvlist.List{"target": snapshot}}
	return rename(b.run(ctx, iocRollback, c), snapshot)
}

// Stat implements zfs.Backend.
func (b *Backend) Stat(ctx context.Context, name string) (zfs.Info, error) {
	c := &command{op: "stat", name: name}
	if err := b.run(ctx, iocObjsetStats, c); err != nil {
		return zfs.Info{}, err
	}
	return info(name, c.out), nil
}

// Children implements zfs.Backend.
func (b *Backend) Children(ctx context.Context, dataset string) ([]zfs.Info, error) {
	return b.list(ctx, "list", dataset, iocListNext)
}

// Snapshots implements zfs.Backend.
func (b *Backend) Snapshots(ctx context.Context, dataset string) ([]zfs.Info, error) {
	l, err := b.list(ctx, "list snapshots of", dataset, iocSnapshotNext)
	sort.Slice(l, func(i, j int) bool { return l[i].CreateTXG < l[j].CreateTXG })
	return l, err
}

func (b *Backend) list(ctx context.Context, op, dataset string, request uintptr) ([]zfs.Info, error) {
	var l []zfs.Info
	for cookie := uint64(0); ; {
		c := &command{op: op, name: dataset, cookie: cookie}
		err := b.run(ctx, request, c)
		if isEnd(err) {
			// That is also the answer for a file system that does not exist.
			if len(l) == 0 {
				_, err = b.Stat(ctx, dataset)
				return nil, err
			}
			return l, nil
		}
		// A child that goes while it is listed is no failure of the listing, unless it is the parent that went.
		if zfs.IsNotExist(err) {
			if _, err := b.Stat(ctx, dataset); err != nil {
				return nil, rename(err, dataset)
			}
			if c.cookie == cookie {
				return l, nil
			}
			cookie = c.cookie
			continue
		}
		if err != nil {
			return nil, err
		}
		cookie = c.cookie
		l = append(l, info(c.found, c.out))
	}
}

// isEnd: a listing ends with ESRCH.
func isEnd(err error) bool {
	var e *zfs.Error
	return errors.As(err, &e) && e.Detail == syscall.ESRCH.Error()
}

// SetProperty implements zfs.Backend.
func (b *Backend) SetProperty(ctx context.Context, dataset, property, value string) error {
	in, err := pack("set "+property+" of", dataset, map[string]string{property: value})
	if err != nil {
		return err
	}
	return b.run(ctx, iocSetProp, &command{op: "set " + property + " of", name: dataset, in: in})
}

const (
	userObjectsUsed = 4 // ZFS_PROP_USEROBJUSED
	accountSize     = 272
	accountSpace    = 264
)

// Objects implements zfs.Backend. A file system is asked through its mount: the request for one that is not mounted
// would own it for a moment, and a mount in that moment would fail.
func (b *Backend) Objects(ctx context.Context, name string) (uint64, error) {
	if !zfs.IsSnapshot(name) {
		return b.mounted.Objects(name)
	}
	var sum uint64
	for c := (&command{op: "count objects of", name: name, kind: userObjectsUsed, raw: true}); ; {
		if err := b.run(ctx, iocUserspaceMany, c); err != nil {
			return 0, err
		}
		if len(c.rawOut) < accountSize {
			return sum, nil
		}
		for r := c.rawOut; len(r) >= accountSize; r = r[accountSize:] {
			sum += binary.LittleEndian.Uint64(r[accountSpace:])
		}
	}
}

// Sync implements zfs.Backend.
func (b *Backend) Sync(ctx context.Context, pool string) error {
	return b.run(ctx, iocPoolSync, &command{op: "sync", name: pool, in: nvlist.List{"force": false}})
}

// Mount implements zfs.Backend.
func (b *Backend) Mount(name string, readonly bool) zfs.Mount { return zfs.KernelMount(name, readonly) }
