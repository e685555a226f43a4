package sandbox

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/wire"
)

// Pod is what CRI asks of a sandbox (runtime.v1.PodSandboxConfig), as far as a sandbox has to do with it.
type Pod struct {
	Name, Namespace, UID string
	// Hostname is the node's where it is empty.
	Hostname string
	// LogDirectory is where the containers' logs go; it is told, and not used.
	LogDirectory string
	// DNS is nil for the node's.
	DNS *DNS
	// CgroupParent is the control group that all containers of the pod are made in.
	CgroupParent string
	Sysctls      map[string]string
	Network      NamespaceMode
	PID          NamespaceMode
	IPC          NamespaceMode
	// IDMap is that of the pod's user namespace; nil for the host's.
	IDMap *oci2lxc.IDMap
}

// DNS is a resolv.conf (resolv.conf(5)).
type DNS struct{ Servers, Searches, Options []string }

// NamespaceMode says who shares a namespace (runtime.v1.NamespaceMode).
type NamespaceMode uint64

// The modes that a sandbox can have.
const (
	// NamespacePod is shared by the pod's containers.
	NamespacePod NamespaceMode = 0
	// NamespaceContainer is each container's own.
	NamespaceContainer NamespaceMode = 1
	// NamespaceNode is the host's.
	NamespaceNode NamespaceMode = 2
)

// podType is the name of the message that CRI sends.
const podType = "runtime.v1.PodSandboxConfig"

// DecodePod reads the options of a sandbox. CRI's own types come with gRPC, which a shim does not link.
func DecodePod(options *anypb.Any) (*Pod, error) {
	if got := options.MessageName(); got != podType {
		return nil, fmt.Errorf("options of a sandbox: expected %s, got type %q: %w (hint: sandboxer = \"shim\" is for pods of containerd's CRI)",
			podType, got, errdefs.ErrInvalidArgument)
	}
	p := new(Pod)
	if err := wire.Message(options.Value, p.field); err != nil {
		return nil, fmt.Errorf("options of a sandbox: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// The numbers below are those of k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.

func (p *Pod) field(n protowire.Number, v wire.Value) error {
	switch n {
	case 1:
		return v.Message(func(n protowire.Number, v wire.Value) error { // PodSandboxMetadata
			return v.Text(map[protowire.Number]*string{1: &p.Name, 2: &p.UID, 3: &p.Namespace}[n])
		})
	case 2:
		return v.Text(&p.Hostname)
	case 3:
		return v.Text(&p.LogDirectory)
	case 4:
		p.DNS = new(DNS)
		return v.Message(func(n protowire.Number, v wire.Value) error { // DNSConfig
			return v.Texts(map[protowire.Number]*[]string{1: &p.DNS.Servers, 2: &p.DNS.Searches, 3: &p.DNS.Options}[n])
		})
	case 8:
		return v.Message(p.linux)
	}
	return nil
}

// linux is LinuxPodSandboxConfig.
func (p *Pod) linux(n protowire.Number, v wire.Value) error {
	switch n {
	case 1:
		return v.Text(&p.CgroupParent)
	case 2:
		return v.Message(func(n protowire.Number, v wire.Value) error { // LinuxSandboxSecurityContext
			if n != 1 {
				return nil
			}
			return v.Message(p.namespaces)
		})
	case 3:
		key, value, err := v.Entry()
		if p.Sysctls == nil {
			p.Sysctls = make(map[string]string)
		}
		p.Sysctls[key] = value
		return err
	}
	return nil
}

// namespaces is NamespaceOption.
func (p *Pod) namespaces(n protowire.Number, v wire.Value) error {
	switch n {
	case 1:
		p.Network = NamespaceMode(v.Number)
	case 2:
		p.PID = NamespaceMode(v.Number)
	case 3:
		p.IPC = NamespaceMode(v.Number)
	case 5:
		return p.userNamespace(v)
	}
	return nil
}

// userNamespace is UserNamespace.
func (p *Pod) userNamespace(v wire.Value) error {
	ids, mode := new(oci2lxc.IDMap), NamespacePod
	err := v.Message(func(n protowire.Number, v wire.Value) error {
		switch n {
		case 1:
			mode = NamespaceMode(v.Number)
		case 2:
			return idMapping(v, &ids.UIDs)
		case 3:
			return idMapping(v, &ids.GIDs)
		}
		return nil
	})
	if mode == NamespacePod {
		p.IDMap = ids
	}
	return err
}

// idMapping is IDMapping.
func idMapping(v wire.Value, to *[]specs.LinuxIDMapping) error {
	var m specs.LinuxIDMapping
	err := v.Message(func(n protowire.Number, v wire.Value) error {
		if field := map[protowire.Number]*uint32{1: &m.HostID, 2: &m.ContainerID, 3: &m.Size}[n]; field != nil {
			*field = uint32(v.Number)
		}
		return nil
	})
	*to = append(*to, m)
	return err
}
