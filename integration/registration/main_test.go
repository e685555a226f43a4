// Package registration tests what Proxmox VE sees of containers that containerd runs, and what its
// administrator can do to them, on an emulated cluster file system.
package registration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

func TestMain(m *testing.M) { harness.Main(m) }

const lxcpath = "/var/lib/lxc"

// node is a node of an emulated cluster, with containerd on it. Other nodes have none.
type node struct {
	*harness.Env
	*pvetest.Mount
	t      testing.TB
	others map[string]*pvetest.Mount
}

// cluster mounts the file system of a new cluster of pve1 and pve2, and has the shims register on the
// first. settings are lines of the configuration's table pve.
func cluster(t *testing.T, settings ...string) *node {
	t.Helper()
	e := harness.On(t, harness.Pvelxc)
	mounts := pvetest.Start(t, "pve1", "pve2")
	n := &node{e, mounts["pve1"], t, mounts}
	n.configure("", settings...)
	return n
}

// configure replaces the node's configuration until the end of the test.
func (n *node) configure(top string, pve ...string) {
	n.t.Helper()
	path := configuration()
	before, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	text := fmt.Sprintf("version = 1\n%s\n[pve]\nroot = %q\ngrace = \"1ms\"\n%s\n", top, n.Dir, strings.Join(pve, "\n"))
	n.write(path, text)
	n.t.Cleanup(func() { n.write(path, string(before)) })
}

func (n *node) write(path, text string) {
	n.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read(path string) string {
	n.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(data)
}

// confs are the VMIDs of the node's confs. PVE's own reading must accept each of them.
func (n *node) confs() []string {
	n.t.Helper()
	paths, err := filepath.Glob(filepath.Join(n.Dir, "nodes/pve1/lxc/*.conf"))
	if err != nil {
		n.t.Fatal(err)
	}
	var vmids []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			n.t.Fatal(err)
		}
		vmid := strings.TrimSuffix(filepath.Base(path), ".conf")
		n.parse(vmid, string(data))
		vmids = append(vmids, vmid)
	}
	return vmids
}

func (n *node) path(vmid string) string { return n.pathOn("pve1", vmid) }

func (n *node) pathOn(node, vmid string) string {
	return filepath.Join(n.Dir, "nodes", node, "lxc", vmid+".conf")
}

// pct is a conf as PVE reads it.
func (n *node) pct(vmid string) *pvetest.PCT {
	n.t.Helper()
	return n.parse(vmid, n.read(n.path(vmid)))
}

func (n *node) parse(vmid, text string) *pvetest.PCT {
	n.t.Helper()
	p := pvetest.ParsePCT(text)
	if len(p.Warnings) > 0 {
		n.t.Errorf("conf of %s: PVE warns: %q", vmid, p.Warnings)
	}
	if _, err := p.Status(); err != nil {
		n.t.Errorf("conf of %s kills pct list: %v", vmid, err)
	}
	return p
}

// vmid is that of the one container that is registered. Its conf is written beside what the
// container does, so it is waited for.
func (n *node) vmid() string {
	n.t.Helper()
	all := n.confs()
	if len(all) != 1 {
		n.t.Fatalf("confs %q, want one", all)
	}
	n.written(all[0])
	return all[0]
}

func (n *node) written(vmid string) {
	n.t.Helper()
	harness.Eventually(n.t, "content of the conf of "+vmid, func() error {
		if n.read(n.path(vmid)) == "" {
			return errors.New("it is empty")
		}
		return nil
	})
}

// lock waits until a conf has a lock; it follows the container's state.
func (n *node) lock(vmid, want string) {
	n.t.Helper()
	harness.Eventually(n.t, "lock of "+vmid, func() error {
		if got := n.pct(vmid).Keys["lock"]; got != want {
			return fmt.Errorf("lock %q, want %q", got, want)
		}
		return nil
	})
}

func (n *node) none(what string) {
	n.t.Helper()
	if left := n.confs(); len(left) > 0 {
		n.t.Errorf("%s: confs %q are there", what, left)
	}
}

// run is a command of the host, which must succeed.
func (n *node) run(name string, args ...string) string {
	n.t.Helper()
	cmd := n.command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// command is one that knows the node's configuration and containerd.
func (n *node) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PVELXC_CONFIG="+configuration(), "CONTAINERD_ADDRESS="+n.Daemon.Address)
	return cmd
}

func pvelxc() string { return filepath.Join(daemon.Bin(), "pvelxc") }

func (n *node) gc() string { return n.run(pvelxc(), "gc", "--apply") }

// tryGC is gc while other things happen: a failure is for the next one to mend.
func (n *node) tryGC(options ...string) error {
	cmd := n.command(pvelxc(), append([]string{"gc", "--apply"}, options...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("gc: %w: %s", err, out)
	}
	return nil
}

// update gives a container another memory limit, in bytes, and waits until its conf has it.
func (n *node) update(t *testing.T, c *harness.Container, limit int64) {
	t.Helper()
	vmid := n.vmid()
	if err := c.Task.Update(n.Context, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the limit in the conf", func() error {
		if got := n.pct(vmid).Keys["memory"]; got != fmt.Sprint(limit>>20) {
			return fmt.Errorf("memory is %q", got)
		}
		return nil
	})
}

// configuration is the file that the harness names to containerd and so to the shims. They read it
// anew for each container.
func configuration() string { return filepath.Join(harness.Work, "pvelxc.toml") }

// memoryLimit is what the container's statistics say is in force.
func (n *node) memoryLimit(t *testing.T, c *harness.Container) uint64 {
	t.Helper()
	metric, err := c.Task.Metrics(n.Context)
	if err != nil {
		t.Fatal(err)
	}
	data, err := typeurl.UnmarshalAny(metric.Data)
	if err != nil {
		t.Fatal(err)
	}
	switch m := data.(type) {
	case *cgroup1.Metrics:
		return m.Memory.Usage.Limit
	case *cgroup2.Metrics:
		return m.Memory.UsageLimit
	}
	t.Fatalf("statistics are a %T", data)
	return 0
}
