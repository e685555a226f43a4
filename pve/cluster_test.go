package pve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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

// TestBrokenDatabase: pmxcfs answers and takes nothing any more. Containers start as they do without quorum, and nobody
// takes it for an outage that ends by itself.
func TestBrokenDatabase(t *testing.T) {
	m, _ := cluster(t)
	before := m.reserve("before")
	m.mount.SetBroken(true)
	for op, do := range map[string]func() error{
		"Reserve":    func() error { _, err := m.Reserve(ctx(t), guest("c1")); return err },
		"SetRunning": func() error { return m.SetRunning(ctx(t), before) },
		"Unregister": func() error { return m.Unregister(ctx(t), before) },
	} {
		if err := do(); !errors.Is(err, pve.ErrUnreachable) || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "hint: systemctl status pve-cluster") {
			t.Errorf("%s: %v, want ErrUnreachable", op, err)
		}
	}
	reg, err := m.again(func(r *pve.Registrar) { r.OnNoQuorum = pve.Degrade }).Reserve(ctx(t), guest("c1"))
	if err != nil || reg.VMID != 0 || !errors.Is(reg.Degraded, unix.EIO) {
		t.Errorf("on_no_quorum = degrade: %+v, %v", reg, err)
	}
	if _, err := os.Lstat(m.note()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a note of an outage: %v", err)
	}
	m.noIntents()
	m.mount.SetBroken(false)
	m.check("afterwards", tasks(task(before, true)), "unlocked before")
}

// TestRestart: pmxcfs goes away and comes back at every step of every operation.
func TestRestart(t *testing.T) {
	m, _ := cluster(t)
	// A failing step is found by counting: the n-th change of the operation is met
	// by a stopped daemon, which comes back when the operation has noticed.
	for step := range 6 {
		name := fmt.Sprint("step ", step)
		var reg pve.Registration
		for _, op := range []struct {
			name string
			do   func() error
		}{
			{"Reserve", func() (err error) {
				if reg, err = m.Reserve(ctx(t), guest("c1")); err == nil {
					m.written(reg.VMID)
				}
				return err
			}},
			{"SetRunning", func() error { return m.SetRunning(ctx(t), reg) }},
			{"SetStopped", func() error { return m.SetStopped(ctx(t), reg) }},
			{"Update", func() error {
				return m.Update(ctx(t), reg, guest("").Limits, pve.Limits{Memory: 32 << 20})
			}},
			{"Unregister", func() error { return m.Unregister(ctx(t), reg) }},
		} {
			var n atomic.Int64
			m.mount.Before(func(pvetest.Op, string) {
				if n.Add(1) == int64(step)+1 {
					m.mount.Stop()
					time.AfterFunc(3*time.Millisecond, m.mount.Resume)
				}
			})
			if err := op.do(); err != nil {
				t.Fatalf("%s: %s: %v", name, op.name, err)
			}
			m.mount.Before(nil)
			if op.name == "Unregister" {
				continue
			}
			// The step may have been beyond the operation's last.
			want := map[string]string{"Reserve": "64create", "SetRunning": "64-", "SetStopped": "64create", "Update": "32create"}[op.name]
			if got := m.get(reg.VMID, "memory") + m.get(reg.VMID, "lock"); got != want {
				t.Errorf("%s: after %s the conf says %s, want %s", name, op.name, got, want)
			}
		}
		if left := m.confs(); left != "" {
			t.Errorf("%s: left in the directory: %s", name, left)
		}
		if left, err := os.ReadDir(filepath.Join(m.StateDir, "intents")); err != nil || len(left) > 0 {
			t.Errorf("%s: intents are left: %v, %v", name, left, err)
		}
	}
}

