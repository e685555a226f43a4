package zfs

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// Kinds of failure. Each unwraps to a class of errdefs, so that the service's edge needs no table of its own.
var (
	// ErrNotExist: no such dataset, snapshot or pool (ENOENT, ESRCH).
	ErrNotExist = kind("does not exist", errdefs.ErrNotFound)
	// ErrExist: the name is taken, or something newer is in the way (EEXIST).
	ErrExist = kind("exists", errdefs.ErrInternal)
	// ErrBusy: mounted, held, cloned, or it has snapshots (EBUSY).
	ErrBusy = kind("is busy", errdefs.ErrFailedPrecondition)
	// ErrNoSpace: the pool, or a quota above, is full (ENOSPC, EDQUOT).
	ErrNoSpace = kind("no space left", errdefs.ErrResourceExhausted)
	// ErrSuspended: the pool has lost its devices and waits (EAGAIN).
	ErrSuspended = kind("pool is suspended", errdefs.ErrUnavailable)
	// ErrReadOnly: the pool is imported read-only (EROFS).
	ErrReadOnly = kind("pool is read-only", errdefs.ErrFailedPrecondition)
	// ErrInvalid: a name or a property that ZFS refuses (EINVAL, ENAMETOOLONG, EXDEV).
	ErrInvalid = kind("is not valid", errdefs.ErrInvalidArgument)
	// ErrPermission: not root, or the device is not for us (EPERM, EACCES).
	ErrPermission = kind("permission denied", errdefs.ErrPermissionDenied)
	// ErrUnsupported: this version of ZFS, or this machine, cannot do it (ENOTSUP, ENOTTY, ENODEV).
	ErrUnsupported = kind("is not supported", errdefs.ErrNotImplemented)
	// ErrFailed is everything else (EIO, ECKSUM, …).
	ErrFailed = kind("failed", errdefs.ErrUnknown)
)

type kindError struct {
	text  string
	class error
}

func kind(text string, class error) error { return &kindError{text, class} }

func (k *kindError) Error() string { return k.text }
func (k *kindError) Unwrap() error { return k.class }

// Error is a failure of one operation on one object.
type Error struct {
	// Op is the operation: "clone", "destroy", ….
	Op string
	// Name is what it was done to.
	Name string
	// Kind is one of the Err values of this package.
	Kind error
	// Detail is what else is known: the errno's text, or what the zfs command printed.
	Detail string
}

// Error names operation, object and reason, and what to do where the reason has a remedy.
func (e *Error) Error() string {
	s := fmt.Sprintf("zfs %s %s: %v", e.Op, e.Name, e.Kind)
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	switch e.Kind {
	case ErrSuspended:
		s += fmt.Sprintf(" (hint: zpool status %s; zpool clear %[1]s)", Pool(e.Name))
	case ErrNoSpace:
		s += fmt.Sprintf(" (hint: zfs list -o space -r %s)", Pool(e.Name))
	}
	return s
}

// Unwrap gives the kind, and through it the errdefs class.
func (e *Error) Unwrap() error { return e.Kind }

// FromErrno makes the error of an operation that the kernel ended with errno; nil for 0.
func FromErrno(op, name string, errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	e := &Error{Op: op, Name: name, Kind: ErrFailed, Detail: errno.Error()}
	switch errno {
	case syscall.ENOENT, syscall.ESRCH:
		e.Kind = ErrNotExist
	case syscall.EEXIST:
		e.Kind = ErrExist
	case syscall.EBUSY:
		e.Kind = ErrBusy
	case syscall.ENOSPC, syscall.EDQUOT:
		e.Kind = ErrNoSpace
	case syscall.EAGAIN:
		e.Kind = ErrSuspended
	case syscall.EROFS:
		e.Kind = ErrReadOnly
	case syscall.EINVAL, syscall.ENAMETOOLONG, syscall.EXDEV, syscall.ERANGE:
		e.Kind = ErrInvalid
	case syscall.EPERM, syscall.EACCES:
		e.Kind = ErrPermission
	case syscall.ENOTSUP, syscall.ENOTTY, syscall.ENODEV, syscall.ENXIO:
		e.Kind = ErrUnsupported
	}
	if errno >= 1024 {
		e.Detail = fmt.Sprintf("ZFS error %d", int(errno))
	}
	return e
}

// messages are those of the zfs command in the C locale (lib/libzfs/libzfs_util.c), most special first.
var messages = []struct {
	text string
	kind error
}{
	{"dataset does not exist", ErrNotExist},
	{"no such pool", ErrNotExist},
	{"parent does not exist", ErrNotExist},
	{"could not find any snapshots to destroy", ErrNotExist},
	{"dataset already exists", ErrExist},
	{"more recent snapshots", ErrExist},
	{"dataset is busy", ErrBusy},
	{"pool or dataset is busy", ErrBusy},
	{"filesystem has children", ErrBusy},
	{"snapshot has dependent clones", ErrBusy},
	{"out of space", ErrNoSpace},
	{"no space left", ErrNoSpace},
	{"quota exceeded", ErrNoSpace},
	{"pool I/O is currently suspended", ErrSuspended},
	{"pool is read-only", ErrReadOnly},
	{"read only", ErrReadOnly},
	{"permission denied", ErrPermission},
	{"name is too long", ErrInvalid},
	{"invalid", ErrInvalid},
	{"unrecognized command", ErrUnsupported},
	{"/dev/zfs and /proc/self/mounts are required", ErrUnsupported},
	{"modules cannot be auto-loaded", ErrUnsupported},
	{"module is not loaded", ErrUnsupported},
}

// FromMessage makes the error of an operation that the zfs command ended with this on standard error.
func FromMessage(op, name, stderr string) error {
	stderr = strings.TrimSpace(stderr)
	e := &Error{Op: op, Name: name, Kind: ErrFailed, Detail: strings.ReplaceAll(stderr, "\n", "; ")}
	for _, m := range messages {
		if strings.Contains(stderr, m.text) {
			e.Kind = m.kind
			break
		}
	}
	return e
}

// IsNotExist says whether the object is not there.
func IsNotExist(err error) bool { return errors.Is(err, ErrNotExist) }

// IsBusy says whether the object is in use, which may end by itself.
func IsBusy(err error) bool { return errors.Is(err, ErrBusy) }
