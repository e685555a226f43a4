package pvetest

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxFile is pmxcfs's limit for one file, maxTotal what it says of itself in blocks of blockSize; nothing is refused for the
// total's sake (memdb.c).
const (
	maxFile   = 1 << 20
	maxTotal  = 128 << 20
	blockSize = 4096
)

// guestPath is what pmxcfs takes for the configuration of a guest.
var guestPath = regexp.MustCompile(`^/nodes/([^/]+)/(lxc|qemu-server)/([1-9][0-9]*)\.conf$`)

// entry is a file or directory of the database. The nodes' mounts show the same
// entries.
type entry struct {
	ino      uint64
	name     string
	parent   *entry // nil for the root and for what was removed
	children map[string]*entry
	data     []byte
	modified time.Time // whole seconds
}

func (e *entry) isDir() bool { return e.children != nil }

func (e *entry) path() string {
	if e.parent == nil {
		return ""
	}
	return e.parent.path() + "/" + e.name
}

// database is what the nodes of a cluster agree on.
type database struct {
	mu      sync.Mutex // guards all below, entries included
	root    *entry
	lastIno uint64
	version int
	guests  map[string]*entry // by VMID, virtual machines and containers of all nodes
}

func newDatabase(nodes []string) *database {
	d := &database{guests: map[string]*entry{}, lastIno: 100}
	d.root = d.newEntry(true)
	all := d.add(d.root, "nodes", true)
	for _, n := range nodes {
		node := d.add(all, n, true)
		d.add(node, "lxc", true)
		d.add(node, "qemu-server", true)
	}
	return d
}

func (d *database) newEntry(dir bool) *entry {
	d.lastIno++
	e := &entry{ino: d.lastIno}
	if dir {
		e.children = map[string]*entry{}
	}
	d.touch(e)
	return e
}

// size is what the content of all files takes.
func (e *entry) size() int {
	total := len(e.data)
	for _, c := range e.children {
		total += c.size()
	}
	return total
}

func (d *database) touch(e *entry) {
	d.version++
	e.modified = time.Now().Truncate(time.Second)
}

// add makes a child; the name must be free.
func (d *database) add(parent *entry, name string, dir bool) *entry {
	e := d.newEntry(dir)
	d.attach(parent, name, e)
	return e
}

func (d *database) attach(parent *entry, name string, e *entry) {
	e.parent, e.name = parent, name
	parent.children[name] = e
	d.touch(parent)
	if m := guestPath.FindStringSubmatch(e.path()); m != nil && !e.isDir() {
		d.guests[m[3]] = e
	}
}

func (d *database) detach(e *entry) {
	if m := guestPath.FindStringSubmatch(e.path()); m != nil && d.guests[m[3]] == e {
		delete(d.guests, m[3])
	}
	delete(e.parent.children, e.name)
	d.touch(e.parent)
	e.parent = nil
}

// taken reports EEXIST where the path would give a VMID twice. mover and replaced
// may hold it.
func (d *database) taken(path string, mover, replaced *entry) syscall.Errno {
	m := guestPath.FindStringSubmatch(path)
	if m == nil {
		return 0
	}
	if holder := d.guests[m[3]]; holder != nil && holder != mover && holder != replaced {
		return syscall.EEXIST
	}
	return 0
}

func (d *database) create(parent *entry, name string, dir bool) (*entry, syscall.Errno) {
	if parent.children[name] != nil {
		return nil, syscall.EEXIST
	}
	if !dir {
		if errno := d.taken(parent.path()+"/"+name, nil, nil); errno != 0 {
			return nil, errno
		}
	}
	return d.add(parent, name, dir), 0
}

func (d *database) remove(parent *entry, name string, dir bool) syscall.Errno {
	e := parent.children[name]
	switch {
	case e == nil:
		return syscall.ENOENT
	case dir && !e.isDir():
		return syscall.ENOTDIR
	case !dir && e.isDir():
		return syscall.EISDIR
	case len(e.children) > 0:
		return syscall.ENOTEMPTY
	}
	d.detach(e)
	return 0
}

func (d *database) rename(parent *entry, name string, newParent *entry, newName string) syscall.Errno {
	e, old := parent.children[name], newParent.children[newName]
	switch {
	case e == nil:
		return syscall.ENOENT
	case e == old:
		return 0
	case old != nil && old.isDir():
		return syscall.EEXIST
	}
	if errno := d.taken(newParent.path()+"/"+newName, e, old); errno != 0 {
		return errno
	}
	if old != nil {
		d.detach(old)
	}
	d.detach(e)
	d.attach(newParent, newName, e)
	return 0
}

func (d *database) write(e *entry, data []byte, offset int64) syscall.Errno {
	end := offset + int64(len(data))
	if end > maxFile {
		return syscall.EFBIG
	}
	if grow := end - int64(len(e.data)); grow > 0 {
		e.data = append(e.data, make([]byte, grow)...)
	}
	copy(e.data[offset:], data)
	d.touch(e)
	return 0
}

func (d *database) truncate(e *entry, size uint64) syscall.Errno {
	if size > maxFile {
		return syscall.EFBIG
	}
	if n := int(size); n <= len(e.data) {
		e.data = e.data[:n]
	} else {
		e.data = append(e.data, make([]byte, n-len(e.data))...)
	}
	d.touch(e)
	return 0
}

// vmlist is the content of .vmlist.
func (d *database) vmlist() []byte {
	type guest struct {
		Node    string `json:"node"`
		Type    string `json:"type"`
		Version int    `json:"version"`
	}
	ids := map[string]guest{}
	for id, e := range d.guests {
		m := guestPath.FindStringSubmatch(e.path())
		ids[id] = guest{Node: m[1], Type: strings.TrimSuffix(m[2], "-server"), Version: 1}
	}
	list := map[string]any{"version": d.version}
	if len(ids) > 0 { // cfs_create_vmlist_msg
		list["ids"] = ids
	}
	data, _ := json.Marshal(list) // maps, strings and integers always marshal
	return append(data, '\n')
}

func (e *entry) names() []string { return slices.Sorted(maps.Keys(e.children)) }
