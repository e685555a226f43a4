// Package cli drives OpenZFS through its commands, for versions whose /dev/zfs the ioctl backend does not know.
// It builds on github.com/mistifyio/go-zfs, and runs the command itself for what that lacks: properties of
// snapshots, reading of one object without listing others, and destroying without unmounting.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	gozfs "github.com/mistifyio/go-zfs/v4"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// Backend is a zfs.Backend on the zfs command of $PATH.
type Backend struct {
	path    string
	execs   atomic.Uint64
	mounted zfs.Mounted
}

var _ zfs.Backend = (*Backend)(nil)

// New finds the zfs command and asks it for a version; without a loaded module the error is zfs.ErrUnsupported.
func New(ctx context.Context) (*Backend, error) {
	path, err := exec.LookPath("zfs")
	if err != nil {
		return nil, &zfs.Error{Op: "find", Name: "zfs", Kind: zfs.ErrUnsupported, Detail: err.Error() + " (hint: apt install zfsutils-linux)"}
	}
	b := &Backend{path: path}
	if _, err := b.zfs(ctx, "ask the version of", "zfs", "version"); err != nil {
		return nil, err
	}
	return b, nil
}

// Name is "cli".
func (b *Backend) Name() string { return "cli" }

// Close gives up what is open.
func (b *Backend) Close() error {
	b.mounted.Close()
	return nil
}

// Execs counts the commands that were run.
func (b *Backend) Execs() uint64 { return b.execs.Load() }

// zfs runs the command. It is not killed when ctx ends: what it asked of the kernel would go on.
func (b *Backend) zfs(ctx context.Context, op, name string, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("zfs %s %s: %w", op, name, err)
	}
	b.execs.Add(1)
	cmd := exec.CommandContext(context.WithoutCancel(ctx), b.path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if args[0] == "program" {
		cmd.Stdin = strings.NewReader(zfs.DestroyProgram)
	}
	if err := cmd.Run(); err != nil {
		if stderr.Len() == 0 {
			return nil, &zfs.Error{Op: op, Name: name, Kind: zfs.ErrFailed, Detail: err.Error()}
		}
		return nil, zfs.FromMessage(op, name, stderr.String())
	}
	return stdout.Bytes(), nil
}

// library runs an operation of go-zfs, which executes commands times, the operation itself first.
func (b *Backend) library(ctx context.Context, op, name string, commands uint64, fn func() error) error {
	if err := zfs.CheckName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("zfs %s %s: %w", op, name, err)
	}
	b.execs.Add(commands)
	err := fn()
	var e *gozfs.Error
	if errors.As(err, &e) {
		return zfs.FromMessage(op, name, e.Stderr)
	}
	if err != nil {
		return &zfs.Error{Op: op, Name: name, Kind: zfs.ErrFailed, Detail: err.Error()}
	}
	return nil
}

// Create implements zfs.Backend.
func (b *Backend) Create(ctx context.Context, dataset string, props map[string]string) error {
	return b.library(ctx, "create", dataset, 2, func() error {
		_, err := gozfs.CreateFilesystem(dataset, props)
		return err
	})
}

// Clone implements zfs.Backend.
func (b *Backend) Clone(ctx context.Context, snapshot, dataset string) error {
	// The library's clone passes -p: it makes missing parents, and takes a clone that exists for a success.
	for _, name := range []string{snapshot, dataset} {
		if err := zfs.CheckName(name); err != nil {
			return err
		}
	}
	_, err := b.zfs(ctx, "clone", dataset, "clone", snapshot, dataset)
	return err
}

// Snapshot implements zfs.Backend.
func (b *Backend) Snapshot(ctx context.Context, snapshot string, user map[string]string) error {
	if err := zfs.CheckName(snapshot); err != nil {
		return err
	}
	args := []string{"snapshot"}
	for k, v := range user {
		args = append(args, "-o", k+"="+v)
	}
	_, err := b.zfs(ctx, "snapshot", snapshot, append(args, snapshot)...)
	return err
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
		pool := zfs.Pool(batch[0])
		out, err := b.zfs(ctx, "destroy", pool, append([]string{"program", "-j", pool, "-"}, batch...)...)
		if err != nil {
			return nil, err
		}
		var result struct {
			Return map[string]int `json:"return"`
		}
		if err := json.Unmarshal(out, &result); err != nil {
			return nil, &zfs.Error{Op: "destroy", Name: pool, Kind: zfs.ErrFailed, Detail: "zfs program printed " + string(out)}
		}
		for name, errno := range result.Return {
			if err := zfs.FromErrno("destroy", name, syscall.Errno(errno)); err != nil && !zfs.IsNotExist(err) {
				failed[name] = zfs.BusyIfInUse(err)
			}
		}
	}
	return failed, nil
}

// Rollback implements zfs.Backend.
func (b *Backend) Rollback(ctx context.Context, snapshot string) error {
	return b.library(ctx, "rollback", snapshot, 1, func() error {
		return (&gozfs.Dataset{Name: snapshot, Type: gozfs.DatasetSnapshot}).Rollback(false)
	})
}

