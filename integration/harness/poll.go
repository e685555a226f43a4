package harness

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// patience bounds every wait in a test: generous, because it only matters when the test fails.
// $PVELXC_TEST_PATIENCE, a Go duration, replaces it on a machine that is much slower than others.
var patience = patienceOf(os.Getenv("PVELXC_TEST_PATIENCE"))

// Patience is that of this machine, for tests that bound their waits themselves.
func Patience() time.Duration { return patience }

func patienceOf(setting string) time.Duration {
	if setting == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(setting)
	if err != nil || d <= 0 {
		panic(fmt.Sprintf("PVELXC_TEST_PATIENCE is %q (hint: a duration such as 2m)", setting))
	}
	return d
}

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
