package cri

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// TestNetworkNamespaceGone: a pod's network namespace is taken from its place, as "ip netns delete" does. Its
// processes keep it and go on; CRI gives it no address any more, so that a kubelet makes the pod anew; and its end
// leaves neither an interface nor a lease.
func TestNetworkNamespaceGone(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		others := namespacesOf(t)
		p := e.pod(t)
		c := p.sleeper(t)
		ip, err := p.IP(e.ctx)
		if err != nil {
			t.Fatal(err)
		}
		mine := slices.DeleteFunc(namespacesOf(t), func(path string) bool { return slices.Contains(others, path) })
		if len(mine) != 1 {
			t.Fatalf("the pod has the network namespaces %v", mine)
		}
		before := interfaces(t)
		if err := errors.Join(unix.Unmount(mine[0], unix.MNT_DETACH), os.Remove(mine[0])); err != nil {
			t.Fatal(err)
		}
		equal(t, "its interface", c.exec(t, "cat /sys/class/net/eth0/operstate"), "up")
		if got, err := p.IP(e.ctx); err != nil || got != "" {
			t.Errorf("its address is %q, %v", got, err)
		}
		p.remove(t)
		if _, err := os.Stat(filepath.Join("/var/lib/cni/networks/pods", ip)); !os.IsNotExist(err) {
			t.Errorf("the lease of %s: %v", ip, err)
		}
		harness.Eventually(t, "the interface's end", func() error {
			if left := interfaces(t); left >= before {
				return fmt.Errorf("%d interfaces, before it were %d", left, before)
			}
			return nil
		})
	})
}

func namespacesOf(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("/run/netns/*")
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// interfaces of the node.
func interfaces(t *testing.T) int {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
