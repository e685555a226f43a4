package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/wire"
)

// message writes one with the fields that f adds.
func message(f func(*wire.Builder)) []byte {
	var b wire.Builder
	f(&b)
	return b
}

// everything is a pod with all fields that are read, and some that are not.
func everything() *anypb.Any {
	ids := message(func(b *wire.Builder) { b.Number(1, 200000); b.Number(2, 0); b.Number(3, 65536) })
	return &anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: message(func(b *wire.Builder) {
		b.Bytes(1, message(func(b *wire.Builder) { b.Text(1, "web"); b.Text(2, "u-1"); b.Text(3, "shop"); b.Number(4, 3) }))
		b.Text(2, "web-0")
		b.Text(3, "/var/log/pods/web")
		b.Bytes(4, message(func(b *wire.Builder) {
			b.Text(1, "10.0.0.1")
			b.Text(1, "10.0.0.2")
			b.Text(2, "svc")
			b.Text(3, "ndots:5")
		}))
		b.Bytes(5, message(func(b *wire.Builder) { b.Number(2, 80) }))
		b.Entry(6, "app", "web")
		b.Bytes(8, message(func(b *wire.Builder) {
			b.Text(1, "/kubepods/pod1")
			b.Bytes(2, message(func(b *wire.Builder) {
				b.Bytes(1, message(func(b *wire.Builder) {
					b.Number(1, 2)
					b.Number(2, 1)
					b.Number(3, 2)
					b.Bytes(5, message(func(b *wire.Builder) { b.Bytes(2, ids); b.Bytes(3, ids) }))
				}))
				b.Number(4, 1)
			}))
			b.Entry(3, "kernel.msgmax", "9")
		}))
	})}
}

