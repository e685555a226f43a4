package cri

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// plugin is an NRI plugin: it keeps what it is told, and gives containers that ask for it more than was
// asked for of CRI.
type plugin struct {
	mu     sync.Mutex
	events map[string][]string // by the id of a pod or a container
	volume string
}

const asks = "pvelxc.test/adjust"

func (p *plugin) saw(id, event string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events[id] = append(p.events[id], event)
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.saw(pod.Id, "run")
	return nil
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.saw(pod.Id, "stop")
	return nil
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.saw(pod.Id, "remove")
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.saw(c.Id, "create")
	if c.Annotations[asks] == "" {
		return nil, nil, nil
	}
	a := &api.ContainerAdjustment{}
	a.AddEnv("FROM", "plugin")
	a.AddMount(&api.Mount{Source: p.volume, Destination: "/plugin", Type: "bind", Options: []string{"rbind", "ro"}})
	a.AddRlimit("RLIMIT_NOFILE", 512, 256)
	a.AddDevice(&api.LinuxDevice{Path: "/dev/plugged", Type: "c", Major: 1, Minor: 7})
	a.SetLinuxMemoryLimit(96 << 20)
	a.SetLinuxCPUShares(256)
	return a, nil, nil
}

func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.saw(c.Id, "created")
	return nil
}

func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.saw(c.Id, "start")
	return nil
}

func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.saw(c.Id, "started")
	return nil
}

// UpdateContainer gives twice the memory.
func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.saw(c.Id, "update")
	u := &api.ContainerUpdate{ContainerId: c.Id}
	u.SetLinuxMemoryLimit(2 * r.Memory.Limit.GetValue())
	return []*api.ContainerUpdate{u}, nil
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.saw(c.Id, "stop")
	return nil, nil
}

func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.saw(c.Id, "remove")
	return nil
}

// TestNRI: a plugin is told of everything, and what it changes is changed.
func TestNRI(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		told := &plugin{events: make(map[string][]string), volume: e.dir(t)}
		conn, err := net.Dial("unix", e.NRISocket())
		if err != nil {
			t.Fatal(err)
		}
		s, err := stub.New(told, stub.WithConnection(conn), stub.WithPluginName("test"), stub.WithPluginIdx("00"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(e.ctx); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Stop)

		p := e.pod(t)
		c := p.sleeper(t, func(c *cri.ContainerConfig) { c.Annotations = map[string]string{asks: "please"} })
		equal(t, "variable, limit, volume, device", c.exec(t,
			"echo $FROM; grep 'Max open files' /proc/1/limits | awk '{print $4, $5}'; touch /plugin/x 2>/dev/null || echo read-only; echo x 2>/dev/null >/dev/plugged || echo full"),
			"plugin\n256 512\nread-only\nfull")
		equal(t, "memory", c.limit(t, "memory", "memory.limit_in_bytes", "memory.max"), "100663296")
		if _, err := e.Runtime.UpdateContainerResources(e.ctx, &cri.UpdateContainerResourcesRequest{
			ContainerId: c.ID, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20},
		}); err != nil {
			t.Fatal(err)
		}
		equal(t, "memory after the update", c.limit(t, "memory", "memory.limit_in_bytes", "memory.max"), "134217728")
		p.remove(t)
		harness.Eventually(t, "the last event", func() error {
			told.mu.Lock()
			defer told.mu.Unlock()
			if !slices.Contains(told.events[p.ID], "remove") {
				return errNothing
			}
			return nil
		})
		told.mu.Lock()
		defer told.mu.Unlock()
		equal(t, "events of the pod", strings.Join(told.events[p.ID], " "), "run stop remove")
		equal(t, "events of the container", strings.Join(told.events[c.ID], " "), "create created start started update stop remove")
		if len(told.events) != 2 {
			t.Errorf("events of %v", slices.Collect(maps.Keys(told.events)))
		}
	})
}
