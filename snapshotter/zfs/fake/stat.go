package fake

import (
	"context"
	"io/fs"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// available is the model's free space: it never gets less.
const available = 1 << 40

// usage walks a tree: bytes and inodes, hard links once.
func usage(dir string) (bytes, inodes uint64) {
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what goes while it is counted does not count
		}
		info, err := e.Info()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		st := info.Sys().(*syscall.Stat_t)
		if seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		inodes++
		if e.Type().IsRegular() {
			bytes += uint64(st.Size)
		}
		return nil
	})
	return bytes, inodes
}

// Stat implements zfs.Backend.
func (b *Backend) Stat(ctx context.Context, name string) (zfs.Info, error) {
	if err := b.begin(ctx, "stat", name); err != nil {
		return zfs.Info{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.objects[name]
	if o == nil {
		return zfs.Info{}, fail("stat", name, zfs.ErrNotExist, "")
	}
	return b.info(name, o), nil
}

func (b *Backend) info(name string, o *object) zfs.Info {
	i := zfs.Info{
		Name: name, GUID: o.guid, CreateTXG: o.txg, Origin: o.origin, Available: available, Referenced: o.size, Written: o.written,
		Mountpoint: o.props["mountpoint"], User: map[string]string{}, Local: map[string]string{},
	}
	if !zfs.IsSnapshot(name) {
		i.Referenced, _ = usage(o.dir)
		shared := uint64(0)
		if before := b.newest(name); before != nil {
			shared = before.size
		} else if from := b.objects[o.origin]; from != nil {
			shared = from.size
		}
		i.UsedByDataset = i.Referenced - min(shared, i.Referenced)
		i.Used, i.Written = i.UsedByDataset, i.UsedByDataset
		i.Refquota, _ = strconv.ParseUint(o.props["refquota"], 10, 64)
	}
	for at := zfs.Dataset(name); at != ""; at = zfs.Parent(at) {
		for k, v := range b.objects[at].props {
			if _, ok := i.User[k]; !ok && strings.Contains(k, ":") {
				i.User[k] = v
			}
			if k == "mountpoint" && i.Mountpoint == "" {
				i.Mountpoint = v
			}
		}
	}
	for k, v := range o.props {
		if strings.Contains(k, ":") {
			i.User[k], i.Local[k] = v, v
		}
	}
	return i
}

// Children implements zfs.Backend.
func (b *Backend) Children(ctx context.Context, dataset string) ([]zfs.Info, error) {
	return b.list(ctx, "list", dataset, func(name string) bool {
		return !zfs.IsSnapshot(name) && zfs.Parent(name) == dataset
	})
}

// Snapshots implements zfs.Backend.
func (b *Backend) Snapshots(ctx context.Context, dataset string) ([]zfs.Info, error) {
	return b.list(ctx, "list snapshots of", dataset, func(name string) bool {
		return strings.HasPrefix(name, dataset+"@")
	})
}

func (b *Backend) list(ctx context.Context, op, dataset string, is func(string) bool) ([]zfs.Info, error) {
	if err := b.begin(ctx, op, dataset); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.objects[dataset] == nil {
		return nil, fail(op, dataset, zfs.ErrNotExist, "")
	}
	var l []zfs.Info
	for name, o := range b.objects {
		if is(name) {
			l = append(l, b.info(name, o))
		}
	}
	sort.Slice(l, func(i, j int) bool { return l[i].CreateTXG < l[j].CreateTXG })
	return l, nil
}

// Objects implements zfs.Backend.
func (b *Backend) Objects(ctx context.Context, name string) (uint64, error) {
	if err := b.begin(ctx, "count objects of", name); err != nil {
		return 0, err
	}
	b.mu.Lock()
	o := b.objects[name]
	b.mu.Unlock()
	if o == nil {
		return 0, fail("count objects of", name, zfs.ErrNotExist, "")
	}
	_, inodes := usage(o.dir)
	return inodes, nil
}
