package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// processNamespace matches the path of a process's namespace.
var processNamespace = regexp.MustCompile(`^/proc/([0-9]+)/ns/([a-z]+)$`)

// kernelNames are those of the files in /proc/PID/ns that a pod's containers may share (namespaces(7)).
var kernelNames = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net",
	specs.IPCNamespace:     "ipc",
	specs.UTSNamespace:     "uts",
	specs.PIDNamespace:     "pid",
	specs.UserNamespace:    "user",
}

// Join gives the specification of one of the pod's containers what the pod shares: the namespaces that it wants of the sandbox's
// process, and the mounts that CRI leaves to who has made the sandbox.
func (s *Sandbox) Join(spec *specs.Spec) error {
	status := s.Status()
	if !status.Ready() {
		return fmt.Errorf("sandbox %s is not ready: %w", s.id, errdefs.ErrFailedPrecondition)
	}
	if spec.Linux == nil {
		spec.Linux = new(specs.Linux)
	}
	for i, ns := range spec.Linux.Namespaces {
		match := processNamespace.FindStringSubmatch(filepath.Clean(ns.Path))
		if match == nil || match[1] != strconv.Itoa(status.Pid) || match[2] != kernelNames[ns.Type] {
			continue
		}
		path, err := s.namespacePath(ns.Type)
		if err != nil {
			return fmt.Errorf("linux.namespaces[%d]: %w", i, err)
		}
		spec.Linux.Namespaces[i].Path = path
	}
	if err := s.joinUser(spec); err != nil {
		return err
	}
	s.share(spec)
	return nil
}

// namespacePath is where liblxc's monitor, which is another process, finds a namespace of the pod; the host's where the pod has none.
func (s *Sandbox) namespacePath(kind specs.LinuxNamespaceType) (string, error) {
	self := strconv.Itoa(os.Getpid())
	if kind == specs.NetworkNamespace && s.netns != "" {
		return s.netns, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.held[kind]; f != nil {
		return "/proc/" + self + "/fd/" + strconv.Itoa(int(f.Fd())), nil
	}
	if kind == specs.PIDNamespace && s.pod.PID == NamespaceContainer {
		return "", fmt.Errorf("the pod shares no PID namespace: %w (hint: say so in the pod's namespace options, too)", errdefs.ErrInvalidArgument)
	}
	return "/proc/" + self + "/ns/" + kernelNames[kind], nil
}

// joinUser puts a container into the pod's user namespace when its specification names none: that namespace owns the others, and
// only its root may enter them.
func (s *Sandbox) joinUser(spec *specs.Spec) error {
	ids := s.plan.IDMap
	named := slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
	if ids == nil || named {
		return nil
	}
	path, err := s.namespacePath(specs.UserNamespace)
	if err != nil {
		return err
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: path})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = ids.UIDs, ids.GIDs
	return nil
}

// share adds the mounts of the sandbox's files where CRI has none: it mounts those that it finds in a directory of its own, where a
// sandbox of its own would have put them.
func (s *Sandbox) share(spec *specs.Spec) {
	mode := "rw"
	if spec.Root != nil && spec.Root.Readonly {
		mode = "ro"
	}
	for _, file := range []string{"hostname", "hosts", "resolv.conf"} {
		destination := "/etc/" + file
		if !hasMount(spec, destination) {
			spec.Mounts = append(spec.Mounts, bind(s.files.path(file), destination, mode))
		}
	}
	if s.pod.IPC == NamespaceNode {
		return
	}
	shm := bind(s.files.path("shm"), "/dev/shm", "rw")
	for i, m := range spec.Mounts {
		if filepath.Clean(m.Destination) != shm.Destination {
			continue
		}
		if m.Type == "tmpfs" && m.Source == "shm" { // the default of a container without a pod
			spec.Mounts[i] = shm
		}
		return
	}
	spec.Mounts = append(spec.Mounts, shm)
}

func bind(source, destination, mode string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind", "rprivate", mode}}
}

func hasMount(spec *specs.Spec, destination string) bool {
	return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return filepath.Clean(m.Destination) == destination })
}
