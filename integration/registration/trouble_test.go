package registration

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
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
}

func TestNoQuorumFails(t *testing.T) {
	n := cluster(t, `on_no_quorum = "fail"`)
	n.SetQuorum(false)
	_, err := n.TryCreate(t, harness.Forever())
	if err == nil || !strings.Contains(err.Error(), "not quorate") || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("create without quorum: %v, want a refusal that names it and a hint", err)
	}
}

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
	harness.Eventually(t, "reconciliation", func() error { n.gc(); return nil })
	n.none("after reconciliation")
}
