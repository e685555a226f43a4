package harness

import (
	"context"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// patience bounds every wait in a test: generous, because it only matters when the test fails.
const patience = 30 * time.Second

// Eventually fails the test when try does not return nil in time.
func Eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := daemon.Poll(ctx, try); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Soon returns the value ch yields, or fails the test when it takes too long.
func Soon[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing within %s", what, patience)
		panic("unreachable")
	}
}