// Stat implements zfs.Backend.
func (b *Backend) Stat(ctx context.Context, name string) (zfs.Info, error) {
	if err := zfs.CheckName(name); err != nil {
		return zfs.Info{}, err
	}
	out, err := b.zfs(ctx, "stat", name, "get", "-Hp", "-o", "name,property,value,source", "all", name)
	if err != nil {
		return zfs.Info{}, err
	}
	for _, i := range parse(out) {
		if i.Name == name {
			return i, nil
		}
	}
	return zfs.Info{}, &zfs.Error{Op: "stat", Name: name, Kind: zfs.ErrNotExist}
}

// Children implements zfs.Backend.
func (b *Backend) Children(ctx context.Context, dataset string) ([]zfs.Info, error) {
	return b.list(ctx, "list", dataset, "filesystem")
}

// Snapshots implements zfs.Backend.
func (b *Backend) Snapshots(ctx context.Context, dataset string) ([]zfs.Info, error) {
	return b.list(ctx, "list snapshots of", dataset, "snapshot")
}

func (b *Backend) list(ctx context.Context, op, dataset, kind string) ([]zfs.Info, error) {
	if err := zfs.CheckName(dataset); err != nil {
		return nil, err
	}
	out, err := b.zfs(ctx, op, dataset, "get", "-Hp", "-d", "1", "-t", kind, "-o", "name,property,value,source", "all", dataset)
	if err != nil {
		return nil, err
	}
	l := slices.DeleteFunc(parse(out), func(i zfs.Info) bool { return i.Name == dataset })
	sort.SliceStable(l, func(i, j int) bool { return l[i].CreateTXG < l[j].CreateTXG })
	return l, nil
}

// parse reads lines of "name property value source", separated by tabs. A line of another form belongs to a user
// property whose value has a line break; it is skipped.
func parse(out []byte) []zfs.Info {
	var l []zfs.Info
	index := map[string]int{}
	for line := range strings.SplitSeq(string(out), "\n") {
		f := strings.Split(line, "\t")
		if len(f) != 4 {
			continue
		}
		name, property, value, source := f[0], f[1], f[2], f[3]
		at, known := index[name]
		if !known {
			at = len(l)
			index[name] = at
			l = append(l, zfs.Info{Name: name, User: map[string]string{}, Local: map[string]string{}})
		}
		i := &l[at]
		if strings.Contains(property, ":") {
			i.User[property] = value
			if source == "local" {
				i.Local[property] = value
			}
			continue
		}
		switch property {
		case "origin":
			i.Origin = strings.TrimPrefix(value, "-")
		case "mountpoint":
			i.Mountpoint = value
		default:
			// A value that is no number is 0: "-" and "none".
			if n := number(i, property); n != nil {
				*n, _ = strconv.ParseUint(value, 10, 64)
			}
		}
	}
	return l
}

func number(i *zfs.Info, property string) *uint64 {
	switch property {
	case "guid":
		return &i.GUID
	case "createtxg":
		return &i.CreateTXG
	case "used":
		return &i.Used
	case "usedbydataset":
		return &i.UsedByDataset
	case "referenced":
		return &i.Referenced
	case "written":
		return &i.Written
	case "available":
		return &i.Available
	case "refquota":
		return &i.Refquota
	}
	return nil
}

// SetProperty implements zfs.Backend.
func (b *Backend) SetProperty(ctx context.Context, dataset, property, value string) error {
	return b.library(ctx, "set "+property+" of", dataset, 1, func() error {
		return (&gozfs.Dataset{Name: dataset}).SetProperty(property, value)
	})
}

// Objects implements zfs.Backend.
func (b *Backend) Objects(ctx context.Context, name string) (uint64, error) {
	if err := zfs.CheckName(name); err != nil {
		return 0, err
	}
	if !zfs.IsSnapshot(name) {
		return b.mounted.Objects(name)
	}
	out, err := b.zfs(ctx, "count objects of", name, "userspace", "-Hpn", "-o", "objused", name)
	if err != nil {
		return 0, err
	}
	var sum uint64
	for field := range strings.FieldsSeq(string(out)) {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, &zfs.Error{Op: "count objects of", Name: name, Kind: zfs.ErrUnsupported, Detail: "zfs userspace printed " + strconv.Quote(field)}
		}
		sum += n
	}
	return sum, nil
}

// Sync implements zfs.Backend.
func (b *Backend) Sync(ctx context.Context, pool string) error {
	if err := zfs.CheckName(pool); err != nil {
		return err
	}
	b.execs.Add(1)
	out, err := exec.CommandContext(context.WithoutCancel(ctx), "zpool", "sync", pool).CombinedOutput()
	if err != nil {
		return zfs.FromMessage("sync", pool, string(out))
	}
	return nil
}

// Mount implements zfs.Backend.
func (b *Backend) Mount(name string, readonly bool) zfs.Mount { return zfs.KernelMount(name, readonly) }
