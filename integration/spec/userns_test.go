package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

const base, size = 100000, 65536

// shifted gives a container a user namespace and a snapshot whose owners are shifted into it.
func shifted() harness.Option {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: size}}
	return func(s *harness.Settings) {
		harness.Spec(oci.WithUserNamespace(ids, ids))(s)
		harness.Snapshot(containerd.WithUserNSRemapperLabels(ids, ids))(s)
	}
}

func TestUserNamespace(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, shifted(), harness.Forever(), harness.Spec(oci.WithHostname("inside")))
		if got := strings.Join(strings.Fields(c.Sh(t, "cat /proc/self/uid_map /proc/self/gid_map")), " "); got != "0 100000 65536 0 100000 65536" {
			t.Errorf("maps %q", got)
		}
		if got := c.Sh(t, "id -u; ls -ln /bin/busybox | awk '{ print $3 }'; touch /root/f && echo made; ls -ln /home | awk '$9 == \"app\" { print $3 }'"); got != lines(0, 0, "made", 1000) {
			t.Errorf("inside: %q", got)
		}
		if uid := harness.Status(t, int(c.Task.Pid()))["Uid"]; !strings.HasPrefix(uid, fmt.Sprint(base)) {
			t.Errorf("on the host init has uid %s", uid)
		}
		if got := strings.TrimSpace(c.Sh(t, "echo x >/dev/null && test -c /dev/null && hostname")); got != "inside" {
			t.Errorf("host name %q", got)
		}
	})
}

// A file written into a volume by the namespace's root belongs to the shifted id.
func TestUserNamespaceVolume(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		dir := volume(t)
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		prints(t, e, lines("content"), "cat /volume/file; echo x >/volume/made", shifted(), harness.Mounts(bind(dir, "/volume", "rbind")))
		if got := owner(t, filepath.Join(dir, "made")); got != base {
			t.Errorf("the file belongs to %d, want %d", got, base)
		}
	})
}

func owner(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}
