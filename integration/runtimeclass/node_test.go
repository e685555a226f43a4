package runtimeclass

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

// TestNode: two runtimes, two snapshotters, one node, through all that happens to it.
func TestNode(t *testing.T) {
	e := start(t)
	t.Run("each runtime has its snapshotter", e.testRoots)
	t.Run("the snapshotter is killed", e.testSnapshotterKilled)
	t.Run("containerd is killed", e.testContainerdKilled)
	t.Run("the shim is killed", e.testShimKilled)
	t.Run("many pods", e.testManyPods)
}

func (e *env) testRoots(t *testing.T) {
	e.guard(t)
	const root = "awk '$2 == \"/\"' /proc/mounts"
	plain := e.run(t, harness.Runc.Name)
	if got := plain.sh(t, root); !strings.HasPrefix(got, "overlay / overlay ") || !strings.Contains(got, "upperdir="+filepath.Join(e.dir, "root")) {
		t.Errorf("runc's pod has the root %q", got)
	}
	for _, r := range []harness.Runtime{harness.Pvelxc, node.ShimSandboxes} {
		ours := e.run(t, r.Name)
		if err := e.root(e, ours.sh(t, root)); err != nil {
			t.Errorf("the root of a pod of %s: %v", r.Name, err)
		}
		ours.sh(t, "dd if=/dev/urandom of=/filled bs=1M count=8 2>/dev/null && sync")
		harness.Eventually(t, "the size of the writable layer", func() error { return e.filled(ours) })
	}
}

// filled is what a kubelet evicts by: the container's own writable layer, in its own snapshotter.
func (e *env) filled(p *pod) error {
	stats, err := e.Runtime.ContainerStats(e.ctx, &cri.ContainerStatsRequest{ContainerId: p.Container.ID})
	if err != nil {
		return err
	}
	layer := stats.Stats.GetWritableLayer()
	if used := layer.GetUsedBytes().GetValue(); used < 8<<20 || used > 16<<20 {
		return fmt.Errorf("%d bytes at %s", used, layer.GetFsId().GetMountpoint())
	}
	if at := layer.GetFsId().GetMountpoint(); at != e.exports() {
		return fmt.Errorf("it lies at %s", at)
	}
	return nil
}

// testSnapshotterKilled: pods go on without their snapshotter, as does runc; a new pod is refused, with a reason, until
// there is one again; and what was removed meanwhile is no snapshot for ever.
func (e *env) testSnapshotterKilled(t *testing.T) {
	e.guard(t)
	goes, ends := e.run(t, harness.Pvelxc.Name), e.run(t, harness.Pvelxc.Name)
	pid, err := goes.Pid(e.ctx)
	if err != nil {
		t.Fatal(err)
	}
	e.stop(syscall.SIGKILL)
	goes.sh(t, "echo without > /without && cat /without")
	if p, err := e.try(harness.Pvelxc.Name, "exit 0"); err == nil {
		t.Error("there is a pod without a snapshotter")
		_ = p.Remove(e.ctx)
	} else if !strings.Contains(err.Error(), e.socket()) {
		t.Errorf("the error does not say what is missing: %v", err)
	}
	if err := e.once(harness.Runc.Name); err != nil {
		t.Errorf("a pod of runc's: %v", err)
	}
	if _, err := e.Runtime.StopPodSandbox(e.ctx, &cri.StopPodSandboxRequest{PodSandboxId: ends.Pod.ID}); err != nil {
		t.Errorf("stop a pod: %v", err)
	}
	e.serve(t)
	harness.Eventually(t, "a new pod", func() error { return e.once(harness.Pvelxc.Name) })
	if got := goes.sh(t, "cat /without"); got != "without" {
		t.Errorf("what was written meanwhile is %q", got)
	}
	if after, err := goes.Pid(e.ctx); err != nil || after != pid {
		t.Errorf("the process was %d, it is %d: %v", pid, after, err)
	}
}

func (e *env) testContainerdKilled(t *testing.T) {
	e.guard(t)
	p := e.run(t, harness.Pvelxc.Name)
	p.sh(t, "echo before > /before")
	e.Kill()
	if err := e.Start(e.ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Ready(e.ctx); err != nil {
		t.Fatal(err)
	}
	if got := p.sh(t, "cat /before"); got != "before" {
		t.Errorf("it has %q", got)
	}
	if err := e.once(harness.Pvelxc.Name); err != nil {
		t.Error(err)
	}
}

func (e *env) testShimKilled(t *testing.T) {
	e.guard(t)
	before := harness.Programs("pvelxc-shim")
	p := e.run(t, harness.Pvelxc.Name)
	for _, shim := range harness.Programs("pvelxc-shim") {
		if len(before) == 0 || shim != before[0] {
			if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s, err := p.Wait(e.ctx); err != nil || s.ExitCode == 0 {
		t.Errorf("the container of a killed shim is %v, %v", s, err)
	}
	if err := e.once(harness.Pvelxc.Name); err != nil {
		t.Error(err)
	}
}

// testManyPods: pods of all runtimes come and go, several at once; $PVELXC_TEST_PODS is how many.
func (e *env) testManyPods(t *testing.T) {
	total := 8
	if set := os.Getenv("PVELXC_TEST_PODS"); set != "" {
		var err error
		if total, err = strconv.Atoi(set); err != nil {
			t.Fatal(err)
		}
	}
	runtimes := node.Runtimes(daemon.Containerd2)
	e.guard(t)
	queue := make(chan int)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := range queue {
				if err := e.once(runtimes[i%len(runtimes)].Name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range total {
		queue <- i
	}
	close(queue)
	workers.Wait()
}
