// Package nerdctl drives the nerdctl command line on the runtimes: what a user types, and what they
// see. All state of nerdctl, its networks included, is inside the sandbox.
package nerdctl

import (
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
