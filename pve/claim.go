package pve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

const opReserve = "reserve a VMID"

// claim is a VMID that was reserved by creating its conf, which is still empty. Its
// holder has the VMID's lock until write.
//
// Between the two, and after a crash for longer, an empty conf stands for what its
// intent says: a file of this node's, made before the conf, with the same content.
type claim struct {
	r    *Registrar
	vmid VMID
	data []byte
	fd   int
	lock fileLock
}

func (r *Registrar) intents() string { return filepath.Join(r.StateDir, "intents") }

func (r *Registrar) intent(vmid VMID) string { return filepath.Join(r.intents(), vmid.String()) }

// claim tries to reserve one VMID: this is all that a starting container waits for.
// It returns nil, without an error, where somebody else has the VMID or is at it. The
// caller holds no lock.
func (r *Registrar) claim(ctx context.Context, vmid VMID, data []byte) (*claim, error) {
	if err := r.checkOutage(ctx, opReserve, vmid); err != nil {
		return nil, err
	}
	lock, err := r.lockVMID(ctx, vmid, 0)
	if errors.Is(err, ErrBusy) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r.claimLocked(ctx, vmid, data, lock)
}

// claimLocked is claim for the holder of the VMID's lock, which it takes over. No outage
// may be known.
func (r *Registrar) claimLocked(ctx context.Context, vmid VMID, data []byte, lock fileLock) (*claim, error) {
	if err := os.WriteFile(r.intent(vmid), data, 0o600); err != nil {
		lock.release()
		return nil, fmt.Errorf("note intent: %w", err)
	}
	c := &claim{r: r, vmid: vmid, data: data, fd: -1, lock: lock}
	err := r.bound(ctx, opReserve, vmid, func(ctx context.Context) error {
		err := c.create(ctx)
		if c.fd < 0 {
			lock.release()
		}
		return err
	}, func(error) {
		if c.fd >= 0 {
			c.giveBack(ctx)
			lock.release()
		}
	})
	if err != nil || c.fd < 0 {
		return nil, err
	}
	return c, nil
}

// create makes the conf, and leaves fd negative where somebody else has the VMID.
func (c *claim) create(ctx context.Context) error {
	fd, err := c.r.store.create(c.vmid)
	err = c.r.store.explain(err)
	switch {
	case err == nil:
		c.fd = fd
		return nil
	case errors.Is(err, unix.EEXIST):
		return remove(c.r.intent(c.vmid))
	case isGone(err):
		// Nobody knows. The VMID is given up, and the next in turn is tried.
		return c.r.store.retry(ctx, c.abandon)
	}
	return errors.Join(err, remove(c.r.intent(c.vmid)))
}

// write writes what was claimed, and releases the lock. A failure is mended by the next
// change of the conf, or by reconciliation.
func (c *claim) write(ctx context.Context) error {
	return c.r.bound(ctx, "write the conf", c.vmid, func(ctx context.Context) error {
		defer c.lock.release()
		path := c.r.store.path(c.r.Node, c.vmid)
		err := finish(path, c.fd, c.data, false)
		if isGone(err) {
			// The handle died with the daemon. What came through is found again.
			err = c.r.store.retry(ctx, c.rewrite)
		}
		if err != nil {
			// Half a conf is worse than an empty one.
			return errors.Join(err, ignoreEINTR(func() error { return unix.Truncate(path, 0) }))
		}
		return remove(c.r.intent(c.vmid))
	}, nil)
}

func (c *claim) rewrite() error {
	found, err := c.r.store.read(c.r.Node, c.vmid)
	if err != nil || len(found) > 0 {
		return err
	}
	return c.r.store.replace(c.vmid, c.data, func() error { return nil })
}

// finish writes the claim in the background, whatever becomes of the request.
func (c *claim) finish(ctx context.Context) {
	go func() {
		ctx, cancel := cleanupContext(ctx)
		defer cancel()
		if err := c.write(ctx); err != nil {
			log.G(ctx).WithField("vmid", c.vmid).WithError(err).Warn("registration: write the conf")
		}
	}()
}

// giveBack removes a conf that came too late.
func (c *claim) giveBack(ctx context.Context) {
	ctx, cancel := cleanupContext(ctx)
	defer cancel()
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
	if err := c.r.store.retry(ctx, c.abandon); err != nil {
		log.G(ctx).WithField("vmid", c.vmid).WithError(err).Warn("a VMID that came too late stays reserved until the next reconciliation")
	}
}

// abandon removes a conf that a create may have left, and its intent: an empty conf,
// or exactly ours. The caller holds the VMID's lock.
func (c *claim) abandon() error {
	found, err := c.r.store.read(c.r.Node, c.vmid)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err == nil && (len(found) == 0 || string(found) == string(c.data)) {
		if err := remove(c.r.store.path(c.r.Node, c.vmid)); err != nil {
			return err
		}
	}
	if err := c.r.store.explain(err); err != nil && isGone(err) {
		return err
	}
	return remove(c.r.intent(c.vmid))
}

// orMeant returns the content of a conf of this node, and of an empty one what its
// intent says that it stands for.
func (r *Registrar) orMeant(vmid VMID, data []byte) []byte {
	if len(data) > 0 {
		return data
	}
	meant, err := readFile(unix.AT_FDCWD, r.intent(vmid), make([]byte, 4096))
	if err != nil {
		return data
	}
	return meant
}
