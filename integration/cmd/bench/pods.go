package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

// atOnce is how many pods the rows have that have several.
var atOnce = 60

// podBench measures what a kubelet waits for.
type podBench struct {
	node     *node.Node
	subjects []*subject
}

// newPodBench starts a node, whose handlers are the subjects.
func newPodBench(ctx context.Context) (*podBench, error) {
	n, err := node.Start(ctx, filepath.Join(harness.Work, "node"), daemon.Containerd2, nil)
	if err != nil {
		return nil, err
	}
	b := &podBench{node: n}
	for _, r := range node.Runtimes(daemon.Containerd2) {
		name := r.Name
		switch r {
		case harness.Pvelxc:
			name = "ours"
		case node.ShimSandboxes:
			name = ofPods
		}
		b.subjects = append(b.subjects, &subject{name: name, runtime: r.Name})
	}
	return b, nil
}

func (b *podBench) close() {
	if err := b.node.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

func (b *podBench) rows() []row {
	return []row{
		{"pod_ready", "ms", 1, b.ready},
		{"pod_host_network_ready", "ms", 1, b.hostReady},
		{"pod_remove", "ms", 1, b.remove},
		{"exec_sync", "ms", 1, b.exec},
		{fmt.Sprintf("pods%d_ready", atOnce), "ms", 7, b.many},
		{fmt.Sprintf("pods%d_pss", atOnce), "kB", 7, b.memory},
	}
}

// run makes a pod with one container that runs.
func (b *podBench) run(ctx context.Context, s *subject, host bool) (*node.Pod, *node.Container, error) {
	config := b.node.PodConfig()
	if host {
		config.Hostname = ""
		config.Linux.SecurityContext.NamespaceOptions.Network = 2 // NODE
	}
	p, err := b.node.RunPod(ctx, s.runtime, config)
	if err != nil {
		return nil, nil, err
	}
	container := p.ContainerConfig("")
	container.Command = sleeper
	c, err := p.Create(ctx, container)
	if err == nil {
		err = c.Start(ctx)
	}
	return p, c, err
}

// measured is the time that a pod took until its container ran, and what f makes of it.
func (b *podBench) measured(ctx context.Context, s *subject, host bool, f func(*node.Pod, *node.Container, float64) (float64, error)) (v float64, err error) {
	begin := time.Now()
	p, c, err := b.run(ctx, s, host)
	ms := since(begin)
	if p != nil {
		defer func() { err = errors.Join(err, p.Remove(ctx)) }()
	}
	if err != nil {
		return 0, err
	}
	return f(p, c, ms)
}

func itself(_ *node.Pod, _ *node.Container, ms float64) (float64, error) { return ms, nil }

// ready is the time from RunPodSandbox to a container that runs, the pod's network included.
func (b *podBench) ready(ctx context.Context, s *subject) (float64, error) {
	return b.measured(ctx, s, false, itself)
}

// hostReady is ready for a pod on the host's network: without CNI, which is the same for every runtime.
func (b *podBench) hostReady(ctx context.Context, s *subject) (float64, error) {
	return b.measured(ctx, s, true, itself)
}

// remove is the time of StopPodSandbox and RemovePodSandbox with a container that runs.
func (b *podBench) remove(ctx context.Context, s *subject) (float64, error) {
	return b.measured(ctx, s, false, func(p *node.Pod, _ *node.Container, _ float64) (float64, error) {
		begin := time.Now()
		err := p.Remove(ctx)
		return since(begin), err
	})
}

// exec is the time of an ExecSync of true, as an exec probe has it.
func (b *podBench) exec(ctx context.Context, s *subject) (float64, error) {
	return b.measured(ctx, s, false, func(_ *node.Pod, c *node.Container, _ float64) (float64, error) {
		var times []float64
		for range 5 {
			begin := time.Now()
			got, err := c.Exec(ctx, "true")
			if err != nil {
				return 0, err
			}
			times = append(times, since(begin))
			if got.ExitCode != 0 {
				return 0, fmt.Errorf("exec of true: exit status %d", got.ExitCode)
			}
		}
		return median(times), nil
	})
}

// several runs pods, all at once.
func (b *podBench) several(ctx context.Context, s *subject, f func(ms float64) (float64, error)) (v float64, err error) {
	pods, errs := make([]*node.Pod, atOnce), make([]error, atOnce)
	each := func(f func(i int)) {
		var all sync.WaitGroup
		for i := range atOnce {
			all.Go(func() { f(i) })
		}
		all.Wait()
	}
	defer func() {
		each(func(i int) {
			if pods[i] != nil {
				errs[i] = pods[i].Remove(ctx)
			}
		})
		err = errors.Join(append(errs, err)...)
	}()
	begin := time.Now()
	each(func(i int) { pods[i], _, errs[i] = b.run(ctx, s, false) })
	ms := since(begin)
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	return f(ms)
}

// many is the time until several pods, asked for at once, all run.
func (b *podBench) many(ctx context.Context, s *subject) (float64, error) {
	return b.several(ctx, s, func(ms float64) (float64, error) { return ms, nil })
}

// memory is the proportional set size of all processes that several idle pods bring to a node: shims, their
// helpers, and what the pods run. They are idle when it stays what it was.
func (b *podBench) memory(ctx context.Context, s *subject) (float64, error) {
	const tries, steady = 6, 0.02
	before := processes()
	return b.several(ctx, s, func(float64) (kB float64, err error) {
		last := 0.0
		for range tries {
			select {
			case <-time.After(settle):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			if kB, err = sum(before); err != nil || math.Abs(kB-last) < steady*kB {
				break
			}
			last = kB
		}
		return kB, err
	})
}

// sum is the proportional set size of all processes but those that were there before, in kB.
func sum(before map[int]bool) (kB float64, err error) {
	for pid := range processes() {
		if before[pid] {
			continue
		}
		n, err := pss(filepath.Join("/proc", strconv.Itoa(pid)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		kB += n
	}
	return kB, nil
}

// processes are those of the sandbox.
func processes() map[int]bool {
	pids := make(map[int]bool)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids[pid] = true
		}
	}
	return pids
}
