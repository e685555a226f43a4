package registration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

func TestNoQuorumDegrades(t *testing.T) {
	n := cluster(t)
	before := n.Start(t, harness.Forever())
	n.lock(n.vmid(), "")
	n.SetQuorum(false)
	c := n.Start(t, harness.Forever())
	if got := n.confs(); len(got) != 1 {
		t.Errorf("confs %q, want that of the container that was there before", got)
	}
	if log := n.Daemon.LogTail(200); !strings.Contains(log, "container starts unregistered") {
		t.Error("no log line says that the container is not registered")
	}
	n.metrics(t, "0", "1") // what cannot be reconciled is counted
	if out, err := n.command(pvelxc(), "doctor", "registrations").CombinedOutput(); err == nil || !strings.Contains(string(out), "1 of 2 containers are unknown to Proxmox VE") || !strings.Contains(string(out), c.ID()) {
		t.Errorf("doctor says %s (%v)", out, err)
	}
	for _, c := range []*harness.Container{before, c} {
		if out := c.Sh(t, "echo fine"); out != "fine\n" {
			t.Errorf("a container says %q", out)
		}
		c.Stop(t)
		if err := c.Remove(); err != nil {
			t.Errorf("delete without quorum: %v", err)
		}
	}
	n.SetQuorum(true)
	n.gc()
	n.none("after reconciliation")
	n.metrics(t, "1", "0")
}

// metrics are what gc writes for node_exporter: whether it succeeds, and how many containers are
// unregistered.
func (n *node) metrics(t *testing.T, success, unregistered string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pvelxc.prom")
	if err := n.tryGC("--textfile", file); (err == nil) != (success == "1") {
		t.Errorf("success %s: %v", success, err)
	}
	text := "\n" + n.read(file)
	for _, want := range []string{"\npvelxc_reconcile_success " + success + "\n", "\npvelxc_registration_unregistered_containers " + unregistered + "\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in%s", want, text)
		}
	}
}

func TestNoQuorumFails(t *testing.T) {
	n := cluster(t, `on_no_quorum = "fail"`)
	n.SetQuorum(false)
	_, err := n.TryCreate(t, harness.Forever())
	if err == nil || !strings.Contains(err.Error(), "not quorate") || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("create without quorum: %v, want a refusal that names it and a hint", err)
	}
}

// The cluster file system hangs. One container waits for it; the next ones start without even asking, and so
// are those that run deleted.
func TestClusterHangs(t *testing.T) {
	n := cluster(t)
	before := n.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	n.Hang()
	defer n.Unhang()
	first := n.Start(t, harness.Forever())
	// Of what it asked the last comes when it has left its note.
	harness.Eventually(t, "the note", func() error { _, err := os.Stat(away); return err })
	n.Looks()
	n.Counts()
	second := n.Start(t, harness.Forever())
	for _, c := range []*harness.Container{first, second, before} {
		if out := c.Sh(t, "echo fine"); out != "fine\n" {
			t.Errorf("a container says %q", out)
		}
		c.Stop(t)
		if err := c.Remove(); err != nil {
			t.Errorf("delete while the cluster hangs: %v", err)
		}
	}
	if looks, changes := n.Looks(), n.Counts(); len(changes) > 0 || looks[pvetest.OpLookup] > 1 || len(looks) > 1 {
		t.Errorf("the cluster was asked by others than the one who waits: %v %v", looks, changes)
	}
	n.Unhang()
	harness.Eventually(t, "registration as ever", func() error {
		c := n.Start(t, harness.Forever())
		defer c.Remove()
		if strings.Contains(strings.Join(n.confs(), " "), vmid) && len(n.confs()) < 2 || len(n.confs()) == 0 {
			return fmt.Errorf("confs %q", n.confs())
		}
		return nil
	})
	n.age(n.path(vmid))
	n.gc()
	n.none("after reconciliation")
}

// The cluster file system is not mounted: its mount point is an empty directory, in which nothing is made.
func TestClusterNotMounted(t *testing.T) {
	file := filepath.Join(harness.Work, "default.toml")
	if err := os.WriteFile(file, []byte("version = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// This containerd, and it alone, is on a node of Proxmox VE.
	const bare = `set -e; mkdir -p "$0/etc"; mount -t tmpfs none "$0/etc"; mkdir "$0/etc/up" "$0/etc/work"
		mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/etc/up,workdir=$0/etc/work" /etc; mkdir -p /etc/pve; exec "$@"`
	e := harness.Private(t, harness.Pvelxc, daemon.Containerd2, func(d *daemon.Daemon) {
		d.Env = append(d.Env, "PVELXC_CONFIG="+file)
		d.Prefix = []string{"unshare", "--mount", "sh", "-c", bare, harness.Work}
	})
	c := e.Start(t, harness.Forever())
	if out := c.Sh(t, "echo fine"); out != "fine\n" {
		t.Errorf("the container says %q", out)
	}
	if log := e.Daemon.LogTail(200); !strings.Contains(log, "container starts unregistered") || !strings.Contains(log, "/etc/pve is not mounted") {
		t.Errorf("no log line says so:\n%s", log)
	}
	if made, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/etc/pve", e.Daemon.Pid())); err != nil || len(made) > 0 {
		t.Errorf("made under the mount point: %v, %v", made, err)
	}
	c.Stop(t)
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	// The note goes with the outage; this one's cluster will never be.
	if err := os.Remove(away); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

// away is the note of an outage.
const away = "/var/lib/pvelxc/registration/away"

// The daemon of the cluster file system is gone: delete works, and so does the start of others.
func TestClusterDown(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	orphaned := n.Start(t, harness.Forever())
	n.Stop()
	if err := syscall.Kill(orphaned.Shim(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone := func() error {
		_, err := os.Stat(n.Daemon.Bundle(n.Namespace, orphaned.ID()))
		if err == nil {
			return os.ErrExist
		}
		return nil
	}
	harness.Eventually(t, "removal of what the dead shim ran", gone)
	if err := orphaned.Remove(); err != nil {
		t.Errorf("delete without the cluster and without a shim: %v", err)
	}
	other := n.Start(t, harness.Forever())
	for _, c := range []*harness.Container{c, other} {
		c.Stop(t)
		if err := c.Remove(); err != nil {
			t.Errorf("delete without the cluster: %v", err)
		}
	}
	n.Resume()
	harness.Eventually(t, "reconciliation", func() error { return n.tryGC() }) // the outage ends when it is seen to
	n.none("after reconciliation")
}
