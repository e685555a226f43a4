package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

// Pod is a pod whose sandbox is ready.
type Pod struct {
	ID      string
	Handler string
	Config  *cri.PodSandboxConfig

	node *Node
}

// CgroupParent is the control group that all pods' containers are made in, in the place of those that a
// kubelet makes for each pod.
func CgroupParent() string { return "/kubepods-" + harness.Token }

// PodConfig is a plain pod: network, IPC and UTS namespaces of its own, a PID namespace for each container.
func (n *Node) PodConfig() *cri.PodSandboxConfig {
	name := fmt.Sprintf("pod%d", n.serial.Add(1))
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "test"},
		Hostname:     name,
		LogDirectory: filepath.Join(n.Dir, "logs", name),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.88.0.1"}, Searches: []string{"test.svc"}, Options: []string{"ndots:5"}},
		Labels:       map[string]string{"test": name},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: CgroupParent(),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
}

// RunPod makes a pod.
func (n *Node) RunPod(ctx context.Context, handler string, config *cri.PodSandboxConfig) (*Pod, error) {
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return nil, err
	}
	got, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return nil, fmt.Errorf("run pod %s: %w", config.Metadata.Name, err)
	}
	return &Pod{ID: got.PodSandboxId, Handler: handler, Config: config, node: n}, nil
}

// Status is the pod's status, with its verbose part.
func (p *Pod) Status(ctx context.Context) (*cri.PodSandboxStatusResponse, error) {
	return p.node.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.ID, Verbose: true})
}

// IP is the pod's address.
func (p *Pod) IP(ctx context.Context) (string, error) {
	s, err := p.Status(ctx)
	if err != nil {
		return "", err
	}
	return s.Status.GetNetwork().GetIp(), nil
}

// Remove stops and removes the pod with its containers, as a kubelet does. It may be repeated.
func (p *Pod) Remove(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	_, err := p.node.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.ID})
	if status.Code(err) == codes.NotFound {
		err = nil
	}
	if err == nil {
		_, err = p.node.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.ID})
	}
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", p.Config.Metadata.Name, err)
	}
	return os.RemoveAll(p.Config.LogDirectory)
}

// Container is a container of a pod.
type Container struct {
	ID     string
	Config *cri.ContainerConfig
	Pod    *Pod
}

// ContainerConfig is a container that runs a shell script.
func (p *Pod) ContainerConfig(script string) *cri.ContainerConfig {
	name := fmt.Sprintf("c%d", p.node.serial.Add(1))
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: image.Busybox},
		Command:  []string{"sh", "-c", script},
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: p.Config.Linux.SecurityContext.NamespaceOptions,
			},
		},
	}
}

// Create makes a container.
func (p *Pod) Create(ctx context.Context, config *cri.ContainerConfig) (*Container, error) {
	got, err := p.node.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.ID, Config: config, SandboxConfig: p.Config})
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", config.Metadata.Name, err)
	}
	return &Container{ID: got.ContainerId, Config: config, Pod: p}, nil
}

// Start starts the container.
func (c *Container) Start(ctx context.Context) error {
	if _, err := c.Pod.node.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ID}); err != nil {
		return fmt.Errorf("start container %s: %w", c.Config.Metadata.Name, err)
	}
	return nil
}

// Status is the container's status.
func (c *Container) Status(ctx context.Context) (*cri.ContainerStatus, error) {
	got, err := c.Pod.node.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.ID})
	if err != nil {
		return nil, fmt.Errorf("status of container %s: %w", c.Config.Metadata.Name, err)
	}
	return got.Status, nil
}

// Wait waits for the container's end.
func (c *Container) Wait(ctx context.Context) (s *cri.ContainerStatus, err error) {
	err = daemon.Poll(ctx, func() error {
		if s, err = c.Status(ctx); err != nil {
			return daemon.Permanent(err)
		}
		if s.State != cri.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("container %s is %s", c.Config.Metadata.Name, s.State)
		}
		return nil
	})
	return s, err
}

// Exec runs a command in the container to its end.
func (c *Container) Exec(ctx context.Context, args ...string) (*cri.ExecSyncResponse, error) {
	return c.Pod.node.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.ID, Cmd: args, Timeout: 60})
}

// LogFile is where the container's output goes.
func (c *Container) LogFile() string {
	return filepath.Join(c.Pod.Config.LogDirectory, c.Config.LogPath)
}

// LogLine is a line of a log file in CRI's format.
type LogLine struct {
	Stream  string
	Partial bool
	Text    string
}

// ParseLog reads the text of a log file.
func ParseLog(text string) ([]LogLine, error) {
	var lines []LogLine
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 || fields[2] != "F" && fields[2] != "P" {
			return nil, fmt.Errorf("the log has the line %q", line)
		}
		lines = append(lines, LogLine{Stream: fields[1], Partial: fields[2] == "P", Text: fields[3]})
	}
	return lines, nil
}

// Log is what the container has written to its streams so far, by stream.
func (c *Container) Log() (map[string]string, error) {
	data, err := os.ReadFile(c.LogFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	lines, err := ParseLog(string(data))
	if err != nil {
		return nil, err
	}
	text := make(map[string]string)
	for _, l := range lines {
		text[l.Stream] += l.Text
		if !l.Partial {
			text[l.Stream] += "\n"
		}
	}
	return text, nil
}

// Pid is the process of the container on the host.
func (c *Container) Pid(ctx context.Context) (int, error) { return c.Pod.node.PidOf(ctx, c.ID) }

// PidOf is the process of a container on the host.
func (n *Node) PidOf(ctx context.Context, id string) (int, error) {
	got, err := n.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return 0, fmt.Errorf("status of container %s: %w", id, err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(got.Info["info"]), &info); err != nil {
		return 0, fmt.Errorf("status of container %s: %w", id, err)
	}
	return info.Pid, nil
}