// TestInterrupted: signals meet every operation at any of its requests, and are no failure. The longest path has ten
// requests, all of which must go through at once.
func TestInterrupted(t *testing.T) {
	a, _ := cluster(t)
	for _, oneIn := range []int{11, 13, 17, 19, 23} {
		a.mount.SetInterrupts(oneIn)
		o := *a.Registrar
		o.Node = "" // asks for it
		m := start(t, o, a.mount)
		reg, err := m.Reserve(ctx(t), guest("c1"))
		must(t, err)
		m.written(reg.VMID)
		for name, do := range map[string]func() error{
			"SetRunning": func() error { return m.SetRunning(ctx(t), reg) },
			"Update": func() error {
				return m.Update(ctx(t), reg, guest("").Limits, pve.Limits{Memory: 32 << 20})
			},
			"Find":      func() error { _, err := m.Find(ctx(t), reg.VMID); return err },
			"List":      func() error { _, err := m.List(ctx(t), true); return err },
			"Reconcile": func() error { _, err := m.Reconcile(ctx(t), tasks(task(reg, true))); return err },
		} {
			if err := do(); err != nil {
				t.Errorf("one in %d: %s: %v", oneIn, name, err)
			}
		}
		// Moved, it is found on the other node; removed, it is written again.
		a.mount.SetInterrupts(0)
		must(t, os.Rename(m.path(reg.VMID), m.pathOn("n2", reg.VMID)))
		a.mount.SetInterrupts(oneIn)
		m.check(fmt.Sprint("moved, one in ", oneIn), tasks(task(reg, true)), "returned c1")
		a.mount.SetInterrupts(0)
		must(t, os.Remove(m.path(reg.VMID)))
		a.mount.SetInterrupts(oneIn)
		m.check(fmt.Sprint("lost, one in ", oneIn), tasks(task(reg, true)), "restored c1")
		if err := m.Unregister(ctx(t), reg); err != nil {
			t.Errorf("one in %d: Unregister: %v", oneIn, err)
		}
		a.mount.SetInterrupts(0)
		if left := m.confs(); left != "" {
			t.Errorf("one in %d: left in the directory: %s", oneIn, left)
		}
		m.noIntents()
	}
}

// TestGone: pmxcfs does not come back.
func TestGone(t *testing.T) {
	m, _ := cluster(t)
	reg := m.reserve("c1")
	check := func(state string, prepare func()) {
		t.Helper()
		// Each finds out for itself: no note of another's speaks for the cluster.
		alone := map[string]*machine{}
		ops := map[string]func(m *machine) error{
			"Reserve":    func(m *machine) error { _, err := m.Reserve(ctx(t), guest("c2")); return err },
			"SetRunning": func(m *machine) error { return m.SetRunning(ctx(t), reg) },
			"Unregister": func(m *machine) error { return m.Unregister(ctx(t), reg) },
			"List":       func(m *machine) error { _, err := m.List(ctx(t), true); return err },
			"Reconcile":  func(m *machine) error { _, err := m.Reconcile(ctx(t), tasks()); return err },
			"Find":       func(m *machine) error { _, err := m.Find(context.Background(), reg.VMID); return err },
		}
		for op := range ops {
			alone[op] = m.again(func(r *pve.Registrar) { brief(r); r.StateDir = t.TempDir() })
		}
		prepare()
		for op, do := range ops {
			if err := do(alone[op]); !errors.Is(err, pve.ErrUnreachable) || !errdefs.IsUnavailable(err) || errors.Is(err, pve.ErrNotRegistered) {
				t.Errorf("%s: %s = %v, want ErrUnreachable", state, op, err)
			}
		}
	}
	check("not connected", m.mount.Stop)
	nameless := options(t, m.Root, "")
	brief(&nameless)
	if _, err := pve.New(nameless); !errors.Is(err, pve.ErrUnreachable) {
		t.Errorf("New: %v, want ErrUnreachable", err)
	}
	m.mount.Resume()
	if m.get(reg.VMID, "lock") != "create" {
		t.Error("the conf was changed")
	}
	// Stopped in order, it leaves an empty mount point.
	check("not mounted", func() { must(t, unix.Mount("none", m.Root, "tmpfs", 0, "")) })
	defer func() { must(t, unix.Unmount(m.Root, 0)) }()
	if entries, err := os.ReadDir(m.Root); err != nil || len(entries) > 0 {
		t.Errorf("something was written under the mount point: %v, %v", entries, err)
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
