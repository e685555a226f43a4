package cri

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// TestContainerdRestart: containerd dies and comes back. The pod goes on meanwhile; what ended is known to
// have; execs, new containers and the pod's end work as before. Of runc's containers, and on 1.7 of all,
// containerd throws away how they ended: a task without processes is a leak to it.
func TestContainerdRestart(t *testing.T) {
	harness.NeedsRoot(t)
	for _, version := range []daemon.Version{daemon.Containerd2, daemon.Containerd17} {
		n := start(t, "cri-restart-"+string(version), version, nil)
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		for _, r := range selected(version) {
			t.Run(string(version)+"/"+r.Name, func(t *testing.T) {
				e := enter(t, n, r)
				p := e.pod(t)
				stays := p.start(t, "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done")
				ends := p.start(t, "until [ -e /data/end ]; do sleep 0.05; done; exit 42", mount(&cri.Mount{HostPath: e.dir(t), ContainerPath: "/data"}))
				pid := stays.pid(t)
				n.Kill()
				before := countOf(t, pid)
				harness.Eventually(t, "life without containerd", func() error {
					if countOf(t, pid) <= before {
						return fmt.Errorf("the count stands at %d", before)
					}
					return nil
				})
				if err := os.WriteFile(filepath.Join(ends.Config.Mounts[0].HostPath, "end"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := n.Start(e.ctx); err != nil {
					t.Fatal(err)
				}
				if err := n.Ready(e.ctx); err != nil {
					t.Fatal(err)
				}
				if s := ends.wait(t); s.ExitCode != 42 && (s.ExitCode != 255 || r.Type == harness.Pvelxc.Type && version == daemon.Containerd2) {
					t.Errorf("what ended meanwhile has status %d", s.ExitCode)
				}
				if s, err := stays.Status(e.ctx); err != nil || s.State != cri.ContainerState_CONTAINER_RUNNING || stays.pid(t) != pid {
					t.Errorf("what went on is %v, %v", s, err)
				}
				stays.exec(t, "test -e /count")
				equal(t, "output of a new container", p.output(t, "hostname; grep -c nameserver /etc/resolv.conf"), p.Config.Hostname+"\n1")
				if version == daemon.Containerd2 {
					e.loseShim(t)
				}
			})
		}
	}
}

// countOf reads what a container counts, from the host.
func countOf(t *testing.T, pid int) int {
	t.Helper()
	var n int
	harness.Eventually(t, "the count", func() error {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/count", pid))
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(data)))
		}
		return err
	})
	return n
}

// TestShimKilled: the pod of a shim that dies is over, and CRI says so; a kubelet's clean-up leaves nothing.
func TestShimKilled(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		before := make(map[int]bool)
		for _, pid := range shims() {
			before[pid] = true
		}
		p := e.pod(t)
		c := p.sleeper(t)
		pid := c.pid(t)
		for _, shim := range shims() {
			if !before[shim] {
				if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if s := c.wait(t); s.ExitCode == 0 {
			t.Error("a container that nobody knows the end of has status 0")
		}
		p.over(t)
		harness.Gone(t, pid)
		equal(t, "a container of the next pod", e.pod(t).output(t, "echo works"), "works")
	})
}

// loseShim: the shim of a pod dies while containerd is away. The pod is over, and its removal leaves nothing.
func (e *env) loseShim(t *testing.T) {
	before := shims()
	p := e.pod(t)
	pid := p.sleeper(t).pid(t)
	e.Kill()
	for _, shim := range shims() {
		if !slices.Contains(before, shim) {
			if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := e.Start(e.ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Ready(e.ctx); err != nil {
		t.Fatal(err)
	}
	p.over(t)
	harness.Gone(t, pid)
	p.remove(t)
}

// over waits until CRI says that the pod has ended.
func (p *pod) over(t *testing.T) {
	t.Helper()
	harness.Eventually(t, "the pod's end", func() error {
		s, err := p.Status(p.env.ctx)
		if err == nil && s.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
			err = fmt.Errorf("it is %s", s.Status.State)
		}
		return err
	})
}

// shims are the processes of shims, whatever their runtime.
func shims() []int {
	return append(harness.Programs("containerd-shim-*"), harness.Programs("pvelxc-shim")...)
}

// TestManyPods: pods come and go, several at once, and the node is as it was. $PVELXC_TEST_PODS is how many.
func TestManyPods(t *testing.T) {
	total, err := strconv.Atoi(cmp.Or(os.Getenv("PVELXC_TEST_PODS"), "8"))
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, e *env) {
		e.ctx = t.Context() // as many as there may be
		before := held(e.Pid())
		const atOnce = 4
		queue := make(chan int)
		var workers sync.WaitGroup
		for range atOnce {
			workers.Go(func() {
				for i := range queue {
					if err := e.once(e.ctx, i); err != nil {
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
		harness.Eventually(t, "what containerd holds", func() error {
			for what, n := range held(e.Pid()) {
				if n > before[what] {
					return fmt.Errorf("%d of %s, before it were %d", n, what, before[what])
				}
			}
			return nil
		})
	})
}

// once is the life of one pod.
func (e *env) once(ctx context.Context, i int) error {
	p, err := e.RunPod(ctx, e.handler, e.PodConfig())
	if err != nil {
		return err
	}
	c, err := p.Create(ctx, p.ContainerConfig(fmt.Sprintf("exit %d", i%200)))
	if err == nil {
		err = c.Start(ctx)
	}
	if err == nil {
		var s *cri.ContainerStatus
		if s, err = c.Wait(ctx); err == nil && int(s.ExitCode) != i%200 {
			err = fmt.Errorf("container %d exited with %d", i, s.ExitCode)
		}
	}
	if e := p.Remove(ctx); err == nil {
		err = e
	}
	return err
}

// held counts what a process holds of the kernel's.
func held(pid int) map[string]int {
	counts := make(map[string]int)
	for fd, target := range harness.OpenFiles(pid) {
		kind, _, _ := strings.Cut(target, ":[")
		if filepath.IsAbs(target) {
			kind = "files"
		}
		counts[kind]++
		info, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
		counts["inotify watches"] += strings.Count(string(info), "inotify wd:")
		counts["epoll targets"] += strings.Count(string(info), "tfd:")
	}
	return counts
}
