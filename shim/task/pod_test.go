package task

import (
	"errors"
	"testing"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/shim/container"
)

// aPod is a pod that changes nothing.
type aPod struct{}

func (aPod) Join(*specs.Spec) error { return nil }

// TestHeld: a shim with a sandbox stays without containers, expects none when a restarted containerd asks, and takes them all along
// when the sandbox goes.
func TestHeld(t *testing.T) {
	s := serve(t)
	expected := 0
	s.service.config.Expect = func() { expected++ }
	s.service.config.Pod = func() container.Pod { return aPod{} }
	if err := s.service.Hold(); err != nil {
		t.Fatal(err)
	}
	must[emptyMessage](s, "Shutdown", &api.ShutdownRequest{ID: "c1"})
	must[api.ConnectResponse](s, "Connect", &api.ConnectRequest{ID: "the sandbox"})
	if expected != 0 || len(s.ended) != 0 {
		t.Errorf("%d containers are expected, the shim ended %d times", expected, len(s.ended))
	}
	s.create("c1")
	if s.fake.config.Pod == nil {
		t.Error("the container does not know its pod")
	}
	if err := s.service.KillAll(t.Context()); err != nil {
		t.Error(err)
	}
	s.calls(`kill "" 9 true`)
	close(s.fake.exit)
	s.fake.fail = errors.New("busy")
	if err := s.service.Clear(t.Context()); err == nil {
		t.Error("containers that cannot be deleted are forgotten")
	}
	s.fake.fail = nil
	s.calls(`kill "" 9 true`, `delete ""`)
	if err := s.service.Clear(t.Context()); err != nil {
		t.Error(err)
	}
	s.calls(`kill "" 9 true`, `delete ""`)
	if err := s.service.Clear(t.Context()); err != nil {
		t.Error(err)
	}
	s.calls()
	if _, err := call[api.CreateTaskResponse](s, ServiceV3, "Create", &api.CreateTaskRequest{ID: "c2"}); !errdefs.IsUnavailable(err) {
		t.Errorf("a container after that: %v", err)
	}
	if err := s.service.Hold(); !errdefs.IsUnavailable(err) {
		t.Errorf("a sandbox after that: %v", err)
	}
	s.service.End()
	s.service.End()
	if len(s.ended) != 1 {
		t.Errorf("the shim ended %d times", len(s.ended))
	}
}

// TestKillAllPasses: what has ended needs no signal, and is no failure.
func TestKillAllPasses(t *testing.T) {
	s := serve(t)
	s.create("c1")
	s.fake.fail = errdefs.ErrNotFound
	if err := s.service.KillAll(t.Context()); err != nil {
		t.Error(err)
	}
}
