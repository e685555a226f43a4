package registration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/pve/pvetest"
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
	if rootfs := n.pct(vmid).Keys["rootfs"]; !strings.Contains(rootfs, ",size=") {
		t.Errorf("rootfs is %q, without a size", rootfs)
	}
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

// A container runs while the cluster has not yet taken more than the creation of its conf.
func TestStartWaitsForOneRoundTrip(t *testing.T) {
	n := cluster(t)
	release := make(chan struct{})
	n.Before(func(op pvetest.Op, _ string) {
		if op != pvetest.OpCreate {
			<-release
		}
	})
	free := sync.OnceFunc(func() { close(release); n.Before(nil) })
	defer free()
	n.Counts()
	c := n.Start(t, harness.Forever())
	if out := c.Sh(t, "echo fine"); out != "fine\n" {
		t.Errorf("a shell says %q", out)
	}
	if created := n.Counts()[pvetest.OpCreate]; created != 1 {
		t.Errorf("%d creates", created)
	}
	free()
	n.lock(n.vmid(), "")
	if got := n.pct(n.vmid()).Keys["protection"]; got != "1" {
		t.Errorf("the conf is\n%s", n.read(n.path(n.vmid())))
	}
}

// A runtime handler's options hold for its containers, whoever takes them away.
func TestRuntimeOptions(t *testing.T) {
	n := cluster(t)
	body := fmt.Sprintf("registration = \"all\"\n[pve]\nroot = %q\nvmid_range = \"700-720\"\ntags = [\"handler\"]\nnode = \"pve2\"\n", n.others["pve2"].Dir)
	for _, end := range []string{"deleted", "shim killed"} {
		c := n.Start(t, harness.Forever(), pod("sandbox"), harness.With(containerd.WithRuntime(harness.Pvelxc.Type, &runtimeoptions.Options{ConfigBody: []byte(body)})))
		paths, err := filepath.Glob(filepath.Join(n.Dir, "nodes/pve2/lxc/7??.conf"))
		if err != nil || len(paths) != 1 {
			t.Fatalf("confs %q, %v", paths, err)
		}
		vmid := strings.TrimSuffix(filepath.Base(paths[0]), ".conf")
		harness.Eventually(t, "conf of a handler's container", func() error {
			if p := pvetest.ParsePCT(n.read(paths[0])); !strings.HasSuffix(p.Keys["tags"], ";handler") || p.Keys["lock"] != "" {
				return fmt.Errorf("tags %q, lock %q", p.Keys["tags"], p.Keys["lock"])
			}
			return nil
		})
		if err := os.Remove(paths[0]); err != nil {
			t.Fatal(err)
		}
		if n.gc(); !strings.Contains(n.read(paths[0]), "pvelxc/pve2/") {
			t.Errorf("gc did not write it again where it was")
		}
		if end == "shim killed" {
			if err := syscall.Kill(c.Shim(t), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else {
			c.Stop(t)
			if err := c.Remove(); err != nil {
				t.Fatal(err)
			}
		}
		gone(t, paths[0])
		gone(t, filepath.Join(lxcpath, vmid))
	}
	n.none("of what the node's own configuration says")
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
