package pve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// TestReserveWaitsForOneCreate: a container waits for one round trip of the cluster and
// not even for the content of its conf, nor do the requests to the node's own daemon
// grow in number.
func TestReserveWaitsForOneCreate(t *testing.T) {
	m, _ := cluster(t)
	o := *m.Registrar
	o.Node = ""
	m.mount.Counts()
	m.mount.Looks()
	release := make(chan struct{})
	m.mount.Before(func(op pvetest.Op, _ string) {
		if op != pvetest.OpCreate {
			<-release
		}
	})
	reg, err := start(t, o, m.mount).Reserve(ctx(t), guest("c1"))
	must(t, err)
	// local, which says what node this is; nodes, n1, lxc and the name that is not there.
	if diff := cmp.Diff(map[pvetest.Op]int{pvetest.OpLookup: 5, pvetest.OpReadlink: 1}, m.mount.Looks()); diff != "" {
		t.Errorf("asked of the node's daemon (-want +got):\n%s", diff)
	}
	if n := m.mount.Counts()[pvetest.OpCreate]; n != 1 {
		t.Errorf("%d creates", n)
	}
	if text := read(t, m.path(reg.VMID)); text != "" {
		t.Errorf("before the write is through: %q", text)
	}
	close(release)
	m.written(reg.VMID)
	if n := m.mount.Counts()[pvetest.OpWrite]; n > 1 || m.get(reg.VMID, "lock") != "create" {
		t.Errorf("%d writes, conf %q", n, read(t, m.path(reg.VMID)))
	}
}

// TestNoVMIDIsGivenTwice: two nodes and five hundred creates on each at once. The
// nodes start at the same place of the range, so that they collide.
func TestNoVMIDIsGivenTwice(t *testing.T) {
	a, b := cluster(t)
	const each = 500
	for _, m := range []*machine{a, b} {
		write(t, filepath.Join(m.StateDir, "cursor"), "9000\n")
	}
	type given struct {
		vmid  pve.VMID
		owner pve.Owner
	}
	results := make(chan given, 2*each)
	var wg sync.WaitGroup
	for _, m := range []*machine{a, b} {
		for i := range each {
			wg.Go(func() {
				reg, err := m.Reserve(ctx(t), guest(fmt.Sprint("c", i)))
				if err != nil {
					t.Errorf("%s: container %d: %v", m.Node, i, err)
					return
				}
				m.written(reg.VMID)
				results <- given{reg.VMID, pve.Owner{Node: m.Node, Namespace: reg.Namespace, ID: reg.ID}}
			})
		}
	}
	wg.Wait()
	close(results)
	holders := map[pve.VMID]pve.Owner{}
	for g := range results {
		if other, twice := holders[g.vmid]; twice {
			t.Errorf("%d was given to %v and to %v", g.vmid, other, g.owner)
		}
		holders[g.vmid] = g.owner
	}
	if len(holders) != 2*each {
		t.Errorf("%d VMIDs for %d containers", len(holders), 2*each)
	}
	entries, err := a.List(ctx(t), true)
	must(t, err)
	if len(entries) != 2*each {
		t.Errorf("%d confs for %d containers", len(entries), 2*each)
	}
	for _, e := range entries {
		if holders[e.VMID] != e.Owner || e.Node != e.Owner.Node {
			t.Errorf("the conf of %d on %s says %v, given to %v", e.VMID, e.Node, e.Owner, holders[e.VMID])
		}
	}
}

func TestTakenElsewhere(t *testing.T) {
	a, b := cluster(t)
	write(t, filepath.Join(a.StateDir, "cursor"), "9000\n")
	write(t, b.path(9001), "memory: 16\n")
	write(t, filepath.Join(b.Root, "nodes/n2/qemu-server/9002.conf"), "memory: 16\n")
	if reg := a.reserve("c1"); reg.VMID != 9003 {
		t.Errorf("got %d: 9001 is a container on n2, 9002 a virtual machine", reg.VMID)
	}
	a.noIntents()
	for _, vmid := range []pve.VMID{9001} {
		f, err := os.Open(filepath.Join(a.LockDir, fmt.Sprintf("pve-config-%d.lock", vmid)))
		must(t, err)
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Errorf("the lock of %d is kept: %v", vmid, err)
		}
	}
}

