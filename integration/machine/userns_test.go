package machine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// shifted gives a container a user namespace and a snapshot whose owners are shifted into it.
func shifted() harness.Option {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	return func(s *harness.Settings) {
		harness.Spec(oci.WithUserNamespace(ids, ids))(s)
		harness.Snapshot(containerd.WithUserNSRemapperLabels(ids, ids))(s)
	}
}

// A container that asks for no user namespace gets one from the node's settings. Its snapshot keeps the
// image's owners, whatever filesystem it is on.
func TestUnprivileged(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	text := &runtimeoptions.Options{ConfigBody: []byte("[runtime]\nunprivileged = true\n")}
	c := e.Start(t, harness.Forever(), harness.With(containerd.WithRuntime(e.Runtime.Type, text)))
	got := strings.Fields(c.Sh(t, "id -u; cat /proc/self/uid_map; ls -ln /home | awk '$9 == \"app\" { print $3 }'; touch /root/made && echo made"))
	if want := "0 0 100000 65536 1000 made"; strings.Join(got, " ") != want {
		t.Errorf("inside: %q, want %q", got, want)
	}
	if uid := harness.Status(t, int(c.Task.Pid()))["Uid"]; !strings.HasPrefix(uid, "100000\t") {
		t.Errorf("on the host init has uid %s", uid)
	}
	made := filepath.Join(upper(t, e, c), "root/made")
	info, err := os.Stat(made)
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("%s belongs to %d, want 0", made, uid)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(made, &fs); err != nil {
		t.Fatal(err)
	}
	t.Logf("filesystem %#x", fs.Type)
}

// upper is the directory that has what the container has written.
func upper(t *testing.T, e *harness.Env, c *harness.Container) string {
	t.Helper()
	info, err := c.Info(e.Context)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := e.Daemon.Client.SnapshotService(info.Snapshotter).Mounts(e.Context, info.SnapshotKey)
	if err != nil || len(mounts) != 1 {
		t.Fatalf("mounts of the snapshot: %v, %v", mounts, err)
	}
	for _, option := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
			return dir
		}
	}
	return mounts[0].Source
}
