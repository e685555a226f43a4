package pve

import (
	"bytes"
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// cleanupTimeout bounds work that must be done whatever became of the request
// that caused it.
const cleanupTimeout = 30 * time.Second

// cleanupContext outlives its request: what it is for must not be left half done.
func cleanupContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
}

// SetRunning lets PVE's Stop, Shutdown and pct set act on a container that was
// started. A lock that is not ours, a backup's say, stays.
func (r *Registrar) SetRunning(ctx context.Context, reg Registration) (err error) {
	defer r.observe("set-running", &err)()
	return r.edit(ctx, "unlock", reg, func(c *conf.Conf) error {
		return errors.Join(unlock(c), measure(c, reg.RootfsSize))
	})
}

// SetStopped keeps PVE from acting on a container that has exited: its task still
// exists.
func (r *Registrar) SetStopped(ctx context.Context, reg Registration) (err error) {
	defer r.observe("set-stopped", &err)()
	return r.edit(ctx, "lock", reg, lockCreate)
}

// Update follows a change of limits. Keys whose value is the same before and after stay
// as they are, which may be as an admin set them.
func (r *Registrar) Update(ctx context.Context, reg Registration, before, after Limits) (err error) {
	defer r.observe("update", &err)()
	return r.edit(ctx, "update", reg, func(c *conf.Conf) error {
		return apply(c, before.keys(r.host), after.keys(r.host))
	})
}

func unlock(c *conf.Conf) error {
	if lock, _ := c.Get("lock"); lock == conf.LockCreate {
		c.Delete("lock")
	}
	return nil
}

// measure completes the line of the root by its size.
func measure(c *conf.Conf, size int64) error {
	value, ok := c.Get("rootfs")
	if !ok || size <= 0 {
		return nil
	}
	root, err := conf.ParseRootfs(value)
	if err != nil || root.Size > 0 {
		return nil //nolint:nilerr // an admin's line
	}
	root.Size = size
	return c.Set("rootfs", root.String())
}

func lockCreate(c *conf.Conf) error {
	if _, locked := c.Get("lock"); locked {
		return nil
	}
	return c.Set("lock", conf.LockCreate)
}

// editAttempts bounds how often a patch is made anew because the file changed
// under it without a lock.
const editAttempts = 5

// edit patches a registration's conf under its lock. Errors: ErrNotRegistered,
// ErrForeign, ErrConflict, ErrBusy, ErrNoQuorum, ErrUnreachable, ErrTooBig.
func (r *Registrar) edit(ctx context.Context, op string, reg Registration, patch func(*conf.Conf) error) error {
	if reg.VMID == 0 {
		return nil
	}
	return r.locked(ctx, op, reg.VMID, func(ctx context.Context) (err error) {
		for range editAttempts {
			// A patch that pmxcfs took before it went away is found made, so the whole
			// of it may be tried again.
			err = r.store.retry(ctx, func() error { return r.patch(reg, patch) })
			if !errors.Is(err, ErrConflict) {
				break
			}
		}
		return err
	})
}

// patch is one attempt of edit.
func (r *Registrar) patch(reg Registration, patch func(*conf.Conf) error) error {
	read, c, err := r.readOwn(reg)
	if err != nil {
		return err
	}
	if err := patch(c); err != nil {
		return err
	}
	data := c.Bytes()
	if bytes.Equal(data, read) {
		return nil
	}
	if len(data) > conf.MaxSize {
		return unix.EFBIG
	}
	err = r.store.replace(reg.VMID, data, func() error {
		now, err := r.store.read(r.Node, reg.VMID)
		if err != nil {
			return err
		}
		if conf.Digest(now) != conf.Digest(read) {
			return &Error{Kind: ErrConflict}
		}
		return nil
	})
	if err == nil && len(read) == 0 {
		err = remove(r.intent(reg.VMID))
	}
	return err
}

// readOwn reads a registration's conf on this node and makes sure whose it is. Of one
// that was made and never written it returns what was to be written.
func (r *Registrar) readOwn(reg Registration) ([]byte, *conf.Conf, error) {
	data, err := r.store.read(r.Node, reg.VMID)
	if err != nil {
		return nil, nil, err
	}
	c, err := r.own(reg, r.orMeant(reg.VMID, data))
	return data, c, err
}

// own makes sure that a conf is a registration's: it fails with ErrForeign.
func (r *Registrar) own(reg Registration, data []byte) (*conf.Conf, error) {
	c, err := conf.Parse(data)
	if err != nil {
		return nil, &Error{VMID: reg.VMID, Kind: ErrForeign, Err: err}
	}
	owner, ok := ownerOf(c)
	if want := r.owner(reg.Namespace, reg.ID); !ok || owner != want {
		return nil, &Error{VMID: reg.VMID, Kind: ErrForeign, Err: foreign{owner, want}, Hint: "the conf was replaced or its lxc.group edited; it is left alone"}
	}
	return c, nil
}

// foreign says whose a conf is instead.
type foreign struct{ is, want Owner }

func (f foreign) Error() string {
	if f.is == (Owner{}) {
		return "it has no marker of " + f.want.String()
	}
	return "it is of " + f.is.String() + ", not of " + f.want.String()
}
