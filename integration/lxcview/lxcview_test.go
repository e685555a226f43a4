// Package lxcview tests what LXC's own tools see of a container, through liblxc itself, and the
// traps that liblxc lays for a runtime built on it.
package lxcview

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/lxc/go-lxc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// open finds a container the way the host's tools do, by the lxcpath and name in its state file: those
// of its registration, VMID and all.
func open(t *testing.T, e *harness.Env, c *harness.Container) *lxc.Container {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/run/pvelxc/lxc", e.Namespace, c.ID(), "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ LXCPath, Name string }
	if err := json.Unmarshal(data, &state); err != nil {
		t.Fatal(err)
	}
	view, err := lxc.NewContainer(state.Name, state.LXCPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = view.Release() })
	return view
}

func TestLXCSeesTheContainer(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	c := e.Start(t, harness.Forever())
	view := open(t, e, c)
	if !view.Defined() || view.State() != lxc.RUNNING {
		t.Errorf("LXC says defined %v, state %v; want a running container", view.Defined(), view.State())
	}
	if got := view.InitPid(); got != int(c.Task.Pid()) {
		t.Errorf("LXC says PID 1 is process %d, containerd says %d", got, c.Task.Pid())
	}
	rootfs := filepath.Join(e.Daemon.Bundle(e.Namespace, c.ID()), "rootfs")
	if got := view.ConfigItem("lxc.rootfs.path"); len(got) != 1 || got[0] != rootfs {
		t.Errorf("lxc.rootfs.path is %q, want %s", got, rootfs)
	}
	if got := view.ConfigItem("lxc.environment"); len(got) != 0 && got[0] != "" {
		t.Errorf("the environment is in the LXC config, which others may read: %q", got)
	}
	c.Stop(t)
	if got := view.State(); got != lxc.STOPPED {
		t.Errorf("after the end LXC says %v", got)
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if view.Defined() {
		t.Errorf("after delete LXC still knows %s", view.Name())
	}
}

// An admin's lxc-stop is an exit like any other.
func TestStoppedByLXC(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	c := e.Start(t, harness.Args("sleep", "1000000"))
	view := open(t, e, c)
	if err := view.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := c.Wait(t); got.Status != 128+uint32(syscall.SIGKILL) {
		t.Errorf("exit status %d, want 137", got.Status)
	}
}

// To liblxc a PID 1 that dies of SIGHUP asks for a reboot, and it would start the container again.
// Only with the host's PID namespace can that signal be deadly to it.
func TestHangupIsNotAReboot(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		events := e.Record(t)
		c := e.Start(t, harness.Args("sleep", "1000000"), harness.Spec(oci.WithHostNamespace(specs.PIDNamespace)))
		pid := int(c.Task.Pid())
		if err := c.Task.Kill(e.Context, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if got := c.Wait(t); got.Status != 128+uint32(syscall.SIGHUP) {
			t.Errorf("exit status %d, want 129", got.Status)
		}
		if harness.Alive(pid) {
			t.Errorf("process %d lives", pid)
		}
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		events.Expect(t, c.ID(), "create", "start", "exit 129", "delete")
	})
}

// reboot(2) ends a container too, with the signal that stands for it, and LXC must not start it again.
func TestRebootIsTheEnd(t *testing.T) {
	for command, status := range map[string]uint32{"reboot": 129, "poweroff": 130} {
		t.Run(command, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				got := e.Run(t, harness.Shell("echo once; exec "+command+" -f"), harness.Spec(oci.WithAddedCapabilities([]string{"CAP_SYS_BOOT"})))
				if got.Status != status || got.Stdout != "once\n" {
					t.Errorf("status %d, want %d, printed %q: %s", got.Status, status, got.Stdout, got.Stderr)
				}
				// And so it is when another process does it, which has more privileges.
				c := e.Start(t, harness.Forever())
				p := c.NewExec(t, nil, []string{command, "-f"}, func(p *specs.Process) {
					p.Capabilities.Bounding = append(p.Capabilities.Bounding, "CAP_SYS_BOOT")
					p.Capabilities.Permitted = append(p.Capabilities.Permitted, "CAP_SYS_BOOT")
					p.Capabilities.Effective = append(p.Capabilities.Effective, "CAP_SYS_BOOT")
				})
				_ = p.Start(e.Context) // it may end before it is known to have started
				if got := c.Wait(t); got.Status != status {
					t.Errorf("status %d after an exec's %s, want %d", got.Status, command, status)
				}
			})
		})
	}
}

// What the shim and liblxc have open is not for the container: not for PID 1, not for an exec.
func TestNoDescriptorLeaksIn(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		// A start may return before the user's program runs.
		c := e.Start(t, harness.Shell("echo runs; exec sleep 1000000"))
		c.Saw(t, "runs")
		for fd, target := range harness.OpenFiles(int(c.Task.Pid())) {
			if fd != "0" && fd != "1" && fd != "2" {
				t.Errorf("PID 1 has descriptor %s: %s", fd, target)
			}
		}
		// The directory that ls reads is the one descriptor more.
		if got := strings.Fields(c.Sh(t, "exec ls /proc/self/fd")); len(got) != 4 {
			t.Errorf("an exec has the descriptors %q, want 0 to 3", got)
		}
	})
}

// A user namespace must not be left to liblxc to invent: it makes one when namespaces are only kept.
func TestHostNamespacesAreTheHosts(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		before, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		c := e.Start(t, harness.Forever(), harness.Spec(
			oci.WithHostNamespace(specs.NetworkNamespace), oci.WithHostNamespace(specs.IPCNamespace),
			oci.WithHostNamespace(specs.UTSNamespace), oci.WithHostname("")))
		for _, ns := range []string{"net", "ipc", "uts", "user"} {
			want, err1 := os.Readlink("/proc/self/ns/" + ns)
			got, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Task.Pid(), ns))
			if err1 != nil || err2 != nil || got != want {
				t.Errorf("%s namespace is %s, %v; the host's is %s, %v", ns, got, err2, want, err1)
			}
		}
		if after, err := os.Hostname(); err != nil || after != before {
			t.Errorf("the host was renamed from %q to %q, %v", before, after, err)
		}
	})
}
