package pvetest

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// wwwData is the group of everything in pmxcfs.
const wwwData = 33

// inode is one node's view of an entry.
type inode struct {
	fs.Inode
	m *Mount
	e *entry
	// link is the target of a link, which each node has of its own; virtual makes
	// the content of a file that is in no database.
	link    string
	virtual func() []byte
}

func (n *inode) attr(a *fuse.Attr) {
	a.Owner = fuse.Owner{Uid: 0, Gid: wwwData}
	a.Nlink, a.Blksize = 1, 4096
	switch {
	case n.link != "":
		a.Ino, a.Mode, a.Size = n.e.ino, syscall.S_IFLNK|0o777, uint64(len(n.link))
	case n.virtual != nil:
		a.Ino, a.Mode, a.Size = n.e.ino, syscall.S_IFREG|0o440, uint64(len(n.virtual()))
	case n.e.isDir():
		a.Ino, a.Mode = n.e.ino, syscall.S_IFDIR|0o755
	default:
		a.Ino, a.Mode, a.Size = n.e.ino, syscall.S_IFREG|0o640, uint64(len(n.e.data))
	}
	if !n.m.quorum.Load() && !n.m.stale.Load() {
		a.Mode &^= 0o222
	}
	seconds := uint64(n.e.modified.Unix())
	a.Atime, a.Mtime, a.Ctime = seconds, seconds, seconds
}

// The inode numbers of what is not in the database.
const (
	inoLocal = iota + 2
	inoLXC
	inoQemu
	inoVMList
)

// special finds what only the root directory has.
func (n *inode) special(name string) *inode {
	if n.e != n.m.db.root {
		return nil
	}
	own := "nodes/" + n.m.node
	made := func(ino uint64) *entry { return &entry{ino: ino, modified: n.e.modified} }
	switch name {
	case "local":
		return &inode{m: n.m, e: made(inoLocal), link: own}
	case "lxc":
		return &inode{m: n.m, e: made(inoLXC), link: own + "/lxc"}
	case "qemu-server":
		return &inode{m: n.m, e: made(inoQemu), link: own + "/qemu-server"}
	case ".vmlist":
		return &inode{m: n.m, e: made(inoVMList), virtual: n.m.db.vmlist}
	}
	return nil
}

// child tells the kernel of an entry.
func (n *inode) child(ctx context.Context, c *inode, out *fuse.EntryOut) *fs.Inode {
	c.attr(&out.Attr)
	return n.NewInode(ctx, c, fs.StableAttr{Mode: out.Attr.Mode & syscall.S_IFMT, Ino: c.e.ino})
}

