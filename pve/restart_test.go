package pve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

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
