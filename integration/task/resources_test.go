package task

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	apievents "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

const mebibyte = 1 << 20

func TestPauseResume(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		events := e.Record(t)
		c := e.Start(t, harness.Forever())
		expect := func(want containerd.ProcessStatus) {
			t.Helper()
			status, err := c.Task.Status(e.Context)
			if err != nil || status.Status != want {
				t.Errorf("state %s (%v), want %s", status.Status, err, want)
			}
		}
		if err := c.Task.Pause(e.Context); err != nil {
			t.Fatal(err)
		}
		expect(containerd.Paused)
		events.Await(t, c.ID(), "paused")
		if err := c.Task.Resume(e.Context); err != nil {
			t.Fatal(err)
		}
		expect(containerd.Running)
		events.Await(t, c.ID(), "resumed")
		if got := c.Sh(t, "echo well"); got != "well\n" {
			t.Errorf("exec after resume printed %q", got)
		}
	})
}

// SIGKILL ends a paused task.
func TestKillPaused(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		if err := c.Task.Pause(e.Context); err != nil {
			t.Fatal(err)
		}
		if err := c.Task.Kill(e.Context, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if got := c.Wait(t).Status; got != 137 {
			t.Errorf("status %d, want 137", got)
		}
	})
}

func TestUpdate(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever(), harness.Spec(oci.WithMemoryLimit(64*mebibyte), oci.WithPidsLimit(100)))
		memory := func() string { return c.Cgroup(t, "memory", "memory.limit_in_bytes", "memory.max") }
		pids := func() string { return c.Cgroup(t, "pids", "pids.max", "pids.max") }
		if memory() != fmt.Sprint(64*mebibyte) || pids() != "100" {
			t.Errorf("memory limit %s and pids limit %s at the start", memory(), pids())
		}
		limit, tasks := int64(96*mebibyte), int64(50)
		err := c.Task.Update(e.Context, containerd.WithResources(&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &limit},
			Pids:   &specs.LinuxPids{Limit: &tasks},
		}))
		if err != nil {
			t.Fatal(err)
		}
		if memory() != fmt.Sprint(limit) || pids() != "50" {
			t.Errorf("memory limit %s and pids limit %s after the update", memory(), pids())
		}
	})
}

func TestCPULimits(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever(), harness.Spec(oci.WithCPUCFS(50000, 100000), oci.WithCPUShares(2048)))
		if harness.Unified() {
			if got := c.Cgroup(t, "", "", "cpu.max"); got != "50000 100000" {
				t.Errorf("cpu.max %q", got)
			}
			return
		}
		for file, want := range map[string]string{"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "cpu.shares": "2048"} {
			if got := c.Cgroup(t, "cpu", file, ""); got != want {
				t.Errorf("%s %q, want %q", file, got, want)
			}
		}
	})
}

// Stats have the form of the machine's control groups, and numbers in them.
func TestMetrics(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever(), harness.Spec(oci.WithMemoryLimit(64*mebibyte)))
		metric, err := c.Task.Metrics(e.Context)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := typeurl.UnmarshalAny(metric.Data)
		if err != nil {
			t.Fatal(err)
		}
		var usage, limit, tasks uint64
		switch m := decoded.(type) {
		case *cgroup1.Metrics:
			if harness.Unified() {
				t.Fatal("metrics of version 1 on version 2")
			}
			usage, limit, tasks = m.GetMemory().GetUsage().GetUsage(), m.GetMemory().GetUsage().GetLimit(), m.GetPids().GetCurrent()
		case *cgroup2.Metrics:
			if !harness.Unified() {
				t.Fatal("metrics of version 2 on version 1")
			}
			usage, limit, tasks = m.GetMemory().GetUsage(), m.GetMemory().GetUsageLimit(), m.GetPids().GetCurrent()
		default:
			t.Fatalf("metrics are a %T", decoded)
		}
		if usage == 0 || limit != 64*mebibyte || tasks == 0 {
			t.Errorf("memory usage %d, limit %d, pids %d", usage, limit, tasks)
		}
	})
}

// Running out of memory is an event, also when it happens right after the start.
func TestOutOfMemory(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		events := e.Record(t)
		c := e.Start(t, harness.Shell("dd if=/dev/zero of=/dev/null bs=200M count=1; echo dd $?; exec sleep 1000"),
			harness.Spec(oci.WithMemoryLimit(24*mebibyte)))
		events.Await(t, c.ID(), "oom")
		if oom, ok := harness.Payload[*apievents.TaskOOM](events, c.ID()); !ok || oom.ContainerID != c.ID() {
			t.Errorf("TaskOOM is %v", oom)
		}
		c.Saw(t, "dd 137")
	})
}

func TestOutOfMemoryKillsInit(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		events := e.Record(t)
		c := e.Start(t, harness.Args("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"), harness.Spec(oci.WithMemoryLimit(24*mebibyte)))
		if got := c.Wait(t).Status; got != 137 {
			t.Errorf("status %d, want 137", got)
		}
		events.Await(t, c.ID(), "oom")
	})
}

func TestPidsLimit(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, harness.Spec(oci.WithPidsLimit(5)), harness.Shell("for i in 1 2 3 4 5 6 7 8; do sleep 2 & done; wait"))
		if !strings.Contains(got.Stderr, "can't fork") {
			t.Errorf("nine processes under a limit of five: %+v", got)
		}
	})
}