func (n *inode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (found *fs.Inode, errno syscall.Errno) {
	errno = n.m.look(OpLookup, func() syscall.Errno {
		c := n.special(name)
		if e := n.e.children[name]; c == nil && e != nil {
			c = &inode{m: n.m, e: e}
		}
		if c == nil {
			return syscall.ENOENT
		}
		found = n.child(ctx, c, out)
		return 0
	})
	return found, errno
}

func (n *inode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return n.m.look(OpGetattr, func() syscall.Errno { n.attr(&out.Attr); return 0 })
}

func (n *inode) Readlink(context.Context) ([]byte, syscall.Errno) {
	return []byte(n.link), n.m.look(OpReadlink, func() syscall.Errno { return 0 })
}

func (n *inode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	var list []fuse.DirEntry
	errno := n.m.look(OpReaddir, func() syscall.Errno {
		for _, name := range []string{"local", "lxc", "qemu-server", ".vmlist"} {
			if c := n.special(name); c != nil {
				var a fuse.Attr
				c.attr(&a)
				list = append(list, fuse.DirEntry{Name: name, Ino: a.Ino, Mode: a.Mode & syscall.S_IFMT})
			}
		}
		for _, name := range n.e.names() {
			mode := uint32(syscall.S_IFREG)
			if n.e.children[name].isDir() {
				mode = syscall.S_IFDIR
			}
			list = append(list, fuse.DirEntry{Name: name, Ino: n.e.children[name].ino, Mode: mode})
		}
		return 0
	})
	return fs.NewListDirStream(list), errno
}

func (n *inode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	return n.m.look(OpStatfs, func() syscall.Errno {
		used := (n.m.db.root.size() + blockSize - 1) / blockSize
		out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 256
		out.Blocks = maxTotal / blockSize
		out.Bfree = out.Blocks - uint64(used)
		out.Bavail = out.Bfree
		return 0
	})
}

func (n *inode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return n.m.change(OpSet, n.e.path, func() syscall.Errno {
		if mode, ok := in.GetMode(); ok && (n.e.isDir() || mode&0o7777 != 0o640) {
			return syscall.EPERM
		}
		if uid, ok := in.GetUID(); ok && uid != 0 {
			return syscall.EPERM
		}
		if gid, ok := in.GetGID(); ok && gid != wwwData {
			return syscall.EPERM
		}
		if size, ok := in.GetSize(); ok {
			if errno := n.m.db.truncate(n.e, size); errno != 0 {
				return errno
			}
		}
		if modified, ok := in.GetMTime(); ok {
			n.e.modified = modified.Truncate(1e9)
		}
		n.attr(&out.Attr)
		return 0
	})
}

func (n *inode) Create(ctx context.Context, name string, _ uint32, _ uint32, out *fuse.EntryOut) (made *fs.Inode, h fs.FileHandle, flags uint32, errno syscall.Errno) {
	errno = n.m.change(OpCreate, func() string { return n.e.path() + "/" + name }, func() syscall.Errno {
		if n.special(name) != nil {
			return syscall.EEXIST
		}
		e, errno := n.m.db.create(n.e, name, false)
		if errno != 0 {
			return errno
		}
		c := &inode{m: n.m, e: e}
		made, h = n.child(ctx, c, out), c.handle()
		return 0
	})
	return made, h, fuse.FOPEN_DIRECT_IO, errno
}

func (n *inode) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (made *fs.Inode, errno syscall.Errno) {
	errno = n.m.change(OpMkdir, func() string { return n.e.path() + "/" + name }, func() syscall.Errno {
		e, errno := n.m.db.create(n.e, name, true)
		if errno == 0 {
			made = n.child(ctx, &inode{m: n.m, e: e}, out)
		}
		return errno
	})
	return made, errno
}

func (n *inode) Unlink(_ context.Context, name string) syscall.Errno { return n.remove(name, false) }
func (n *inode) Rmdir(_ context.Context, name string) syscall.Errno  { return n.remove(name, true) }

func (n *inode) remove(name string, dir bool) syscall.Errno {
	return n.m.change(OpRemove, func() string { return n.e.path() + "/" + name }, func() syscall.Errno {
		return n.m.db.remove(n.e, name, dir)
	})
}

func (n *inode) Rename(_ context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	parent := to.EmbeddedInode().Operations().(*inode)
	return n.m.change(OpRename, func() string { return parent.e.path() + "/" + newName }, func() syscall.Errno {
		if flags != 0 {
			return syscall.EINVAL
		}
		return n.m.db.rename(n.e, name, parent.e, newName)
	})
}

// What pmxcfs does not do.

func (n *inode) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (n *inode) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.ENOSYS
}

func (n *inode) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.ENOSYS
}

func (n *inode) Setxattr(context.Context, string, []byte, uint32) syscall.Errno {
	return syscall.ENOTSUP
}

func (n *inode) Getxattr(context.Context, string, []byte) (uint32, syscall.Errno) {
	return 0, syscall.ENOTSUP
}

func (n *inode) Listxattr(context.Context, []byte) (uint32, syscall.Errno) {
	return 0, syscall.ENOTSUP
}
