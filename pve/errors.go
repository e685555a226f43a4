package pve

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// kind is a sentinel that unwraps to its class in errdefs.
type kind struct {
	text  string
	class error
}

func (k *kind) Error() string { return k.text }
func (k *kind) Unwrap() error { return k.class }

// What can go wrong, each with its errdefs class. Every error of this package
// about the cluster's state is one of them.
var (
	// ErrNoQuorum: the cluster is not quorate, so /etc/pve is read-only (ErrUnavailable).
	ErrNoQuorum error = &kind{"the cluster is not quorate", errdefs.ErrUnavailable}
	// ErrUnreachable: pmxcfs does not answer, is not mounted, or its database has failed
	// (ErrUnavailable).
	ErrUnreachable error = &kind{"the cluster file system does not answer", errdefs.ErrUnavailable}
	// ErrBusy: another program kept PVE's lock on a conf (ErrUnavailable).
	ErrBusy error = &kind{"the configuration is locked by another program", errdefs.ErrUnavailable}
	// ErrNoVMID: every VMID of the range is taken (ErrResourceExhausted).
	ErrNoVMID error = &kind{"no free VMID", errdefs.ErrResourceExhausted}
	// ErrConflict: the conf kept changing while it was patched (ErrAborted).
	ErrConflict error = &kind{"the configuration was changed by another program", errdefs.ErrAborted}
	// ErrForeign: the VMID's conf belongs to somebody else (ErrFailedPrecondition).
	ErrForeign error = &kind{"the configuration is not this container's", errdefs.ErrFailedPrecondition}
	// ErrNotRegistered: there is no conf (ErrNotFound).
	ErrNotRegistered error = &kind{"the container is not registered", errdefs.ErrNotFound}
	// ErrTooBig: the conf or the cluster's database is full (ErrResourceExhausted).
	ErrTooBig error = &kind{"the configuration does not fit the cluster file system", errdefs.ErrResourceExhausted}
)

// Error says what failed, for which VMID, why, and what to do.
type Error struct {
	// Op is what was tried: "reserve a VMID", "update".
	Op string
	// VMID is zero where none is known.
	VMID VMID
	// Kind is one of this package's sentinels; nil for other failures.
	Kind error
	// Err is the cause; nil where Kind says all.
	Err error
	// Hint is what the admin can do; may be empty.
	Hint string
}

// Error reads "op ct 1203: kind: cause (hint: …)".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.VMID != 0 {
		fmt.Fprintf(&b, " ct %d", e.VMID)
	}
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			b.WriteString(": " + err.Error())
		}
	}
	if e.Hint != "" {
		b.WriteString(" (hint: " + e.Hint + ")")
	}
	return b.String()
}

// Unwrap returns Kind and Err.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// wrap gives err its kind. Of pmxcfs root gets EACCES only without quorum; its modes
// say so too, but the kernel may show those of a second ago.
func (r *Registrar) wrap(op string, vmid VMID, err error) error {
	var known *Error
	if err == nil {
		return nil
	}
	if errors.As(err, &known) {
		if known.Op == "" {
			known.Op, known.VMID = op, vmid
		}
		return err
	}
	e := &Error{Op: op, VMID: vmid, Err: err}
	switch {
	case errors.Is(err, unix.EACCES) && !r.Local:
		e.Kind, e.Hint = ErrNoQuorum, "pvecm status; containers go on running, and are registered again by pvelxc gc"
	case isGone(err), isBroken(err) && !r.Local:
		e.Kind, e.Hint = ErrUnreachable, hintUnreachable
	case errors.Is(err, unix.EFBIG), errors.Is(err, unix.ENOSPC):
		e.Kind, e.Hint = ErrTooBig, "pvelxc gc, and see what fills /etc/pve"
	case errors.Is(err, unix.ENOENT):
		e.Kind = ErrNotRegistered
	}
	return e
}

const hintUnreachable = "systemctl status pve-cluster; pvecm status"

// isBroken reports whether err is what pmxcfs answers every change with once it could not
// write its database, until it is restarted: its disk is full, say (memdb.c).
func isBroken(err error) bool { return errors.Is(err, unix.EIO) }

// isGone reports whether err is what a FUSE mount returns whose daemon went away
// or is on its way back.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ESHUTDOWN)
}
