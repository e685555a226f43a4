// Package task tests the task service through containerd: its methods, its events, its streams.
package task

import (
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
