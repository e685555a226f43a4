package cri

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

// registered waits until a container's conf has these values.
func (c *container) registered(t *testing.T, want map[string]string) (vmid string) {
	t.Helper()
	harness.Eventually(t, "conf of "+c.ID, func() error {
		found, conf, err := node.Registered(c.ID)
		if err != nil {
			return err
		}
		for key, value := range want {
			if conf.Keys[key] != value {
				return fmt.Errorf("%s: %s is %q, want %q", found, key, conf.Keys[key], value)
			}
		}
		vmid = found
		return nil
	})
	return vmid
}

// TestRegistration: what Proxmox VE sees of a pod's container through the life that a kubelet gives it: resized in
// place, stopped in the UI, removed and made again in the same pod.
func TestRegistration(t *testing.T) {
	for _, version := range []daemon.Version{daemon.Containerd2, daemon.Containerd17} {
		t.Run(string(version), func(t *testing.T) {
			e := on(t, harness.Pvelxc, version)
			p := e.pod(t)
			limited := func(c *cri.ContainerConfig) {
				c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20}
			}
			c := p.sleeper(t, limited)
			name := p.Config.Metadata.Name
			vmid := c.registered(t, map[string]string{
				"hostname": name, "tags": "k8s;ns-test;pod-" + name, "memory": "64", "cpulimit": "0.5", "cores": "1", "cpuunits": "59", "lock": "",
			})
			if _, _, err := node.Registered(p.ID); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the pause container: %v, want no conf", err)
			}
			if _, err := e.Runtime.UpdateContainerResources(e.ctx, &cri.UpdateContainerResourcesRequest{
				ContainerId: c.ID, Linux: &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 150000, CpuShares: 1024, MemoryLimitInBytes: 96 << 20},
			}); err != nil {
				t.Fatal(err)
			}
			c.registered(t, map[string]string{"memory": "96", "cpulimit": "1.5", "cores": "2", "cpuunits": "100", "lock": ""})
			if out, err := exec.CommandContext(e.ctx, "lxc-stop", "-n", vmid, "--kill").CombinedOutput(); err != nil {
				t.Fatalf("lxc-stop: %v: %s", err, out)
			}
			if s := c.wait(t); s.ExitCode != 137 {
				t.Errorf("it ended as %v", s)
			}
			// CRI deletes the task of a container that ended, long before the container is removed.
			harness.Eventually(t, "end of the registration", func() error {
				if found, _, err := node.Registered(c.ID); !errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("it has the VMID %s: %w", found, err)
				}
				return nil
			})
			again := p.sleeper(t, limited)
			if next := again.registered(t, map[string]string{"hostname": name, "memory": "64", "lock": ""}); next == vmid {
				t.Errorf("the next container has the VMID %s again", next)
			}
		})
	}
}