func TestDecodePod(t *testing.T) {
	got, err := DecodePod(everything())
	if err != nil {
		t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	want := &Pod{
		Name: "web", Namespace: "shop", UID: "u-1", Hostname: "web-0", LogDirectory: "/var/log/pods/web",
		DNS:          &DNS{Servers: []string{"10.0.0.1", "10.0.0.2"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}},
		CgroupParent: "/kubepods/pod1", Sysctls: map[string]string{"kernel.msgmax": "9"},
		Network: NamespaceNode, PID: NamespaceContainer, IPC: NamespaceNode, IDMap: &oci2lxc.IDMap{UIDs: ids, GIDs: ids},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, options := range map[string]*anypb.Any{
		"none":         nil,
		"another type": {TypeUrl: "runtime.v1.ContainerConfig"},
		"malformed":    {TypeUrl: "runtime.v1.PodSandboxConfig", Value: []byte{0x0a, 9}},
	} {
		if _, err := DecodePod(options); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecodePod: what a hostile client sends is read or refused.
func FuzzDecodePod(f *testing.F) {
	f.Add(everything().Value)
	f.Fuzz(func(_ *testing.T, data []byte) {
		if p, err := DecodePod(&anypb.Any{TypeUrl: podType, Value: data}); err == nil {
			_, _ = p.spec("id", "/run/netns/x")
		}
	})
}

// sandboxOf makes a sandbox of the pod without starting it.
func sandboxOf(t *testing.T, p *Pod, netns string) *Sandbox {
	t.Helper()
	s, err := New(t.Context(), Config{ID: "sb", Namespace: "k8s.io", Bundle: "/bundle", NetNS: netns, Pod: p, Settings: container.Settings{Root: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRefusals: what would change the host, or cannot be, is an error that names the field.
func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		pod   Pod
		netns string
		want  string
	}{
		"a sysctl of the host":              {Pod{Sysctls: map[string]string{"vm.swappiness": "1"}}, "/run/netns/x", "vm.swappiness"},
		"a sysctl of the host's network":    {Pod{Network: NamespaceNode, Sysctls: map[string]string{"net.core.somaxconn": "1"}}, "", "net.core.somaxconn"},
		"a sysctl of the host's IPC":        {Pod{IPC: NamespaceNode, Sysctls: map[string]string{"kernel.shmmax": "1"}}, "/run/netns/x", "kernel.shmmax"},
		"a long host name":                  {Pod{Hostname: strings.Repeat("x", 65)}, "/run/netns/x", "hostname"},
		"no network namespace":              {Pod{}, "", "network namespace"},
		"a network namespace per container": {Pod{Network: NamespaceContainer}, "/run/netns/x", "network"},
		"the PID namespace of a container":  {Pod{PID: 3}, "/run/netns/x", "pid"},
		"an empty user namespace":           {Pod{IDMap: &oci2lxc.IDMap{}}, "/run/netns/x", "uidMappings"},
	} {
		_, err := New(t.Context(), Config{ID: "sb", Namespace: "ns", Bundle: "/b", NetNS: test.netns, Pod: &test.pod})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnprivilegedPorts: CRI's defaults hold, unless the pod says otherwise or is on the host's network.
func TestUnprivilegedPorts(t *testing.T) {
	const ports, ping = "net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range"
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	for name, test := range map[string]struct {
		pod  Pod
		want map[string]string
	}{
		"plain":          {Pod{}, map[string]string{ports: "0", ping: "0 2147483647"}},
		"host network":   {Pod{Network: NamespaceNode}, map[string]string{}},
		"own choice":     {Pod{Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}}, map[string]string{ports: "80", ping: "0 2147483647"}},
		"user namespace": {Pod{IDMap: &oci2lxc.IDMap{UIDs: ids, GIDs: ids}}, map[string]string{ports: "0"}},
	} {
		got := make(map[string]string)
		for _, s := range sandboxOf(t, &test.pod, "/run/netns/x").plan.Setup.Sysctls {
			got[s.Path] = s.Value
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// host is a pod that shares everything with the host, and so needs no process to be made.
func host() *Pod { return &Pod{Network: NamespaceNode, PID: NamespaceNode, IPC: NamespaceNode} }

// TestLife: what is there at each point of a sandbox's life.
func TestLife(t *testing.T) {
	p := host()
	p.Hostname, p.DNS = "ignored-for-uts", &DNS{Servers: []string{"10.0.0.1"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}}
	s := sandboxOf(t, p, "")
	spec := func() *specs.Spec { return &specs.Spec{Root: &specs.Root{}, Linux: &specs.Linux{}} }
	if err := s.Join(spec()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("join before the start: %v", err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); !st.Ready() || st.Pid != 0 {
		t.Errorf("after the start: %+v", st)
	}
	for name, want := range map[string]string{"resolv.conf": "search a b\nnameserver 10.0.0.1\noptions ndots:5\n", "hostname": "ignored-for-uts\n"} {
		if got, err := os.ReadFile(s.files.path(name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	if err := s.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second start: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait for one that runs: %v", err)
	}
	if err := s.Join(spec()); err != nil {
		t.Error(err)
	}
	s.Stop()
	s.Stop()
	st, err := s.Wait(t.Context())
	if err != nil || st.Ready() || st.ExitedAt.IsZero() || st.ExitStatus != 0 {
		t.Errorf("after the stop: %+v, %v", st, err)
	}
	if err := s.Join(spec()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("join after the stop: %v", err)
	}
	for range 2 {
		if err := s.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(s.files.dir))), "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := s.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a start after the end: %v", err)
	}
}

// TestStartUndone: a start that fails leaves nothing, and may be followed by a removal.
func TestStartUndone(t *testing.T) {
	s := sandboxOf(t, host(), "")
	if err := os.MkdirAll(filepath.Join(s.files.dir, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); !errors.Is(err, os.ErrExist) {
		t.Errorf("start: %v", err)
	}
	if _, err := os.Lstat(s.files.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
}

// TestJoin: a container gets the pod's namespaces and files, and keeps what is its own.
func TestJoin(t *testing.T) {
	p := host()
	p.PID = NamespaceContainer
	s := sandboxOf(t, p, "")
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	ipc, err := os.Open("/proc/self/ns/ipc")
	if err != nil {
		t.Fatal(err)
	}
	s.keep(specs.IPCNamespace, ipc)
	s.pod.IPC, s.netns = NamespacePod, "/run/netns/x"
	spec := &specs.Spec{
		Root: &specs.Root{Readonly: true},
		Mounts: []specs.Mount{
			{Destination: "/etc/hosts", Type: "bind", Source: "/kubelet/hosts"},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace, Path: "/proc/0/ns/net"}, {Type: specs.IPCNamespace, Path: "/proc/0/ns/ipc"},
			{Type: specs.UTSNamespace, Path: "/proc/0/ns/uts"}, {Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"}, {Type: specs.MountNamespace},
		}},
	}
	if err := s.Join(spec); err != nil {
		t.Fatal(err)
	}
	paths := make(map[specs.LinuxNamespaceType]string)
	for _, ns := range spec.Linux.Namespaces {
		paths[ns.Type] = ns.Path
	}
	if got := paths[specs.NetworkNamespace]; got != "/run/netns/x" {
		t.Errorf("network: %q", got)
	}
	for kind, name := range map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"} {
		if link, err := os.Readlink(paths[kind]); err != nil || !strings.HasPrefix(link, name+":[") {
			t.Errorf("%s: %q leads to %q, %v", kind, paths[kind], link, err)
		}
	}
	if !strings.Contains(paths[specs.IPCNamespace], "/fd/") || paths[specs.PIDNamespace] != "/proc/1/ns/pid" || paths[specs.MountNamespace] != "" {
		t.Errorf("paths %v", paths)
	}
	var got []string
	for _, m := range spec.Mounts {
		got = append(got, m.Destination+" "+filepath.Base(m.Source)+" "+strings.Join(m.Options, ","))
	}
	want := []string{"/etc/hosts hosts ", "/dev/shm shm rbind,rprivate,rw", "/etc/hostname hostname rbind,rprivate,ro", "/etc/resolv.conf resolv.conf rbind,rprivate,ro"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if spec.Mounts[0].Source != "/kubelet/hosts" {
		t.Errorf("the kubelet's file was replaced by %s", spec.Mounts[0].Source)
	}
	volume := &specs.Spec{Mounts: []specs.Mount{{Destination: "/dev/shm/", Type: "bind", Source: "/volume"}}}
	if err := s.Join(volume); err != nil || volume.Mounts[0].Source != "/volume" || len(volume.Mounts) != 4 {
		t.Errorf("a volume on /dev/shm: %v, %v", volume.Mounts, err)
	}
	shared := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/proc/0/ns/pid"}}}}
	if err := s.Join(shared); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a PID namespace that the pod does not share: %v", err)
	}
}

// TestMetrics: without a control group there are none.
func TestMetrics(t *testing.T) {
	if _, err := sandboxOf(t, host(), "").Metrics(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a parent: %v", err)
	}
	p := host()
	p.CgroupParent = "/no/such/group"
	if _, err := sandboxOf(t, p, "").Metrics(); !errdefs.IsNotFound(err) {
		t.Errorf("of a group that is not there: %v", err)
	}
}
