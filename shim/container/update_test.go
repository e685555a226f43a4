package container

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func number[T any](v T) *T { return &v }

func TestUpdateCompletesSwap(t *testing.T) {
	c := &Container{memoryLimit: number[int64](100)}
	update := &specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: number[int64](300)}}
	got := c.withMemoryLimit(update)
	want := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: number[int64](100), Swap: number[int64](300)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if update.Memory.Limit != nil {
		t.Error("the request was changed")
	}
	for _, r := range []*specs.LinuxResources{nil, {}, {Memory: &specs.LinuxMemory{Limit: number[int64](5), Swap: number[int64](9)}}} {
		if got := c.withMemoryLimit(r); got != r {
			t.Errorf("%+v became %+v", r, got)
		}
	}
}

func TestUpdateIgnoresKnownDevices(t *testing.T) {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	c := &Container{spec: &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: rules}}}}
	same := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, Pids: &specs.LinuxPids{Limit: number[int64](7)}}
	got := c.withoutKnownDevices(same)
	if got.Devices != nil || got.Pids == nil || same.Devices == nil {
		t.Errorf("got %+v of %+v", got, same)
	}
	other := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "r"}}}
	if got := c.withoutKnownDevices(other); got != other {
		t.Errorf("new rules became %+v", got)
	}
}

func TestMergeLimits(t *testing.T) {
	before := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: number[int64](1), Swap: number[int64](2)},
		CPU:    &specs.LinuxCPU{Cpus: "0-1"},
	}
	got := mergeLimits(before, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: number[int64](5)}, Pids: &specs.LinuxPids{Limit: number[int64](3)}})
	want := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: number[int64](5), Swap: number[int64](2)},
		CPU:    &specs.LinuxCPU{Cpus: "0-1"},
		Pids:   &specs.LinuxPids{Limit: number[int64](3)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if *before.Memory.Limit != 1 {
		t.Error("what held before was changed")
	}
	if got := mergeLimits(nil, nil); !cmp.Equal(got, &specs.LinuxResources{}) {
		t.Errorf("nothing and nothing is %+v", got)
	}
}
