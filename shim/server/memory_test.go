package server

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
)

// TestTrimmer: a request puts the trimming off until the shim is quiet; a look does not, or it would never come where there is one
// every second.
func TestTrimmer(t *testing.T) {
	for method, puts := range map[string]bool{
		"/containerd.task.v3.Task/Start": true, "/containerd.task.v2.Task/Exec": true, "/containerd.runtime.sandbox.v1.Sandbox/StopSandbox": true,
		"/containerd.task.v3.Task/Stats": false, "/containerd.task.v2.Task/State": false, "/containerd.runtime.sandbox.v1.Sandbox/SandboxMetrics": false,
	} {
		stopped := time.AfterFunc(time.Hour, func() {})
		stopped.Stop()
		called := false
		_, err := trimmer{stopped}.intercept(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: method}, func(context.Context, func(any) error) (any, error) {
			called = true
			return nil, nil
		})
		if was := stopped.Stop(); err != nil || !called || was != puts {
			t.Errorf("%s: the timer runs: %v, want %v; called %v, %v", method, was, puts, called, err)
		}
	}
}
