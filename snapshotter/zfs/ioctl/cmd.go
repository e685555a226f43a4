package ioctl

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/nvlist"
)

// Requests, from enum zfs_ioc of sys/fs/zfs.h.
const (
	iocObjsetStats    = 0x5a12
	iocListNext       = 0x5a14
	iocSnapshotNext   = 0x5a15
	iocSetProp        = 0x5a16
	iocCreate         = 0x5a17
	iocRollback       = 0x5a19
	iocSnapshot       = 0x5a23
	iocUserspaceMany  = 0x5a2e
	iocClone          = 0x5a42
	iocPoolSync       = 0x5a47
	iocChannelProgram = 0x5a48
)

// Offsets in struct zfs_cmd (sys/zfs_ioctl.h). The fields behind offCookie and offType move more easily between
// versions, so none of them is used.
const (
	offName    = 0
	offSrc     = 4096
	offSrcSize = 4104
	offDst     = 4112
	offDstSize = 4120
	offFilled  = 4128
	offCookie  = 12616
	offType    = 12624
	// cmdSize is more than any version's struct: the kernel copies what it knows of.
	cmdSize = 16384
	nameLen = 4096
)

const (
	firstBuffer = 64 << 10
	maxBuffer   = 16 << 20
)

// command is one struct zfs_cmd with its buffers.
type command struct {
	op     string
	name   string
	cookie uint64
	kind   uint64
	in     nvlist.List
	// noList: the buffer takes no nvlist, but raw records.
	raw bool

	out    nvlist.List
	rawOut []byte
	// found is the name that a listing wrote.
	found string
}

// run passes the command to the kernel, with larger buffers as long as it asks for them. Only requests that
// change nothing are repeated: the others' results fit.
func (b *Backend) run(ctx context.Context, request uintptr, c *command) error {
	if err := zfs.CheckName(c.name); err != nil {
		return err
	}
	var src []byte
	if c.in != nil {
		var err error
		if src, err = nvlist.Pack(c.in); err != nil {
			return &zfs.Error{Op: c.op, Name: c.name, Kind: zfs.ErrInvalid, Detail: err.Error()}
		}
	}
	for size := firstBuffer; ; size *= 4 {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("zfs %s %s: %w", c.op, c.name, err)
		}
		cookie := c.cookie
		errno := b.once(request, c, src, make([]byte, size))
		// A signal ends a wait in the kernel, and Go sends itself many.
		for errno == syscall.EINTR && (repeatable(request) || idempotent(request)) && ctx.Err() == nil {
			c.cookie = cookie
			errno = b.once(request, c, src, make([]byte, size))
		}
		if errno == syscall.ENOMEM && size < maxBuffer && repeatable(request) {
			continue
		}
		if errno == errCorrupt {
			return &zfs.Error{Op: c.op, Name: c.name, Kind: zfs.ErrFailed, Detail: "the kernel's answer is no nvlist"}
		}
		return zfs.FromErrno(c.op, c.name, errno)
	}
}

func repeatable(request uintptr) bool {
	switch request {
	case iocObjsetStats, iocListNext, iocSnapshotNext:
		return true
	}
	return false
}

// idempotent says whether a request that changes something may be made again after it was interrupted, when it may
// have been done already: what was destroyed counts as destroyed.
func idempotent(request uintptr) bool {
	switch request {
	case iocChannelProgram, iocRollback, iocSetProp, iocPoolSync, iocUserspaceMany:
		return true
	}
	return false
}

// errCorrupt is no errno of Linux or of ZFS.
const errCorrupt = syscall.Errno(1 << 20)

func (b *Backend) once(request uintptr, c *command, src, dst []byte) syscall.Errno {
	file, err := b.file()
	if err != nil {
		return syscall.EBADF
	}
	cmd := make([]byte, cmdSize)
	// The kernel sees addresses as numbers, which the collector does not.
	var pin runtime.Pinner
	defer pin.Unpin()
	le := binary.LittleEndian
	copy(cmd[offName:offName+nameLen-1], c.name)
	if len(src) > 0 {
		pin.Pin(&src[0])
		le.PutUint64(cmd[offSrc:], uint64(uintptr(unsafe.Pointer(&src[0]))))
		le.PutUint64(cmd[offSrcSize:], uint64(len(src)))
	}
	pin.Pin(&dst[0])
	le.PutUint64(cmd[offDst:], uint64(uintptr(unsafe.Pointer(&dst[0]))))
	le.PutUint64(cmd[offDstSize:], uint64(len(dst)))
	le.PutUint64(cmd[offCookie:], c.cookie)
	le.PutUint64(cmd[offType:], c.kind)
	pin.Pin(&cmd[0])
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), request, uintptr(unsafe.Pointer(&cmd[0])))
	runtime.KeepAlive(file)

	if end := bytes.IndexByte(cmd[offName:offName+nameLen], 0); end >= 0 {
		c.found = string(cmd[offName : offName+end])
	}
	c.cookie = le.Uint64(cmd[offCookie:])
	filled := min(le.Uint64(cmd[offDstSize:]), uint64(len(dst)))
	if c.raw {
		if errno == 0 {
			c.rawOut = dst[:filled]
		}
		return errno
	}
	c.out = nil
	// Some requests tell more about a failure in their list.
	if le.Uint32(cmd[offFilled:]) != 0 {
		if c.out, err = nvlist.Unpack(dst); err != nil && errno == 0 {
			return errCorrupt
		}
	}
	return errno
}

func (b *Backend) file() (*os.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dev == nil {
		return nil, errors.New("closed")
	}
	return b.dev, nil
}
