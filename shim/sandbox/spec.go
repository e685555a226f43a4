package sandbox

import (
	"fmt"
	"maps"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/cgroup"
)

// unprivileged are the parameters that containerd's CRI gives a network namespace of a pod unless its configuration says otherwise
// (enable_unprivileged_ports, enable_unprivileged_icmp), which a shim does not learn.
var unprivileged = map[string]string{
	"net.ipv4.ip_unprivileged_port_start": "0",
	"net.ipv4.ping_group_range":           "0 2147483647",
}

// spec is the specification of the container that a sandbox would be if it were one.
func (p *Pod) spec(id, netns string) (*specs.Spec, error) {
	for field, mode := range map[string]NamespaceMode{"network": p.Network, "pid": p.PID, "ipc": p.IPC} {
		if mode > NamespaceNode || mode == NamespaceContainer && field != "pid" {
			return nil, fmt.Errorf("linux.security_context.namespace_options.%s: a sandbox cannot have mode %d: %w", field, mode,
				errdefs.ErrInvalidArgument)
		}
	}
	linux := &specs.Linux{Sysctl: maps.Clone(p.Sysctls)}
	add := func(kind specs.LinuxNamespaceType, path string) {
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	add(specs.MountNamespace, "") // of each container
	hostname := ""
	if p.Network == NamespacePod {
		if netns == "" {
			return nil, fmt.Errorf("sandbox without a network namespace, and its pod is not on the host's network: %w", errdefs.ErrInvalidArgument)
		}
		add(specs.NetworkNamespace, netns)
		add(specs.UTSNamespace, "")
		hostname = p.hostname()
		p.addUnprivileged(linux)
	}
	if p.IPC == NamespacePod {
		add(specs.IPCNamespace, "")
	}
	if p.PID == NamespacePod {
		add(specs.PIDNamespace, "")
	}
	if p.IDMap != nil {
		add(specs.UserNamespace, "")
		linux.UIDMappings, linux.GIDMappings = p.IDMap.UIDs, p.IDMap.GIDs
	}
	return &specs.Spec{
		Version:  specs.Version,
		Process:  &specs.Process{Args: []string{"pause"}, Cwd: "/"},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: hostname,
		Annotations: map[string]string{
			"io.kubernetes.cri.container-type":        "sandbox",
			"io.kubernetes.cri.sandbox-id":            id,
			"io.kubernetes.cri.sandbox-name":          p.Name,
			"io.kubernetes.cri.sandbox-namespace":     p.Namespace,
			"io.kubernetes.cri.sandbox-uid":           p.UID,
			"io.kubernetes.cri.sandbox-log-directory": p.LogDirectory,
		},
		Linux: linux,
	}, nil
}

// hostname is that of the pod; one that names none has the node's.
func (p *Pod) hostname() string {
	if p.Hostname != "" {
		return p.Hostname
	}
	name, _ := os.Hostname() // else it is what a new namespace has: the node's
	return name
}

// addUnprivileged adds the parameters that the pod does not set itself. In a user namespace groups beyond its map cannot be
// written; CRI leaves that out as well.
func (p *Pod) addUnprivileged(linux *specs.Linux) {
	if linux.Sysctl == nil {
		linux.Sysctl = make(map[string]string)
	}
	for name, value := range unprivileged {
		if _, given := linux.Sysctl[name]; given || name == "net.ipv4.ping_group_range" && p.IDMap != nil {
			continue
		}
		linux.Sysctl[name] = value
	}
}

// plan checks the specification as that of a container.
func plan(c Config, spec *specs.Spec) (*oci2lxc.Plan, error) {
	return oci2lxc.Convert(spec, oci2lxc.Options{
		ID:           c.ID,
		Namespace:    c.Namespace,
		Bundle:       c.Bundle,
		Name:         c.ID,
		InitPath:     "/proc/self/exe",
		CgroupMode:   cgroup.Mode(),
		Unprivileged: c.Settings.Unprivileged,
	})
}
