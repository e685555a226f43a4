package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

// holder is the shim of a pod whose sandbox it holds itself, and the pid that CRI has for the sandbox.
func (p *pod) holder(t *testing.T, before []int) (shim, pid int) {
	t.Helper()
	own := p.shim(t, before)
	s, err := p.Status(p.env.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Pid *int }
	if err := json.Unmarshal([]byte(s.Info["info"]), &info); err != nil || info.Pid == nil {
		t.Fatalf("the pod's verbose status is %q, %v", s.Info["info"], err)
	}
	return own, *info.Pid
}

// TestShimHoldsNamespaces: a pod has no process before its containers have, and keeps its namespaces and its shared memory through
// them.
func TestShimHoldsNamespaces(t *testing.T) {
	e := on(t, node.ShimSandboxes, daemon.Containerd2)
	before := shims()
	p := e.pod(t)
	shim, pid := p.holder(t, before)
	if pid != 0 {
		t.Errorf("the sandbox has process %d", pid)
	}
	kinds := []string{"ipc", "uts", "net"}
	was := make(map[string]string)
	for i := range 2 {
		c := p.sleeper(t)
		for _, kind := range kinds {
			got := ns(t, c.pid(t), kind)
			if i > 0 && got != was[kind] {
				t.Errorf("the next container has another %s namespace", kind)
			}
			if got == ns(t, 0, kind) {
				t.Errorf("the container has the host's %s namespace", kind)
			}
			if kind != "net" && !slices.Contains(slices.Collect(maps.Values(harness.OpenFiles(shim))), got) {
				t.Errorf("the shim does not hold %s", got)
			}
			was[kind] = got
		}
		if i > 0 {
			equal(t, "shared memory", c.exec(t, "cat /dev/shm/note"), "hello")
		}
		c.exec(t, "echo hello > /dev/shm/note")
		equal(t, "shared memory's size", c.exec(t, "df -k /dev/shm | awk 'NR == 2 {print $2}'"), "65536")
		if _, err := e.Runtime.StopContainer(e.ctx, &cri.StopContainerRequest{ContainerId: c.ID}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Runtime.RemoveContainer(e.ctx, &cri.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSharedPIDSandbox: the one process of a sandbox is PID 1 of its containers; it shows them nothing of the host, cannot be ended
// by them, and the pod ends with it.
func TestSharedPIDSandbox(t *testing.T) {
	e := on(t, node.ShimSandboxes, daemon.Containerd2)
	for name, change := range map[string]func(*cri.NamespaceOption){
		"plain":          func(*cri.NamespaceOption) {},
		"user namespace": withUserNamespace,
	} {
		t.Run(name, func(t *testing.T) {
			before := shims()
			p := e.pod(t, namespaces(func(o *cri.NamespaceOption) { change(o); o.Pid = cri.NamespaceMode_POD }))
			_, pid := p.holder(t, before)
			c := p.sleeper(t, security(func(s *cri.LinuxContainerSecurityContext) {
				s.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_PTRACE", "SYS_ADMIN", "KILL"}}
			}))
			if pid == 0 || ns(t, pid, "pid") != ns(t, c.pid(t), "pid") {
				t.Fatalf("process %d is not PID 1 of the pod", pid)
			}
			// Streams of the null device, and the connection to the shim: nothing of the host's to reach through it.
			for fd := range 3 {
				var st syscall.Stat_t
				if err := syscall.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 1<<8|3 {
					t.Errorf("descriptor %d of PID 1 is no null device: mode %o, device %x, %v", fd, st.Mode, st.Rdev, err)
				}
			}
			if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err != nil || len(fds) != 4 {
				t.Errorf("PID 1 has the descriptors %v, %v", fds, err)
			}
			equal(t, "what PID 1 sees", c.exec(t, "ls -A /proc/1/root/ 2>/dev/null | wc -l"), "0")
			c.exec(t, "kill -9 1; kill -TERM 1; kill -0 1")
			c.exec(t, "for i in 1 2 3; do sh -c 'sleep 0.01 & exit 0'; done")
			harness.Eventually(t, "orphans", func() error {
				if zombies := c.exec(t, "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"); strings.TrimSpace(zombies) != "0" {
					return fmt.Errorf("%s zombies", zombies)
				}
				return nil
			})
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if s := c.wait(t); s.ExitCode == 0 {
				t.Error("a container that was killed has status 0")
			}
			p.over(t)
			_, err := p.tryCreate(forever)
			mustFail(t, "a container in a pod that has ended", err, "not running")
		})
	}
}

// TestNoPauseImage: sandboxes of the shim need no image.
func TestNoPauseImage(t *testing.T) {
	harness.NeedsRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n, err := node.Start(ctx, filepath.Join(harness.Work, "cri-no-pause"), daemon.Containerd2, func(c *daemon.CRI) {
		c.SandboxImage = "localhost/no/such/image:1"
		c.Handlers = slices.DeleteFunc(c.Handlers, func(h daemon.Handler) bool { return h.Sandboxer != "shim" })
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	warm := &env{Node: n, handler: node.ShimSandboxes.Name, ctx: ctx}
	if err := warm.once(ctx, 0); err != nil {
		t.Fatal(err)
	}
	e := enter(t, n, node.ShimSandboxes)
	equal(t, "output", e.pod(t).output(t, "echo works"), "works")
}

// TestUnprivilegedHandler: the options of a handler are known to either sandbox: one whose containers are to be unprivileged refuses a
// pod without a user namespace, whose network containerd makes where the root of one has no rights.
func TestUnprivilegedHandler(t *testing.T) {
	harness.NeedsRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	options := filepath.Join(t.TempDir(), "pvelxc.toml")
	text := fmt.Sprintf("version = 1\n[pve]\nroot = %q\n[runtime]\nunprivileged = true\n", harness.Registrations())
	if err := os.WriteFile(options, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(ctx, filepath.Join(harness.Work, "cri-unprivileged"), daemon.Containerd2, func(c *daemon.CRI) {
		for i := range c.Handlers {
			if c.Handlers[i].Type == harness.Pvelxc.Type {
				c.Handlers[i].ConfigPath = options
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, r := range []harness.Runtime{harness.Pvelxc, node.ShimSandboxes} {
		e := &env{Node: n, handler: r.Name, ctx: ctx}
		refused := func(t *testing.T) {
			_, err := e.tryPod(t)
			mustFail(t, "a pod without a user namespace", err, "hostUsers: false")
		}
		t.Run(r.Name+" warms up", refused)
		t.Run(r.Name, func(t *testing.T) {
			e = enter(t, n, r)
			refused(t)
		})
	}
}
