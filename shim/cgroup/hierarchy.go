package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// root is where every layout of cgroups(7) has its mounts.
const root = "/sys/fs/cgroup"

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	// name is the directory below root: "cpu,cpuacct", "systemd", "unified"; empty
	// on a host with v2 alone.
	name string
	// controllers are those of a v1 hierarchy; "name=systemd" for a named one.
	controllers []string
	v2          bool
}

// dir is the directory of the cgroup at path, which is relative to the hierarchy.
func (h hierarchy) dir(path string) string { return filepath.Join(root, h.name, path) }

// owns says whether the line of /proc/PID/cgroup with this controller list is
// about h.
func (h hierarchy) owns(controllers string) bool {
	if h.v2 || controllers == "" {
		return h.v2 && controllers == ""
	}
	first, _, _ := strings.Cut(controllers, ",")
	return slices.Contains(h.controllers, first)
}

// Mode says which of the three layouts of cgroups(7) the host has.
func Mode() oci2lxc.CgroupMode {
	switch {
	case isFilesystem(root, unix.CGROUP2_SUPER_MAGIC):
		return oci2lxc.CgroupUnified
	case isFilesystem(filepath.Join(root, "unified"), unix.CGROUP2_SUPER_MAGIC):
		return oci2lxc.CgroupHybrid
	default:
		return oci2lxc.CgroupLegacy
	}
}

func isFilesystem(path string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && int64(st.Type) == magic
}

// hierarchies lists the trees of a layout. Mounts of cgroup filesystems do not
// change while a host runs, so the answer is kept.
func hierarchies(mode oci2lxc.CgroupMode) ([]hierarchy, error) {
	if mode == oci2lxc.CgroupUnified {
		return []hierarchy{{v2: true}}, nil
	}
	v1, err := readV1()
	if err != nil {
		return nil, err
	}
	if mode == oci2lxc.CgroupHybrid {
		return append(slices.Clip(v1), hierarchy{name: "unified", v2: true}), nil
	}
	return v1, nil
}

var readV1 = sync.OnceValues(func() ([]hierarchy, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	named, err := namedHierarchies()
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for _, entry := range entries {
		// "cpu" may be a symbolic link to "cpu,cpuacct": one tree, taken once.
		if !entry.IsDir() || !isFilesystem(filepath.Join(root, entry.Name()), unix.CGROUP_SUPER_MAGIC) {
			continue
		}
		h := hierarchy{name: entry.Name(), controllers: strings.Split(entry.Name(), ",")}
		if slices.Contains(named, "name="+h.name) {
			h.controllers = []string{"name=" + h.name}
		}
		found = append(found, h)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted below %s (hint: mount -t cgroup2 none %s)", root, root)
	}
	return found, nil
})

func namedHierarchies() ([]string, error) {
	members, err := readMembership("self")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range members {
		if strings.HasPrefix(m.controllers, "name=") {
			names = append(names, m.controllers)
		}
	}
	return names, nil
}

// membership is one line of /proc/PID/cgroup.
type membership struct {
	// controllers is as the kernel writes it: "cpu,cpuacct", "name=systemd", or
	// empty for v2.
	controllers string
	// path is relative to the hierarchy's root, without a leading '/'.
	path string
}

// errOutside says that a process's cgroup cannot be named from here: it was
// removed, or lies above the root of our cgroup namespace.
var errOutside = errors.New("cgroup is not visible")

func readMembership(pid string) ([]membership, error) {
	data, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read cgroups of process %s: %w", pid, err)
	}
	return parseMembership(string(data))
}

// parseMembership reads the format of cgroups(7): "id:controllers:path". A path
// may hold ':' but no newline.
func parseMembership(data string) ([]membership, error) {
	var members []membership
	for line := range strings.Lines(data) {
		line = strings.TrimSuffix(line, "\n")
		fields := strings.SplitN(line, ":", 3)
		if len(fields) != 3 || !strings.HasPrefix(fields[2], "/") {
			return nil, fmt.Errorf("malformed line %q in a cgroup list", line)
		}
		path := strings.TrimPrefix(fields[2], "/")
		if path == ".." || strings.HasPrefix(path, "../") || strings.HasSuffix(path, " (deleted)") {
			return nil, fmt.Errorf("%q: %w", line, errOutside)
		}
		members = append(members, membership{controllers: fields[1], path: path})
	}
	return members, nil
}
