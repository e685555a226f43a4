package registration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// pod makes a container one of a pod's, as CRI does.
func pod(kind string) harness.Option {
	return harness.Spec(oci.WithAnnotations(map[string]string{
		"io.kubernetes.cri.container-type":    kind,
		"io.kubernetes.cri.container-name":    "main",
		"io.kubernetes.cri.sandbox-name":      "Web_0",
		"io.kubernetes.cri.sandbox-namespace": "default",
	}))
}

func TestLife(t *testing.T) {
	n := cluster(t)
	const secret = "hunter2-in-the-environment"
	c := n.Create(t, harness.Forever(), pod("container"), harness.Spec(
		oci.WithEnv([]string{"PASSWORD=" + secret}), oci.WithMemoryLimit(64<<20)))
	vmid := n.vmid()
	p := n.pct(vmid)
	for key, want := range map[string]string{
		"lock": "create", "hostname": "web-0", "memory": "64", "ostype": "unmanaged", "protection": "1",
		"tags": "k8s;ns-default;pod-web_0", "unprivileged": "0", "arch": "", "onboot": "",
	} {
		if got := p.Keys[key]; got != want {
			t.Errorf("created: %s is %q, want %q", key, got, want)
		}
	}
	if rootfs := filepath.Join(n.Daemon.Bundle(n.Namespace, c.ID()), "rootfs"); !strings.HasPrefix(p.Keys["rootfs"], rootfs) {
		t.Errorf("rootfs is %q, want %s", p.Keys["rootfs"], rootfs)
	}
	if !strings.Contains(p.Description, c.ID()) || !strings.Contains(n.read(n.path(vmid)), "lxc.group: pvelxc/pve1/") {
		t.Errorf("no id in the note or no marker:\n%s", n.read(n.path(vmid)))
	}
	if err := c.Task.Start(n.Context); err != nil {
		t.Fatal(err)
	}
	n.lock(vmid, "")
	for _, path := range []string{n.path(vmid), filepath.Join(lxcpath, vmid, "config")} {
		if strings.Contains(n.read(path), secret) {
			t.Errorf("%s holds the environment", path)
		}
	}
	if out := n.run("lxc-info", "-n", vmid, "-s", "-p"); !strings.Contains(out, "RUNNING") || !strings.Contains(out, fmt.Sprint(c.Task.Pid())) {
		t.Errorf("lxc-info says %q, want running and pid %d", out, c.Task.Pid())
	}
	if out := n.run("lxc-ls"); strings.TrimSpace(out) != vmid {
		t.Errorf("lxc-ls says %q, want %s", out, vmid)
	}
	c.Stop(t)
	n.lock(vmid, "create")
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	n.none("after delete")
	if _, err := os.Stat(filepath.Join(lxcpath, vmid)); !os.IsNotExist(err) {
		t.Errorf("%s/%s is left: %v", lxcpath, vmid, err)
	}
}

// What the Stop and Shutdown buttons do becomes the task's exit.
func TestAdminStops(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want uint32
	}{
		"stop":     {[]string{"-k"}, 137},
		"shutdown": {[]string{"-t", "60", "--nokill"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := cluster(t)
			c := n.Start(t, harness.Shell("trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done"))
			c.Saw(t, "ready")
			vmid := n.vmid()
			n.lock(vmid, "")
			n.run("lxc-stop", append([]string{"-n", vmid}, test.args...)...)
			if got := c.Wait(t); got.Status != test.want {
				t.Errorf("exit status %d, want %d", got.Status, test.want)
			}
			n.lock(vmid, "create")
		})
	}
}

func TestAdminEnters(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever())
	vmid := n.vmid()
	if out := n.run("lxc-attach", "-n", vmid, "--", "/bin/sh", "-c", "echo pid-1-is $(cat /proc/1/comm)"); !strings.Contains(out, "pid-1-is sh") {
		t.Errorf("lxc-attach printed %q", out)
	}
	c.Stop(t)
	if err := c.Remove(); err != nil { // the census sees what attaching left
		t.Fatal(err)
	}
	n.none("after delete")
}

// An update reaches the conf, and what the admin wrote there survives it.
func TestUpdateAndAdminsEdit(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever(), harness.Spec(oci.WithMemoryLimit(64<<20)))
	vmid := n.vmid()
	n.lock(vmid, "")
	n.write(n.path(vmid), n.read(n.path(vmid))+"onboot: 0\nstartup: order=7\n")
	n.update(t, c, 128<<20)
	c.Stop(t)
	n.lock(vmid, "create")
	if got := n.pct(vmid).Keys["startup"]; got != "order=7" {
		t.Errorf("the admin's line became %q", got)
	}
}

func TestShimKilled(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever())
	vmid := n.vmid()
	if err := syscall.Kill(c.Shim(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "removal of the conf", func() error {
		if left := n.confs(); len(left) > 0 {
			return fmt.Errorf("confs %q", left)
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(lxcpath, vmid)); !os.IsNotExist(err) {
		t.Errorf("%s/%s is left: %v", lxcpath, vmid, err)
	}
}

func TestWhatIsRegistered(t *testing.T) {
	for _, test := range []struct {
		setting, kind string
		want          int
	}{
		{"containers", "sandbox", 0}, {"containers", "container", 1},
		{"all", "sandbox", 1}, {"none", "container", 0},
	} {
		t.Run(test.setting+" "+test.kind, func(t *testing.T) {
			n := cluster(t)
			n.configure(fmt.Sprintf("registration = %q", test.setting))
			n.Start(t, harness.Forever(), pod(test.kind))
			if got := n.confs(); len(got) != test.want {
				t.Errorf("confs %q, want %d", got, test.want)
			}
		})
	}
}
