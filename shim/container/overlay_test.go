package container

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// An overlay root is mapped by its layers: what the container's root owns is stored
// as the host's, users and groups each by their own map.
func TestMappedOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts are made")
	}
	dir := t.TempDir()
	target := filepath.Join(dir, "rootfs")
	for _, d := range []string{"lower", "upper/fs", "upper/work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lower", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ids := &oci2lxc.IDMap{
		UIDs: []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}},
		GIDs: []specs.LinuxIDMapping{{HostID: 300000, Size: 65536}},
	}
	mounts := []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + filepath.Join(dir, "lower"), "upperdir=" + filepath.Join(dir, "upper/fs"), "workdir=" + filepath.Join(dir, "upper/work"),
	}}}
	maps := new(idMaps)
	defer maps.close()
	mounted, err := mountRootfs(mounts, target, ids, maps)
	if err != nil {
		t.Fatal(err)
	}
	if !mounted {
		t.Fatal("nothing was mounted")
	}
	t.Cleanup(func() {
		if err := unmountRootfs(target); err != nil {
			t.Error(err)
		}
	})
	owner := func(path string, uid, gid uint32) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != uid || st.Gid != gid {
			t.Errorf("%s is of %d:%d, want %d:%d", path, st.Uid, st.Gid, uid, gid)
		}
	}
	file := filepath.Join(target, "file")
	owner(file, 100000, 300000)
	// A change copies the file up, which a read-only overlay could not.
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	owner(file, 100000, 300000)
	owner(filepath.Join(dir, "upper/fs/file"), 0, 0)
}
