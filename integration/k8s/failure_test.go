//go:build k8s

package k8s

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

const sleeper = "terminationGracePeriodSeconds: 1\ncontainers:\n- {name: c, " + busybox + ", command: [sleep, '100000']}\n"

// TestFailures: what a pod is made of dies under a kubelet. The pod goes on, or is made again; and when all
// are gone, the node is as it was.
func TestFailures(t *testing.T) { each(t, testFailures) }

func testFailures(t *testing.T, k *kubelet) {
	k.put("first", sleeper) // what is there once for a node is there before the census
	k.until("first", "ready", ready)
	k.gone("first")
	k.collect()
	before := k.census()
	for _, test := range []struct {
		name string
		run  func(*kubelet)
	}{
		{"the kubelet", (*kubelet).survivesKubelet},
		{"containerd", (*kubelet).survivesContainerd},
		{"the shim", (*kubelet).replacesShim},
		{"the network namespace", (*kubelet).replacesNetwork},
	} {
		t.Run(test.name, func(t *testing.T) {
			k.t = t
			test.run(k)
		})
		k.t = t
	}
	k.collect()
	harness.Eventually(t, "a node as it was", func() error {
		if extra := k.census().Extra(before); len(extra) > 0 {
			return errors.New(strings.Join(extra, "\n"))
		}
		return nil
	})
}

// collect removes sandboxes that have ended, as a kubelet does when they are a minute old.
func (k *kubelet) collect() {
	k.t.Helper()
	all, err := k.Runtime.ListPodSandbox(k.t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil {
		k.t.Fatal(err)
	}
	for _, s := range all.Items {
		if _, err := k.Runtime.RemovePodSandbox(k.t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			k.t.Fatal(err)
		}
	}
}

// census is what there is on the node, but for the kubelet, which has another pid and other sockets after a restart.
func (k *kubelet) census() harness.Census {
	c := harness.TakeCensus(&harness.Env{Runtime: harness.Pvelxc, Daemon: k.Daemon, Namespace: node.Namespace, Context: k.t.Context()})
	for key := range c {
		if strings.HasPrefix(key, "process ") && strings.Contains(key, program("kubelet")) || strings.HasPrefix(key, "socket "+k.dir) {
			delete(c, key)
		}
	}
	return c
}

// same fails the test when a container was restarted.
func (k *kubelet) same(before, after core.ContainerStatus) {
	k.t.Helper()
	if before.ContainerID != after.ContainerID || after.RestartCount != 0 {
		k.t.Errorf("it was %s, it is %s, restarted %d times", before.ContainerID, after.ContainerID, after.RestartCount)
	}
}

func (k *kubelet) survivesKubelet() {
	k.put("with-kubelet", sleeper)
	before := status(k.until("with-kubelet", "ready", ready), "c")
	k.stop()
	k.run()
	k.same(before, status(k.until("with-kubelet", "ready", ready), "c"))
	k.gone("with-kubelet")
}

func (k *kubelet) survivesContainerd() {
	k.put("with-containerd", sleeper)
	before := status(k.until("with-containerd", "ready", ready), "c")
	k.Kill()
	if err := k.Start(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
	if err := k.Ready(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
	k.put("new", sleeper) // the kubelet is at work again
	k.until("new", "ready", ready)
	k.same(before, status(k.until("with-containerd", "ready", ready), "c"))
	if got := k.exec("with-containerd", "c", "echo%20works"); got != "works" {
		k.t.Errorf("exec prints %q", got)
	}
	k.gone("new")
	k.gone("with-containerd")
}

func (k *kubelet) replacesShim() {
	others := harness.Programs("pvelxc-shim")
	k.put("dies", sleeper)
	before := status(k.until("dies", "ready", ready), "c")
	killed := 0
	for _, pid := range harness.Programs("pvelxc-shim") {
		if !slices.Contains(others, pid) {
			killed++
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				k.t.Fatal(err)
			}
		}
	}
	if killed != 1 {
		k.t.Fatalf("the pod has %d shims", killed)
	}
	k.again("dies", before)
}

// again waits until a pod is made again, and removes it.
func (k *kubelet) again(name string, before core.ContainerStatus) {
	k.t.Helper()
	k.until(name, "made again", func(p *core.Pod) bool { return ready(p) && status(p, "c").ContainerID != before.ContainerID })
	if got := k.exec(name, "c", "cat%20/sys/class/net/eth0/operstate"); got != "up" {
		k.t.Errorf("its network is %q", got)
	}
	k.gone(name)
}

// replacesNetwork takes a pod's network namespace from its place, as an administrator's "ip netns delete" does. The
// pod goes on, and a kubelet that looks anew, after its own restart, sees it without an address and makes it again.
func (k *kubelet) replacesNetwork() {
	others, _ := filepath.Glob("/run/netns/*")
	k.put("unplugged", sleeper)
	before := status(k.until("unplugged", "ready", ready), "c")
	all, _ := filepath.Glob("/run/netns/*")
	mine := slices.DeleteFunc(all, func(path string) bool { return slices.Contains(others, path) })
	if len(mine) != 1 {
		k.t.Fatalf("the pod has the network namespaces %v", mine)
	}
	if err := errors.Join(unix.Unmount(mine[0], unix.MNT_DETACH), os.Remove(mine[0])); err != nil {
		k.t.Fatal(err)
	}
	if got := k.exec("unplugged", "c", "cat%20/sys/class/net/eth0/operstate"); got != "up" {
		k.t.Errorf("meanwhile its network is %q", got)
	}
	k.stop()
	k.run()
	k.again("unplugged", before)
}
