package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

var errNothing = errors.New("nothing yet")

func itoa(n int) string { return strconv.Itoa(n) }

// limit reads a limit of the container's own control group, of the controller and by the file names of
// version 1 and 2.
func (c *container) limit(t *testing.T, controller, v1, v2 string) string {
	t.Helper()
	path := filepath.Join("/sys/fs/cgroup", controller, node.CgroupParent(), c.ID, v1)
	if harness.Unified() {
		path = filepath.Join("/sys/fs/cgroup", node.CgroupParent(), c.ID, v2)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// TestLimits: the limits a container starts with, and those it is given in place.
func TestLimits(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.sleeper(t, func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 999, CpusetCpus: "0",
			}
		})
		check := func(memory, quota, shares, weight string) {
			t.Helper()
			equal(t, "memory", c.limit(t, "memory", "memory.limit_in_bytes", "memory.max"), memory)
			equal(t, "CPU quota", strings.Fields(c.limit(t, "cpu", "cpu.cfs_quota_us", "cpu.max"))[0], quota)
			if harness.Unified() {
				equal(t, "CPU weight", c.limit(t, "cpu", "", "cpu.weight"), weight)
			} else {
				equal(t, "CPU shares", c.limit(t, "cpu", "cpu.shares", ""), shares)
			}
		}
		check("67108864", "50000", "512", "20")
		equal(t, "CPUs", c.limit(t, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0")
		equal(t, "OOM score", c.exec(t, "cat /proc/1/oom_score_adj"), "999")
		if _, err := e.Runtime.UpdateContainerResources(e.ctx, &cri.UpdateContainerResourcesRequest{
			ContainerId: c.ID, Linux: &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 70000, CpuShares: 1024, MemoryLimitInBytes: 128 << 20},
		}); err != nil {
			t.Fatal(err)
		}
		check("134217728", "70000", "1024", "39")
		s, err := c.Status(e.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if l := s.Resources.GetLinux(); l.GetMemoryLimitInBytes() != 128<<20 || l.GetCpuQuota() != 70000 || l.GetCpuShares() != 1024 {
			t.Errorf("CRI tells of %v", l)
		}
		// Lower again, as a resize in place may.
		if _, err := e.Runtime.UpdateContainerResources(e.ctx, &cri.UpdateContainerResourcesRequest{
			ContainerId: c.ID, Linux: &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 2, MemoryLimitInBytes: 32 << 20},
		}); err != nil {
			t.Fatal(err)
		}
		check("33554432", "20000", "2", "1")
	})
}

// TestPodResources: a pod whose resources a kubelet changes in place takes it, and says so; the groups are the kubelet's own affair.
func TestPodResources(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		if _, err := e.Runtime.UpdatePodSandboxResources(e.ctx, &cri.UpdatePodSandboxResourcesRequest{
			PodSandboxId: p.ID, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}, Overhead: &cri.LinuxContainerResources{CpuShares: 10},
		}); err != nil {
			t.Fatal(err)
		}
		s, err := p.Status(e.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info := s.Info["info"]; !strings.Contains(info, "67108864") {
			t.Errorf("the pod's verbose status does not tell of it: %s", info)
		}
	})
}

// TestStats: what a kubelet shows of a container and its pod.
func TestStats(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.start(t, "head -c 20m /dev/zero > /dev/shm/ballast; head -c 3m /dev/zero > /big; "+forever)
		harness.Eventually(t, "stats of the container", func() error {
			got, err := e.Runtime.ContainerStats(e.ctx, &cri.ContainerStatsRequest{ContainerId: c.ID})
			if err != nil {
				return err
			}
			s := got.Stats
			switch {
			case s.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0:
				return fmt.Errorf("no CPU time: %v", s)
			case s.Memory.GetWorkingSetBytes().GetValue() < 20<<20:
				return fmt.Errorf("too small a working set: %v", s)
			case s.Attributes.GetMetadata().GetName() != c.Config.Metadata.Name:
				return fmt.Errorf("stats of another container: %v", s)
			}
			return nil
		})
		harness.Eventually(t, "stats of the pod", func() error {
			got, err := e.Runtime.PodSandboxStats(e.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.ID})
			if err != nil {
				return err
			}
			s := got.Stats.GetLinux()
			switch {
			case s.GetNetwork().GetDefaultInterface().GetName() != "eth0":
				return fmt.Errorf("no network: %v", s)
			case len(s.Containers) != 1 || s.Process.GetProcessCount().GetValue() < 2:
				return fmt.Errorf("%d containers, %d processes", len(s.Containers), s.Process.GetProcessCount().GetValue())
			case s.Memory.GetWorkingSetBytes().GetValue() == 0 || s.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0:
				return fmt.Errorf("no memory or CPU time: %v", s)
			}
			return nil
		})
		all, err := e.Runtime.ListContainerStats(e.ctx, &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: p.ID}})
		if err != nil || len(all.Stats) != 1 {
			t.Errorf("stats of %v, %v", all, err)
		}
	})
}

// TestMetrics: the metrics that cAdvisor used to supply are those that are described, for ours as for the
// reference.
func TestMetrics(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.sleeper(t)
		want := []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_network_receive_bytes_total", "container_processes"}
		harness.Eventually(t, "metrics of the pod", func() error {
			got, err := e.Runtime.ListPodSandboxMetrics(e.ctx, &cri.ListPodSandboxMetricsRequest{})
			if err != nil {
				return err
			}
			names := make(map[string]bool)
			for _, s := range got.PodMetrics {
				if s.PodSandboxId != p.ID {
					continue
				}
				for _, m := range s.Metrics {
					names[m.Name] = true
				}
				for _, container := range s.ContainerMetrics {
					if container.ContainerId == c.ID {
						for _, m := range container.Metrics {
							names[m.Name] = true
						}
					}
				}
			}
			for _, name := range want {
				if !names[name] {
					return fmt.Errorf("no %s among %v", name, names)
				}
			}
			return nil
		})
	})
}
