package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
)

// settle is how long a shim is left alone before its memory is read: garbage collectors return
// memory when idle.
const settle = 3 * time.Second

// memory is the proportional set size of the shim and of every helper process that stays, in kB,
// for a pod of n containers.
func (b *bench) memory(ctx context.Context, s *subject, n int) (kB float64, err error) {
	var containers []containerd.Container
	defer func() {
		// The sandbox goes last: it is the shim's own container.
		for i := len(containers) - 1; i >= 0; i-- {
			err = errors.Join(err, b.remove(ctx, containers[i]))
		}
	}()
	pod := "self"
	for range n {
		c, err := b.container(ctx, s, pod, sleeper...)
		if err != nil {
			return 0, err
		}
		containers = append(containers, c)
		if pod == "self" {
			pod = c.ID()
		}
		t, err := b.task(ctx, s, c)
		if err != nil {
			return 0, err
		}
		if err := t.Start(b.context(ctx)); err != nil {
			return 0, fmt.Errorf("start: %w", err)
		}
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return helpers()
}

// helpers adds up the PSS of all runtime processes in the sandbox; there are no others than those of
// the pod under measurement.
func helpers() (kB float64, err error) {
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return 0, err
	}
	found := 0
	for _, exe := range exes {
		target, err := os.Readlink(exe)
		if err != nil {
			continue // a kernel thread, or gone
		}
		name := filepath.Base(target)
		if !strings.HasPrefix(name, "containerd-shim-") && !strings.HasPrefix(name, "pvelxc-") {
			continue
		}
		pss, err := pss(filepath.Dir(exe))
		if err != nil {
			return 0, err
		}
		kB += pss
		found++
	}
	if found == 0 {
		return 0, errors.New("no shim process was found")
	}
	return kB, nil
}

// pss reads Pss of /proc/PID/smaps_rollup (proc(5)).
func pss(proc string) (float64, error) {
	data, err := os.ReadFile(filepath.Join(proc, "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("%s/smaps_rollup has no Pss line", proc)
}

// binary is the OCI runtime behind runc's shim.
func (s *subject) binary() string {
	return s.options.(*runcoptions.Options).BinaryName
}
