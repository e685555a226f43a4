package node

import (
	"path/filepath"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/shim/container"
)

// Annotations that tell who a container is: containerd's CRI plugin sets the first,
// nerdctl the others.
const (
	criType      = "io.kubernetes.cri.container-type"
	criContainer = "io.kubernetes.cri.container-name"
	criImage     = "io.kubernetes.cri.image-name"
	criPod       = "io.kubernetes.cri.sandbox-name"
	criNamespace = "io.kubernetes.cri.sandbox-namespace"
	nerdctlName  = "nerdctl/name"
	nerdctlHost  = "nerdctl/hostname"
)

// Identity is who a container is to its user, by its annotations.
type Identity struct {
	// Pod is "namespace/name", Name the container's in it, or nerdctl's name.
	Pod, Name, Image string
	Sandbox          bool
}

// Describe reads an Identity.
func Describe(annotations map[string]string) Identity {
	i := Identity{Name: annotations[criContainer], Image: annotations[criImage], Sandbox: annotations[criType] == "sandbox"}
	if pod := annotations[criPod]; pod != "" {
		i.Pod = annotations[criNamespace] + "/" + pod
	} else {
		i.Name = annotations[nerdctlName]
	}
	return i
}

// isSandbox says whether a container is a pod's pause container.
func isSandbox(spec *specs.Spec) bool { return spec.Annotations[criType] == "sandbox" }

// guest describes a container for Proxmox VE. The environment and the arguments are
// not part of it: they hold secrets, and the cluster's files can be read by others.
func guest(g container.Guest) pve.Guest {
	a := g.Spec.Annotations
	out := pve.Guest{
		Namespace:      g.Namespace,
		ID:             g.ID,
		Image:          a[criImage],
		Rootfs:         g.Plan.Rootfs.Path,
		RootfsFallback: filepath.Join(container.DefaultRoot, "rootfs"),
		Unprivileged:   g.Plan.IDMap != nil,
		IDMap:          idMap(g.Plan.IDMap),
		HaltSignal:     haltSignal(g.Plan.Config),
		Limits:         limits(g.Plan.Cgroup.Resources),
	}
	if pod := a[criPod]; pod != "" {
		out.Name = pod
		out.Pod = a[criNamespace] + "/" + pod
		out.Container = a[criContainer]
		out.Tags = []string{"k8s", "ns-" + a[criNamespace], "pod-" + pod}
		return out
	}
	for _, name := range []string{a[nerdctlName], a[nerdctlHost], g.Spec.Hostname, g.ID} {
		if name != "" {
			out.Name = name
			break
		}
	}
	out.Tags = []string{"containerd", "ns-" + g.Namespace}
	return out
}

// haltSignal is what the LXC config says.
func haltSignal(c oci2lxc.Config) string {
	for _, item := range c {
		if item.Key == "lxc.signal.halt" {
			return item.Value
		}
	}
	return ""
}

func idMap(m *oci2lxc.IDMap) []pve.IDMap {
	if m == nil {
		return nil
	}
	var lines []pve.IDMap
	for _, kind := range []struct {
		group bool
		ids   []specs.LinuxIDMapping
	}{{false, m.UIDs}, {true, m.GIDs}} {
		for _, id := range kind.ids {
			lines = append(lines, pve.IDMap{Group: kind.group, Container: id.ContainerID, Host: id.HostID, Size: id.Size})
		}
	}
	return lines
}

// limits translates an OCI container's limits into what PVE shows of them.
func limits(r *specs.LinuxResources) pve.Limits {
	l := pve.Limits{Swap: pve.Unlimited}
	if r == nil {
		return l
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil && *m.Limit > 0 {
			l.Memory = *m.Limit
		}
		// OCI counts memory into swap, PVE does not.
		if m.Swap != nil && *m.Swap > 0 && l.Memory > 0 {
			l.Swap = max(0, *m.Swap-l.Memory)
		}
	}
	if c := r.CPU; c != nil {
		if c.Quota != nil && *c.Quota > 0 {
			l.CPUQuota, l.CPUPeriod = *c.Quota, 100000 // the kernel's, where none is given
			if c.Period != nil && *c.Period > 0 {
				l.CPUPeriod = int64(*c.Period)
			}
		}
		if c.Shares != nil && *c.Shares > 0 {
			l.CPUWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
		}
		l.CPUs = c.Cpus
	}
	return l
}

// rootfsSize is what df says of a mounted root, in bytes; 0 where it says nothing.
func rootfsSize(path string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return 0
	}
	return int64(st.Blocks) * st.Bsize
}
