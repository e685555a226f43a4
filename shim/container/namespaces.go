package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// processNamespace matches the path of a process's namespace.
var processNamespace = regexp.MustCompile(`^/proc/([0-9]+)/ns/([a-z]+)$`)

// joinUserNamespace lets a container that joins namespaces of a process join that
// process's user namespace too, when the specification names none: in a pod of
// unprivileged containers the others' namespaces belong to the sandbox's root, and
// only it may enter them.
func joinUserNamespace(spec *specs.Spec) {
	if spec.Linux == nil {
		return
	}
	pid := ""
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.UserNamespace {
			return
		}
		if match := processNamespace.FindStringSubmatch(filepath.Clean(ns.Path)); match != nil {
			pid = match[1]
		}
	}
	path := "/proc/" + pid + "/ns/user"
	if pid == "" || sameFile(path, "/proc/self/ns/user") {
		return
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: path})
}

// leaveHosts takes namespaces out of the specification whose path turns out to lead to the host's: they are not joined but left as
// they are. A process that has joined a user namespace could not join them, and what may not be changed in the host's is refused by
// the conversion.
func leaveHosts(spec *specs.Spec) {
	if spec.Linux == nil {
		return
	}
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		name := ownNamespaces[ns.Type]
		return ns.Path != "" && name != "" && sameFile(ns.Path, "/proc/self/ns/"+name)
	})
}

// ownNamespaces are the names in /proc/self/ns of those that a container may share with the host.
var ownNamespaces = map[specs.LinuxNamespaceType]string{
	specs.CgroupNamespace:  "cgroup",
	specs.IPCNamespace:     "ipc",
	specs.NetworkNamespace: "net",
	specs.PIDNamespace:     "pid",
	specs.TimeNamespace:    "time",
	specs.UTSNamespace:     "uts",
}

// namespaceKinds are what the kernel says of a namespace's kind (ioctl_ns(2)).
var namespaceKinds = map[specs.LinuxNamespaceType]int{
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
}

// openNamespace opens a namespace to join and makes sure that it is one, and of its
// kind (config-linux.md#namespaces).
func openNamespace(kind specs.LinuxNamespaceType, path string) (*os.File, error) {
	// Not blocking: the path may be a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("join %s namespace: %w", kind, err)
	}
	got, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || got != namespaceKinds[kind] {
		_ = f.Close()
		return nil, fmt.Errorf("join %s namespace: %s is no namespace of that kind: %w", kind, path, errdefs.ErrInvalidArgument)
	}
	return f, nil
}

func sameFile(a, b string) bool {
	fa, err1 := os.Stat(a)
	fb, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(fa, fb)
}

// joinedIDMap is the map of the user namespace that the specification joins; nil
// when it joins none. The rootfs and the LXC config need it.
//
// The kernel tells it of processes only. A namespace without any, such as the one
// that containerd pins for a pod before there is a sandbox, has what the
// specification says; checkIDMap holds that against the truth once there is PID 1.
func joinedIDMap(spec *specs.Spec) (*oci2lxc.IDMap, error) {
	if spec.Linux == nil {
		return nil, nil
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type != specs.UserNamespace || ns.Path == "" {
			continue
		}
		var pid string
		if match := processNamespace.FindStringSubmatch(filepath.Clean(ns.Path)); match != nil && match[2] == "user" {
			pid = match[1]
		} else if len(spec.Linux.UIDMappings) > 0 && len(spec.Linux.GIDMappings) > 0 {
			return &oci2lxc.IDMap{UIDs: spec.Linux.UIDMappings, GIDs: spec.Linux.GIDMappings}, nil
		} else if pid = memberOf(ns.Path); pid == "" {
			return nil, fmt.Errorf("linux.namespaces: user namespace %s: no process is in it whose id map could be read: %w (hint: say it in linux.uidMappings and gidMappings)",
				ns.Path, errdefs.ErrInvalidArgument)
		}
		ids, err := readIDMaps(pid)
		if err != nil {
			return nil, fmt.Errorf("linux.namespaces: user namespace %s: %w", ns.Path, err)
		}
		return ids, nil
	}
	return nil, nil
}

// memberOf finds a process that is in the user namespace at path; empty for none.
func memberOf(path string) string {
	candidates, _ := filepath.Glob("/proc/[0-9]*/ns/user")
	for _, c := range candidates {
		if sameFile(path, c) {
			return processNamespace.FindStringSubmatch(c)[1]
		}
	}
	return ""
}

// checkIDMap makes sure that a user namespace that was joined has the map that the
// container was built with.
func (c *Container) checkIDMap(pid int) error {
	if c.plan.Namespace(specs.UserNamespace).Mode != oci2lxc.NamespaceJoin {
		return nil
	}
	ids, err := readIDMaps(strconv.Itoa(pid))
	if err != nil {
		return err
	}
	if !c.plan.IDMap.Equal(ids) {
		return fmt.Errorf("linux.uidMappings, linux.gidMappings: the user namespace that is joined has others: %v and %v: %w",
			ids.UIDs, ids.GIDs, errdefs.ErrInvalidArgument)
	}
	return nil
}

func readIDMaps(pid string) (*oci2lxc.IDMap, error) {
	uids, err1 := readIDMap("/proc/" + pid + "/uid_map")
	gids, err2 := readIDMap("/proc/" + pid + "/gid_map")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return &oci2lxc.IDMap{UIDs: uids, GIDs: gids}, nil
}

func readIDMap(path string) ([]specs.LinuxIDMapping, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read id map: %w", err)
	}
	return parseIDMap(string(data))
}

// parseIDMap parses uid_map and gid_map (user_namespaces(7)).
func parseIDMap(text string) ([]specs.LinuxIDMapping, error) {
	var ids []specs.LinuxIDMapping
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("read id map: bad line %q", line)
		}
		var n [3]uint32
		for i := range f {
			v, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("read id map: bad line %q: %w", line, err)
			}
			n[i] = uint32(v)
		}
		ids = append(ids, specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return ids, nil
}
