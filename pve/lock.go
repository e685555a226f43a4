package pve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fileLock is an flock that is held. The file stays when it is released: unlinking
// it would give two programs two files of one name to lock.
type fileLock struct{ fd int }

func (l fileLock) release() { unix.Close(l.fd) } // closing is what unlocks; nothing else shares the description

// lockPath takes an exclusive flock, waiting as long as timeout and ctx allow.
// With timeout 0 it does not wait.
func lockPath(ctx context.Context, path string, timeout time.Duration) (fileLock, error) {
	fd, err := open(path, unix.O_RDWR|unix.O_CREAT, 0o644)
	if err != nil {
		return fileLock{}, err
	}
	deadline := time.Now().Add(timeout)
	// flock cannot be bounded, so it is tried. Programs hold these locks for
	// milliseconds.
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := ignoreEINTR(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			return fileLock{fd}, nil
		}
		if err == unix.EWOULDBLOCK && !time.Now().After(deadline) && sleep(ctx, pause) {
			continue
		}
		unix.Close(fd)
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fileLock{}, fmt.Errorf("lock %s: %w", path, err)
	}
}

// lockVMID takes PVE's own lock on changes of a conf. It fails with ErrBusy.
func (r *Registrar) lockVMID(ctx context.Context, vmid VMID, timeout time.Duration) (fileLock, error) {
	l, err := lockPath(ctx, filepath.Join(r.LockDir, "pve-config-"+vmid.String()+".lock"), timeout)
	if err != nil && ctx.Err() == nil && errors.Is(err, unix.EWOULDBLOCK) {
		err = &Error{Op: "lock", VMID: vmid, Kind: ErrBusy, Err: err, Hint: "see the node's task log for what works on the container"}
	}
	return l, err
}

// locked runs f, which asks the cluster file system, under the lock of a VMID. An f
// that hangs keeps the lock.
func (r *Registrar) locked(ctx context.Context, op string, vmid VMID, f func(context.Context) error) error {
	if err := r.checkOutage(ctx, op, vmid); err != nil {
		return err
	}
	lock, err := r.lockVMID(ctx, vmid, r.LockTimeout)
	if err != nil {
		return r.wrap(op, vmid, err)
	}
	return r.bound(ctx, op, vmid, func(ctx context.Context) error {
		defer lock.release()
		return f(ctx)
	}, nil)
}

// running lists the containers whose command socket exists: what PVE, too, takes
// for running. liblxc names the abstract socket <lxcpath>/<name>/command.
func (r *Registrar) running() (map[VMID]bool, error) {
	data, err := os.ReadFile(r.SocketTable)
	if err != nil {
		return nil, fmt.Errorf("list running containers: %w", err)
	}
	found := map[VMID]bool{}
	for l := range strings.Lines(string(data)) {
		_, name, ok := strings.Cut(strings.TrimRight(l, "\n"), " @"+r.LXCPath+"/")
		if !ok {
			continue
		}
		if vmid, ok := cutVMID(name, "/command"); ok {
			found[vmid] = true
		}
	}
	return found, nil
}

// cutVMID reads a VMID followed by suffix and nothing else.
func cutVMID(name, suffix string) (VMID, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return 0, false
	}
	vmid, err := ParseVMID(digits)
	return vmid, err == nil
}
