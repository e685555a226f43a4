package snapshotter_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/fake"
)

// TestSuite is containerd's own, on the model.
func TestSuite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	if os.Getenv("VM_POOL_DEVICE") != "" {
		t.Skip("VM_POOL_DEVICE is set: TestSuiteOnPool is the same on real ZFS")
	}
	testsuite.SnapshotterSuite(t, "pvelxc", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		b, err := fake.New(root+"/pool", "tank")
		if err != nil {
			return nil, nil, err
		}
		s, err := snapshotter.Open(ctx, snapshotter.Options{Root: "tank/pvelxc", Dir: root, Backend: b, WarmLayers: 2, WarmClones: 1})
		if err != nil {
			return nil, nil, err
		}
		return s, func() error { return errors.Join(s.Close(), b.Close()) }, nil
	})
}