func TestNoQuorum(t *testing.T) {
	m, _ := cluster(t)
	before := m.reserve("before")
	m.mount.SetQuorum(false)
	if _, err := m.Reserve(ctx(t), guest("c1")); !errors.Is(err, pve.ErrNoQuorum) || !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "hint: pvecm status") {
		t.Errorf("on_no_quorum = fail: %v", err)
	}
	m.mount.ShowStale(true)
	if _, err := m.Reserve(ctx(t), guest("c1")); !errors.Is(err, pve.ErrNoQuorum) {
		t.Errorf("while the modes still say otherwise: %v", err)
	}
	m.mount.ShowStale(false)
	o := *m.Registrar
	o.OnNoQuorum = pve.Degrade
	degrading := start(t, o, m.mount)
	reg, err := degrading.Reserve(ctx(t), guest("c1"))
	if err != nil || reg.VMID != 0 || !errors.Is(reg.Degraded, pve.ErrNoQuorum) {
		t.Errorf("on_no_quorum = degrade: %+v, %v", reg, err)
	}
	for op, do := range map[string]func(context.Context, pve.Registration) error{"SetRunning": m.SetRunning, "SetStopped": m.SetStopped, "Unregister": m.Unregister} {
		if err := do(ctx(t), reg); err != nil {
			t.Errorf("%s of the unregistered container: %v", op, err)
		}
		if op == "SetStopped" {
			continue // it is locked already: nothing to write
		}
		if err := do(ctx(t), before); !errors.Is(err, pve.ErrNoQuorum) {
			t.Errorf("%s of a registered one: %v, want ErrNoQuorum", op, err)
		}
	}
	m.mount.Counts()
	if _, err := m.Reconcile(ctx(t), tasks(pve.Task{Namespace: "default", ID: "c1"})); !errors.Is(err, pve.ErrNoQuorum) || len(m.mount.Counts()) > 0 {
		t.Errorf("Reconcile: %v, want ErrNoQuorum and nothing tried", err)
	}
	if entries, err := m.List(ctx(t), true); err != nil || len(entries) != 1 {
		t.Errorf("List: %d entries, %v; reading needs no quorum", len(entries), err)
	}
	m.mount.SetQuorum(true)
	// What was started unregistered stays so: its LXC name is no VMID.
	report, err := m.Reconcile(ctx(t), tasks(pve.Task{Namespace: "default", ID: "c1", Running: true}))
	must(t, err)
	if report.Unregistered != 1 || len(report.Changes) != 1 || report.Changes[0].Action != pve.Removed {
		t.Errorf("afterwards: %+v", report)
	}
}

// TestSlowClusterIsNotWaitedFor: the caller's context ends first, and what comes late
// is given back.
func TestSlowClusterIsNotWaitedFor(t *testing.T) {
	m, _ := cluster(t)
	release, reached := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.mount.Before(func(op pvetest.Op, _ string) {
		if op == pvetest.OpCreate {
			once.Do(func() { close(reached) })
			<-release
		}
	})
	hurried, cancel := context.WithCancel(ctx(t))
	go func() { <-reached; cancel() }()
	_, err := m.Reserve(hurried, guest("c1"))
	if !errors.Is(err, pve.ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	poll(t, func() string { return m.confs() }, "")
}

// poll waits until get returns want.
func poll(t testing.TB, get func() string, want string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		got := get()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it stays %q, want %q", got, want)
		}
		time.Sleep(pause)
	}
}

func TestNodeNameIsPVEs(t *testing.T) {
	m, _ := cluster(t)
	o := options(t, m.Root, "")
	if got := start(t, o, nil).Node; got != "n1" {
		t.Errorf("this node is %q, want n1: what the link local says", got)
	}
}

func TestAnyDirectoryServes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b")
	m := start(t, options(t, root, ""), nil)
	reg := m.reserve("c1")
	if want := filepath.Join(root, "lxc", reg.VMID.String()+".conf"); !m.Local || read(t, want) != read(t, m.path(reg.VMID)) {
		t.Errorf("local %v; the conf is not at %s", m.Local, want)
	}
}

func TestNewRefuses(t *testing.T) {
	root := filepath.Join(t.TempDir(), "pve")
	for name, change := range map[string]func(*pve.Registrar){
		"range upside down":  func(r *pve.Registrar) { r.Range = pve.Range{First: 300, Last: 200} },
		"range below PVE's":  func(r *pve.Registrar) { r.Range = pve.Range{First: 1, Last: 200} },
		"a node that climbs": func(r *pve.Registrar) { r.Node = ".." },
		"a relative path":    func(r *pve.Registrar) { r.LXCPath = "lxc" },
		"a bad tag":          func(r *pve.Registrar) { r.Tags = []string{"a;b"} },
		"a bad policy":       func(r *pve.Registrar) { r.OnNoQuorum = "ignore" },
		"a bad CPU list":     func(r *pve.Registrar) { r.HostCPUs = "all" },
	} {
		o := options(t, root, "n1")
		o.Local = true
		change(&o)
		if _, err := pve.New(o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
}
