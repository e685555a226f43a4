package zfs

import (
	"fmt"
	"os"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mounted knows where file systems are mounted in this process's mount namespace. The kernel is asked for the list only
// when it says that the list has changed (proc_pid_mountinfo(5)): on a node of a thousand containers, each of which is asked
// for its usage every few seconds, to read it each time would be most of the work. The zero value is ready for use.
type Mounted struct {
	// list and fstype are for tests.
	list, fstype string

	mu     sync.Mutex
	file   *os.File         // guarded by mu
	places map[string]place // guarded by mu; by dataset
	reads  int              // guarded by mu
}

// place is one mount.
type place struct {
	path string
	dev  uint64
}

// Objects counts the inodes of a file system through statfs(2) on a mount of it. It is ErrUnsupported where there is none.
func (m *Mounted) Objects(dataset string) (uint64, error) {
	fail := func(kind error, format string, args ...any) (uint64, error) {
		return 0, &Error{Op: "count objects of", Name: dataset, Kind: kind, Detail: fmt.Sprintf(format, args...)}
	}
	p, ok, err := m.find(dataset)
	if err != nil {
		return fail(ErrFailed, "read the mounts: %v", err)
	}
	if !ok {
		return fail(ErrUnsupported, "it is not mounted here")
	}
	fd, err := unix.Open(p.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(ErrUnsupported, "its mount: %v", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail(ErrUnsupported, "its mount: %v", err)
	}
	// Unmounted meanwhile, or something is mounted over it.
	if st.Dev != p.dev {
		return fail(ErrUnsupported, "it is not mounted here any more")
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fail(ErrUnsupported, "statfs: %v", err)
	}
	return fs.Files - fs.Ffree, nil
}

// find gives the last mount of a dataset.
func (m *Mounted) find(dataset string) (place, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.refresh(); err != nil {
		return place{}, false, err
	}
	p, ok := m.places[dataset]
	return p, ok, nil
}

// refresh reads the list when it has changed. m.mu is held.
func (m *Mounted) refresh() error {
	if m.file == nil {
		list := m.list
		if list == "" {
			list = "/proc/self/mountinfo"
		}
		// Not os.Open: Go's own poller would take the kernel's word away, which is given once.
		fd, err := unix.Open(list, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		m.file = os.NewFile(uintptr(fd), list)
	} else if m.places != nil {
		poll := []unix.PollFd{{Fd: int32(m.file.Fd()), Events: unix.POLLPRI}} //nolint:gosec // a descriptor is small
		for {
			_, err := unix.Poll(poll, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			break
		}
		if poll[0].Revents == 0 {
			return nil
		}
	}
	// After a failure it is read again.
	m.places = nil
	if _, err := m.file.Seek(0, 0); err != nil {
		return err
	}
	fstype := m.fstype
	if fstype == "" {
		fstype = "zfs"
	}
	mounts, err := mountinfo.GetMountsFromReader(m.file, func(i *mountinfo.Info) (skip, stop bool) { return i.FSType != fstype, false })
	if err != nil {
		return err
	}
	m.reads++
	m.places = make(map[string]place, len(mounts))
	for _, i := range mounts {
		m.places[i.Source] = place{i.Mountpoint, unix.Mkdev(uint32(i.Major), uint32(i.Minor))} //nolint:gosec // the kernel's own numbers
	}
	return nil
}

// Close gives up what is open.
func (m *Mounted) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file != nil {
		m.file.Close()
	}
	m.file, m.places = nil, nil
}
