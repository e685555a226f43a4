package pve_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// halfReserved is a registration whose conf was made and never written: quorum went
// between the two.
func (m *machine) halfReserved(id string) pve.Registration {
	m.t.Helper()
	m.mount.Before(func(op pvetest.Op, _ string) {
		if op == pvetest.OpWrite {
			m.mount.SetQuorum(false)
		}
	})
	reg := m.reserve(id)
	m.mount.Before(nil)
	m.mount.SetQuorum(true)
	if got := read(m.t, m.path(reg.VMID)); got != "" {
		m.t.Fatalf("the conf was written: %q", got)
	}
	return reg
}

func (m *machine) noIntents() {
	m.t.Helper()
	if left, err := os.ReadDir(filepath.Join(m.StateDir, "intents")); err != nil || len(left) > 0 {
		m.t.Errorf("intents are left: %v, %v", left, err)
	}
}

// TestMadeAndNotWritten: whoever meets the empty conf next does what was meant.
func TestMadeAndNotWritten(t *testing.T) {
	whole := func(t *testing.T, m *machine, reg pve.Registration, lock string) {
		t.Helper()
		if got := m.get(reg.VMID, "hostname") + " " + m.get(reg.VMID, "lock"); got != "c1 "+lock {
			t.Errorf("host name and lock are %q", got)
		}
		m.noIntents()
	}
	for name, next := range map[string]func(*testing.T, *machine, pve.Registration){
		"it starts": func(t *testing.T, m *machine, reg pve.Registration) {
			must(t, m.SetRunning(ctx(t), reg))
			whole(t, m, reg, "-")
		},
		"it stops": func(t *testing.T, m *machine, reg pve.Registration) {
			must(t, m.SetStopped(ctx(t), reg))
			whole(t, m, reg, "create")
		},
		"it is deleted": func(t *testing.T, m *machine, reg pve.Registration) {
			must(t, m.Unregister(ctx(t), reg))
			if got := m.confs(); got != "" {
				t.Errorf("left: %s", got)
			}
			m.noIntents()
		},
		"its task is found": func(t *testing.T, m *machine, reg pve.Registration) {
			m.check("with its task", tasks(task(reg, true)), "restored c1")
			whole(t, m, reg, "-")
		},
		"another task has its VMID": func(t *testing.T, m *machine, reg pve.Registration) {
			other := task(reg, false)
			other.ID = "c2" // whose conf it is not
			report, err := m.Reconcile(ctx(t), tasks(other))
			must(t, err)
			if len(report.Changes) != 2 || report.Changes[0].Action != pve.Removed {
				t.Errorf("changes: %+v", report.Changes)
			}
		},
		"it is being written": func(t *testing.T, m *machine, reg pve.Registration) {
			patient := m.again(func(r *pve.Registrar) { r.Grace = time.Hour })
			patient.check("while it is young", tasks(task(reg, true)), "")
			if got := read(t, m.path(reg.VMID)); got != "" {
				t.Errorf("the conf became %q", got)
			}
		},
		"there is no task": func(t *testing.T, m *machine, _ pve.Registration) {
			m.check("without a task", tasks(), "removed c1")
			if got := m.confs(); got != "" {
				t.Errorf("left: %s", got)
			}
			m.noIntents()
		},
		"it is another container's": func(t *testing.T, m *machine, reg pve.Registration) {
			if err := m.SetRunning(ctx(t), pve.Registration{VMID: reg.VMID, Namespace: "default", ID: "c2"}); err == nil {
				t.Error("it was taken for another container's")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := cluster(t)
			next(t, m, m.halfReserved("c1"))
		})
	}
}

// TestGivenUp: of a create that met a restart nobody knows what became; a conf that is somebody else's by then is
// left to them, and the next VMID is given.
func TestGivenUp(t *testing.T) {
	a, b := cluster(t)
	const text = "memory: 512\n"
	var once sync.Once
	theirs := ""
	a.mount.Before(func(_ pvetest.Op, path string) {
		once.Do(func() {
			a.mount.Stop()
			theirs = filepath.Join(b.Root, path)
			write(t, theirs, text)
			time.AfterFunc(3*time.Millisecond, a.mount.Resume)
		})
	})
	reg := a.reserve("c1")
	if got := read(t, theirs); got != text || filepath.Base(theirs) == reg.VMID.String()+".conf" {
		t.Errorf("given %d; the other's conf %s is now %q", reg.VMID, theirs, got)
	}
	a.noIntents()
}
