package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// walk visits the cgroup dir and all cgroups below it, children before their
// parent. visit gets the open directory; leave, when not nil, is called after that
// with the parent's and the name, to remove it. The container decides how deep and
// wide its own tree is, so walk holds one file descriptor whatever the depth, and
// no path that could grow beyond PATH_MAX. Cgroups that vanish meanwhile are
// skipped.
func walk(dir string, visit func(cgroup *os.File) error, leave func(parent *os.File, name string) error) error {
	current, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { current.Close() }()

	type level struct {
		name     string
		children []string
	}
	children, err := childNames(current)
	if vanished(err) {
		return nil
	} else if err != nil {
		return err
	}
	stack := []level{{children: children}}
	for {
		top := &stack[len(stack)-1]
		if n := len(top.children); n > 0 {
			name := top.children[n-1]
			top.children = top.children[:n-1]
			child, err := openChild(current, name)
			if vanished(err) {
				continue
			} else if err != nil {
				return err
			}
			current.Close()
			current = child
			children, err := childNames(current)
			if err != nil && !vanished(err) {
				return err
			}
			stack = append(stack, level{name: name, children: children})
			continue
		}
		if err := visit(current); err != nil && !vanished(err) {
			return err
		}
		if len(stack) == 1 {
			return nil
		}
		// Cgroups never move to another parent, so ".." is where we came from.
		parent, err := openChild(current, "..")
		if err != nil {
			return err
		}
		current.Close()
		current = parent
		if leave != nil {
			if err := leave(parent, top.name); err != nil && !vanished(err) {
				return err
			}
		}
		stack = stack[:len(stack)-1]
	}
}

func openChild(parent *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open cgroup", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func childNames(dir *os.File) ([]string, error) {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// vanished says that the cgroup was removed: ENODEV comes from files of it that
// are still open.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

// readProcs reads cgroup.procs of an open cgroup. On v2 a threaded cgroup has no
// processes of its own to list (EOPNOTSUPP); its domain, above it, lists them.
func readProcs(cgroup *os.File) ([]int, error) {
	fd, err := unix.Openat(int(cgroup.Fd()), "cgroup.procs", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "cgroup.procs", Err: err}
	}
	file := os.NewFile(uintptr(fd), "cgroup.procs")
	defer file.Close()
	data, err := io.ReadAll(file)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return parsePids(string(data))
}

// parsePids drops 0, the kernel's name for a process outside our PID namespace:
// kill(2) would take it for our own process group.
func parsePids(data string) ([]int, error) {
	var pids []int
	for field := range strings.FieldsSeq(data) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid < 0 {
			return nil, fmt.Errorf("malformed process id %q in cgroup.procs", field)
		}
		if pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// allPids lists the processes of dir and all cgroups below it, sorted.
func allPids(dir string) ([]int, error) {
	var all []int
	err := walk(dir, func(cgroup *os.File) error {
		pids, err := readProcs(cgroup)
		all = append(all, pids...)
		return err
	}, nil)
	switch {
	case err == nil:
		return sortedUnique(all), nil
	case !isDir(dir): // whatever a kernel says of one that was removed meanwhile
		return nil, nil
	}
	return nil, fmt.Errorf("list processes of cgroup %s: %w", dir, err)
}

// removeAll removes dir and all cgroups below it; EBUSY when one has processes.
func removeAll(dir string) error {
	err := walk(dir, func(*os.File) error { return nil }, func(parent *os.File, name string) error {
		if err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR); err != nil {
			return &os.PathError{Op: "rmdir", Path: name, Err: err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := unix.Rmdir(dir); err != nil && !vanished(err) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}
