package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/image"
)

// row is one thing that is measured.
type row struct {
	name, unit string
	// rounds divides the number of rounds, for rows that take long.
	divisor int
	// measure returns one value.
	measure func(ctx context.Context, s *subject) (float64, error)
}

// result is a row with all its values, by subject.
type result struct {
	row
	values map[string][]float64
}

func (b *bench) rows() []row {
	return []row{
		{"create_start", "ms", 1, b.createStart},
		{"exec", "ms", 1, b.exec},
		{"stop_delete", "ms", 1, b.stopDelete},
		{"run_rm", "ms", 1, b.runRm},
		{"burst20", "ms", 4, b.burst},
		{"pss_1", "kB", 4, func(ctx context.Context, s *subject) (float64, error) { return b.memory(ctx, s, 1) }},
		{"pss_pod2", "kB", 4, func(ctx context.Context, s *subject) (float64, error) { return b.memory(ctx, s, 2) }},
		{"pss_pod10", "kB", 4, func(ctx context.Context, s *subject) (float64, error) { return b.memory(ctx, s, 10) }},
	}
}

// measure runs the rows that are named, all of them when none is.
func measure(ctx context.Context, subjects []*subject, rows []row, rounds int, names []string) ([]result, error) {
	var results []result
	for _, r := range rows {
		if len(names) > 0 && !slices.Contains(names, r.name) {
			continue
		}
		res := result{row: r, values: make(map[string][]float64)}
		// The first round warms caches and is not counted.
		for round := range 1 + max(3, rounds/r.divisor) {
			for i := range subjects {
				s := subjects[(i+round)%len(subjects)]
				v, err := r.measure(ctx, s)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", r.name, s.name, err)
				}
				if round > 0 {
					res.values[s.name] = append(res.values[s.name], v)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "%s done\n", r.name)
		results = append(results, res)
	}
	return results, nil
}

func since(t time.Time) float64 { return float64(time.Since(t).Microseconds()) / 1000 }

// sleeper is the program of containers that must stay: it ends by SIGKILL alone, as most do.
var sleeper = []string{"sleep", "1000000"}

// started runs f with a started container, and the time that its task took to create and start.
func (b *bench) started(ctx context.Context, s *subject, f func(t containerd.Task, ms float64) (float64, error)) (v float64, err error) {
	c, err := b.container(ctx, s, "", sleeper...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.remove(ctx, c)) }()
	begin := time.Now()
	t, err := b.task(ctx, s, c)
	if err != nil {
		return 0, err
	}
	if err := t.Start(b.context(ctx)); err != nil {
		return 0, fmt.Errorf("start: %w", err)
	}
	return f(t, since(begin))
}

// createStart is the time of the task calls Create and Start, the start of the shim included.
func (b *bench) createStart(ctx context.Context, s *subject) (float64, error) {
	return b.started(ctx, s, func(_ containerd.Task, ms float64) (float64, error) { return ms, nil })
}

// exec is the time to run true in a container, from Exec to its exit.
func (b *bench) exec(ctx context.Context, s *subject) (float64, error) {
	return b.started(ctx, s, func(t containerd.Task, _ float64) (float64, error) {
		ctx := b.context(ctx)
		spec, err := t.Spec(ctx)
		if err != nil {
			return 0, err
		}
		process := *spec.Process
		process.Args = []string{"true"}
		var times []float64
		for i := range 3 {
			ms, err := execOnce(ctx, t, fmt.Sprintf("e%d", i), &process)
			if err != nil {
				return 0, err
			}
			times = append(times, ms)
		}
		return median(times), nil
	})
}

func execOnce(ctx context.Context, t containerd.Task, id string, spec *specs.Process) (float64, error) {
	begin := time.Now()
	p, err := t.Exec(ctx, id, spec, cio.NullIO)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	exited, err := p.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("wait for exec: %w", err)
	}
	if err := p.Start(ctx); err != nil {
		return 0, fmt.Errorf("start exec: %w", err)
	}
	status := <-exited
	ms := since(begin)
	if status.ExitCode() != 0 {
		return 0, fmt.Errorf("exec of true: exit status %d", status.ExitCode())
	}
	_, err = p.Delete(ctx)
	return ms, err
}

// stopDelete is the time from SIGKILL to the end of Delete, which ends the shim.
func (b *bench) stopDelete(ctx context.Context, s *subject) (float64, error) {
	return b.started(ctx, s, func(t containerd.Task, _ float64) (float64, error) {
		ctx := b.context(ctx)
		exited, err := t.Wait(ctx)
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		if err := t.Kill(ctx, syscall.SIGKILL); err != nil {
			return 0, fmt.Errorf("kill: %w", err)
		}
		<-exited
		if _, err := t.Delete(ctx); err != nil {
			return 0, fmt.Errorf("delete: %w", err)
		}
		return since(begin), nil
	})
}

// runRm is the wall time of `ctr run --rm IMAGE ID true`.
func (b *bench) runRm(ctx context.Context, s *subject) (float64, error) {
	args := []string{"--address", s.daemon.Address, "--namespace", namespace, "run", "--rm", "--runtime", s.runtime}
	if s.name == "crun" || s.name == "runc" {
		binary, err := s.anyVersion()
		if err != nil {
			return 0, err
		}
		args = append(args, "--runc-binary", binary)
	}
	id := fmt.Sprintf("b%d", b.serial.Add(1))
	args = append(args, image.Busybox, id, "true")
	cmd := exec.CommandContext(ctx, s.daemon.Binary("ctr"), args...)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	ms := since(begin)
	if err != nil {
		return 0, fmt.Errorf("ctr run: %w: %s", err, out)
	}
	return ms, nil
}

// burst is the time until 20 containers, created and started at once, all run.
func (b *bench) burst(ctx context.Context, s *subject) (ms float64, err error) {
	const n = 20
	var containers []containerd.Container
	defer func() {
		for _, c := range containers {
			err = errors.Join(err, b.remove(ctx, c))
		}
	}()
	for range n {
		c, err := b.container(ctx, s, "", sleeper...)
		if err != nil {
			return 0, err
		}
		containers = append(containers, c)
	}
	errs := make([]error, n)
	var all sync.WaitGroup
	begin := time.Now()
	for i, c := range containers {
		all.Go(func() {
			t, err := b.task(ctx, s, c)
			if err == nil {
				err = t.Start(b.context(ctx))
			}
			errs[i] = err
		})
	}
	all.Wait()
	return since(begin), errors.Join(errs...)
}
