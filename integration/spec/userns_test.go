package spec

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

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

// A user namespace that no process is in, such as containerd pins for a pod before there is a sandbox: its
// map is what the specification says, and a container that says otherwise does not come to be.
func TestPinnedUserNamespace(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		pin := filepath.Join(volume(t), "user")
		if err := os.WriteFile(pin, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		holder := exec.Command("sleep", "1000")
		holder.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: base, Size: size}},
			GidMappings: []syscall.SysProcIDMap{{HostID: base, Size: size}},

			GidMappingsEnableSetgroups: true,
		}
		if err := holder.Start(); err != nil {
			t.Fatal(err)
		}
		err := unix.Mount(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid), pin, "", unix.MS_BIND, "")
		_ = holder.Process.Kill()
		_ = holder.Wait()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(pin, unix.MNT_DETACH) })
		joining := func(n uint32) harness.Option {
			return harness.Edit(func(s *specs.Spec) {
				s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: n}}
				s.Linux.GIDMappings = s.Linux.UIDMappings
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: pin})
			})
		}
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: size}}
		snapshot := harness.Snapshot(containerd.WithUserNSRemapperLabels(ids, ids))
		prints(t, e, lines("0 100000 65536", 0), "cat /proc/self/uid_map | tr -s ' ' | cut -c2-; id -u", joining(size), snapshot)
		if _, err := e.TryCreate(t, joining(size-1), snapshot, harness.Forever()); err == nil {
			t.Error("a container whose map is not that of its namespace")
		}
	})
}
