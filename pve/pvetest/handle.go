package pvetest

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// handle is an open file. It does not survive the daemon that opened it.
type handle struct {
	n          *inode
	generation int64
	content    []byte // of a virtual file, as it was when opened
}

func (n *inode) handle() *handle {
	return &handle{n: n, generation: n.m.generation.Load()}
}

func (n *inode) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h := n.handle()
	errno := n.m.look(OpOpen, func() syscall.Errno {
		if n.virtual != nil {
			h.content = n.virtual()
			if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
				return syscall.EACCES
			}
		}
		return 0
	})
	if errno == 0 && flags&syscall.O_TRUNC != 0 {
		errno = n.m.change(OpSet, n.e.path, func() syscall.Errno { return n.m.db.truncate(n.e, 0) })
	}
	return h, fuse.FOPEN_DIRECT_IO, errno
}

func (h *handle) dead() bool { return h.n.m.down.Load() || h.generation != h.n.m.generation.Load() }

func (h *handle) Read(_ context.Context, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	if h.dead() {
		return nil, syscall.ENOTCONN
	}
	var n int
	errno := h.n.m.look(OpRead, func() syscall.Errno {
		data := h.n.e.data
		if h.content != nil {
			data = h.content
		}
		if offset < int64(len(data)) {
			n = copy(dest, data[offset:])
		}
		return 0
	})
	return fuse.ReadResultData(dest[:n]), errno
}

func (h *handle) Write(_ context.Context, data []byte, offset int64) (uint32, syscall.Errno) {
	if h.dead() {
		return 0, syscall.ENOTCONN
	}
	errno := h.n.m.change(OpWrite, h.n.e.path, func() syscall.Errno {
		if h.dead() {
			return syscall.ENOTCONN
		}
		return h.n.m.db.write(h.n.e, data, offset)
	})
	if errno != 0 {
		return 0, errno
	}
	return uint32(len(data)), 0
}

// pmxcfs has neither operation: the kernel asks once, and takes it for success from then on.

func (h *handle) Fsync(context.Context, uint32) syscall.Errno { return syscall.ENOSYS }
func (h *handle) Flush(context.Context) syscall.Errno         { return syscall.ENOSYS }
