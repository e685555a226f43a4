package fake_test

import (
	"os"
	"testing"

	"github.com/pvelxc/pvelxc/snapshotter/zfs/conformance"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/fake"
)

func TestConformance(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	b, err := fake.New(t.TempDir(), "tank")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), "tank/test", map[string]string{"mountpoint": "legacy"}); err != nil {
		t.Fatal(err)
	}
	before := len(b.Names())
	conformance.Run(t, b, "tank/test")
	if after := len(b.Names()); after != before {
		t.Errorf("%d objects stay", after-before)
	}
}
