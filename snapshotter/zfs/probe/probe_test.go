package probe_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/conformance"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/probe"
)

// TestConformance runs on a pool that it makes on the device $VM_POOL_DEVICE.
func TestConformance(t *testing.T) {
	device := os.Getenv("VM_POOL_DEVICE")
	if device == "" {
		t.Skip("needs VM_POOL_DEVICE: an empty device for a real pool")
	}
	if out, err := exec.Command("zpool", "create", "-f", "-O", "mountpoint=none", "-O", "atime=off", "conformance", device).CombinedOutput(); err != nil {
		t.Fatalf("zpool create: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("zpool", "destroy", "-f", "conformance").CombinedOutput(); err != nil {
			t.Errorf("zpool destroy: %v\n%s", err, out)
		}
	})
	for _, name := range []string{"ioctl", "cli"} {
		t.Run(name, func(t *testing.T) {
			b, err := probe.Open(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if b.Name() != name {
				t.Errorf("backend %s, asked for %s", b.Name(), name)
			}
			parent := "conformance/" + name
			if err := b.Create(t.Context(), parent, map[string]string{"mountpoint": "legacy", "canmount": "off", "compression": "lz4", "xattr": "sa",
				"acltype": "posixacl", "dnodesize": "auto", "atime": "off", "com.sun:auto-snapshot": "false"}); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("zfs", "get", "-Ho", "property,value", "-s", "local", "all", parent).Output()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s", out)
			conformance.Run(t, b, parent)
		})
	}
	t.Run("auto", func(t *testing.T) {
		b, err := probe.Open(t.Context(), "auto")
		if err != nil || b.Name() != "ioctl" {
			t.Errorf("auto: %v, %v; want ioctl", b, err)
		}
	})
}

func TestOpenUnknown(t *testing.T) {
	if _, err := probe.Open(t.Context(), "libzfs"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestOpenWithoutModule(t *testing.T) {
	if _, err := os.Stat("/sys/module/zfs"); err == nil {
		t.Skip("needs a machine without the module zfs")
	}
	for _, name := range []string{"ioctl", "cli", "auto"} {
		b, err := probe.Open(t.Context(), name)
		if b != nil || !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v, %v; want not implemented (%v)", name, b, err, zfs.ErrUnsupported)
		}
	}
}
