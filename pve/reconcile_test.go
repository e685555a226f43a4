package pve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve"
)

// tasks is a view of everything.
func tasks(list ...pve.Task) pve.View {
	return pve.View{Cluster: true, Tasks: func(context.Context) ([]pve.Task, error) { return list, nil }}
}

// task is a registration's.
func task(reg pve.Registration, running bool) pve.Task {
	return pve.Task{Namespace: reg.Namespace, ID: reg.ID, VMID: reg.VMID, Running: running,
		Look: func(context.Context) (pve.Guest, bool, error) { return guest(reg.ID), running, nil }}
}

// reconcile returns the changes as "action id" for each, in the order of VMIDs.
func (m *machine) reconcile(view pve.View) string {
	m.t.Helper()
	report, err := m.Reconcile(ctx(m.t), view)
	must(m.t, err)
	var changes []string
	for _, c := range report.Changes {
		changes = append(changes, strings.TrimSpace(string(c.Action)+" "+c.Owner.ID))
	}
	return strings.Join(changes, ", ")
}

func (m *machine) check(when string, view pve.View, want string) {
	m.t.Helper()
	if got := m.reconcile(view); got != want {
		m.t.Errorf("%s: %q, want %q", when, got, want)
	}
	if view.DryRun {
		return
	}
	// A second pass finds nothing to do but what it only reports.
	var reports []string
	for _, c := range strings.Split(want, ", ") {
		if strings.HasPrefix(c, string(pve.Conflict)) || strings.HasPrefix(c, string(pve.Orphan)) {
			reports = append(reports, c)
		}
	}
	if got, want := m.reconcile(view), strings.Join(reports, ", "); got != want {
		m.t.Errorf("%s, once more: %q, want %q", when, got, want)
	}
}

func TestReconcileLocalDirectory(t *testing.T) {
	reconciles(t, func(t *testing.T) *machine { return local(t) })
}

func TestReconcileClusterFileSystem(t *testing.T) {
	reconciles(t, func(t *testing.T) *machine { m, _ := cluster(t); return m })
}

func reconciles(t *testing.T, machine func(*testing.T) *machine) {
	t.Run("after a reboot", func(t *testing.T) {
		m := machine(t)
		gone, kept := m.reserve("gone"), m.reserve("kept")
		write(t, m.pathOn("n1", 100), "memory: 512\n")
		must(t, os.Mkdir(filepath.Join(m.LXCPath, gone.VMID.String()), 0o755))
		rehearsal := tasks(task(kept, false))
		rehearsal.DryRun = true
		m.check("dry run", rehearsal, "removed gone")
		m.check("for real", tasks(task(kept, false)), "removed gone")
		if got, want := m.confs(), "100.conf "+kept.VMID.String()+".conf"; got != want {
			t.Errorf("left: %q, want %q", got, want)
		}
		if left, err := os.ReadDir(m.LXCPath); err != nil || len(left) > 0 {
			t.Errorf("left in the LXC path: %v, %v", left, err)
		}
	})
	t.Run("locks follow the tasks", func(t *testing.T) {
		m := machine(t)
		started, stopped, saved := m.reserve("started"), m.reserve("stopped"), m.reserve("saved")
		must(t, m.SetRunning(ctx(t), stopped))
		write(t, m.path(saved.VMID), strings.Replace(read(t, m.path(saved.VMID)), "lock: create", "lock: backup", 1))
		m.check("after a crash between start and lock", tasks(task(started, true), task(stopped, false), task(saved, true)), "unlocked started, locked stopped")
		if got := m.get(started.VMID, "lock") + m.get(stopped.VMID, "lock") + m.get(saved.VMID, "lock"); got != "-createbackup" {
			t.Errorf("locks are %q", got)
		}
	})
	t.Run("deleted conf", func(t *testing.T) {
		m := machine(t)
		reg, idle := m.reserve("c1"), m.reserve("c2")
		must(t, os.Remove(m.path(reg.VMID)))
		must(t, os.Remove(m.path(idle.VMID)))
		m.check("after rm", tasks(task(reg, true), task(idle, false)), "restored c1, restored c2")
		if got := m.get(reg.VMID, "hostname") + m.get(reg.VMID, "lock") + m.get(idle.VMID, "lock"); got != "c1-create" {
			t.Errorf("restored as %q", got)
		}
	})
	t.Run("edited conf", func(t *testing.T) {
		m := machine(t)
		reg := m.reserve("c1")
		text := read(t, m.path(reg.VMID)) + "# mine\nmp0: /srv,mp=/srv\n"
		write(t, m.path(reg.VMID), text)
		m.check("after an edit", tasks(task(reg, false)), "")
		if got := read(t, m.path(reg.VMID)); got != text {
			t.Errorf("the edit became\n%s", got)
		}
	})
	t.Run("taken VMID", func(t *testing.T) {
		m := machine(t)
		reg, other := m.reserve("c1"), m.reserve("c2")
		write(t, m.path(reg.VMID), "memory: 512\nhostname: admins\n")
		report, err := m.Reconcile(ctx(t), tasks(task(reg, true), task(other, false)))
		must(t, err)
		if len(report.Changes) != 1 || report.Changes[0].Action != pve.Conflict || !errors.Is(report.Changes[0].Err, pve.ErrForeign) {
			t.Errorf("got %+v, want one conflict", report.Changes)
		}
		if got := read(t, m.path(reg.VMID)); got != "memory: 512\nhostname: admins\n" {
			t.Errorf("the other's conf became %q", got)
		}
	})
	t.Run("an id that came back", func(t *testing.T) {
		m := machine(t)
		old, now := m.reserve("c1"), m.reserve("c1")
		m.check("a crash between reservation and record", tasks(task(now, false)), "removed c1")
		if got := m.confs(); got != now.VMID.String()+".conf" || old.VMID == now.VMID {
			t.Errorf("left: %s", got)
		}
	})
	t.Run("running without a task", func(t *testing.T) {
		m := machine(t)
		reg := m.reserve("c1")
		m.run(reg.VMID)
		m.check("an orphan", tasks(), "orphan c1")
		m.run()
		m.check("when it ended", tasks(), "removed c1")
	})
	t.Run("edited while it was looked at", func(t *testing.T) {
		m := machine(t)
		reg := m.reserve("c1")
		view := tasks()
		view.Tasks = func(context.Context) ([]pve.Task, error) {
			write(t, m.path(reg.VMID), read(t, m.path(reg.VMID))+"# mine\n")
			return nil, nil
		}
		if _, err := m.Reconcile(ctx(t), view); !errors.Is(err, pve.ErrConflict) || !strings.HasSuffix(read(t, m.path(reg.VMID)), "# mine\n") {
			t.Errorf("%v, want ErrConflict and the edit kept", err)
		}
	})
	t.Run("young confs", func(t *testing.T) {
		m := machine(t)
		o := *m.Registrar
		o.Grace = time.Hour
		m = start(t, o, m.mount)
		reg := m.reserve("c1")
		m.check("a container on its way", tasks(), "")
		past := time.Now().Add(-2 * time.Hour)
		must(t, os.Chtimes(m.path(reg.VMID), past, past))
		m.check("an hour later", tasks(), "removed c1")
		ahead := m.reserve("c2")
		future := time.Now().Add(2 * time.Hour)
		must(t, os.Chtimes(m.path(ahead.VMID), future, future))
		m.check("after a clock that was wrong", tasks(), "removed c2")
		next := m.path(9990) + ".tmp.pvelxc" // somebody writes it now
		write(t, next, "half")
		m.check("a write in progress", tasks(), "")
		must(t, os.Chtimes(next, past, past))
		m.check("a write that was interrupted", tasks(), "swept")
	})
	t.Run("tasks that cannot be asked", func(t *testing.T) {
		m := machine(t)
		m.reserve("c1")
		before := m.confs()
		failure := errors.New("no answer")
		_, err := m.Reconcile(ctx(t), pve.View{Tasks: func(context.Context) ([]pve.Task, error) { return nil, failure }})
		if !errors.Is(err, failure) || m.confs() != before {
			t.Errorf("got %v, left %q", err, m.confs())
		}
	})
	t.Run("written while it was looked at", func(t *testing.T) {
		m := machine(t)
		write(t, m.path(9990), "")
		write(t, filepath.Join(m.StateDir, "intents", "9990"), "")
		view := tasks()
		view.Tasks = func(context.Context) ([]pve.Task, error) {
			write(t, m.path(9990), "memory: 16\n")
			return nil, nil
		}
		m.reconcile(view)
		if got := read(t, m.path(9990)); got != "memory: 16\n" {
			t.Errorf("the conf became %q", got)
		}
	})
	t.Run("remains of a crash", func(t *testing.T) {
		m := machine(t)
		reg := m.reserve("c1")
		must(t, m.SetRunning(ctx(t), reg))
		write(t, m.path(reg.VMID)+".tmp.pvelxc", "half")
		write(t, m.path(9990), "") // created, not written
		write(t, filepath.Join(m.StateDir, "intents", "9990"), "")
		write(t, filepath.Join(m.StateDir, "intents", reg.VMID.String()), "")
		m.check("sweep", tasks(task(reg, true)), "swept, swept")
		if got := m.confs(); got != reg.VMID.String()+".conf" {
			t.Errorf("left: %q", got)
		}
		if left, err := os.ReadDir(filepath.Join(m.StateDir, "intents")); err != nil || len(left) > 0 {
			t.Errorf("intents are left: %v, %v", left, err)
		}
	})
}

// TestRestoreRacesWithDelete: a conf that is written again cannot outlive its container.
func TestRestoreRacesWithDelete(t *testing.T) {
	for name, look := range map[string]func(m *machine, reg pve.Registration, deleted chan<- error) (pve.Guest, bool, error){
		"a deletion that is known": func(*machine, pve.Registration, chan<- error) (pve.Guest, bool, error) {
			return pve.Guest{}, false, fmt.Errorf("deleted: %w", errdefs.ErrNotFound)
		},
		"a deletion that begins now": func(m *machine, reg pve.Registration, deleted chan<- error) (pve.Guest, bool, error) {
			go func() { deleted <- m.Unregister(context.Background(), reg) }()
			return guest(reg.ID), false, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := cluster(t)
			reg := m.reserve("c1")
			must(t, os.Remove(m.path(reg.VMID)))
			deleted := make(chan error, 1)
			looks := 0
			racing := task(reg, false)
			racing.Look = func(context.Context) (pve.Guest, bool, error) {
				looks++
				f, err := os.Open(filepath.Join(m.LockDir, "pve-config-"+reg.VMID.String()+".lock"))
				must(t, err)
				defer f.Close()
				if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
					t.Errorf("looked at without its lock: %v", err)
				}
				return look(m, reg, deleted)
			}
			want := ""
			if strings.HasSuffix(name, "now") {
				want = "restored c1"
			} else {
				deleted <- nil
			}
			if got := m.reconcile(tasks(racing)); got != want || looks != 1 {
				t.Errorf("changes %q after %d looks, want %q after one", got, looks, want)
			}
			must(t, <-deleted)
			if got := m.confs(); got != "" {
				t.Errorf("left: %s", got)
			}
			m.noIntents()
		})
	}
}

// TestLockFollowsTheTaskAsItIsNow: not as it was when the tasks were listed.
func TestLockFollowsTheTaskAsItIsNow(t *testing.T) {
	m := local(t)
	reg := m.reserve("c1")
	stale := task(reg, true)
	stale.Look = func(context.Context) (pve.Guest, bool, error) { return guest(reg.ID), false, nil }
	m.reconcile(tasks(stale))
	if got := m.get(reg.VMID, "lock"); got != "create" {
		t.Errorf("lock of a container that stopped meanwhile is %q", got)
	}
	stale.Look = func(context.Context) (pve.Guest, bool, error) { return pve.Guest{}, true, errdefs.ErrNotFound }
	if got := m.reconcile(tasks(stale)); got != "" || m.get(reg.VMID, "lock") != "create" {
		t.Errorf("of one that is being deleted: %q, lock %q", got, m.get(reg.VMID, "lock"))
	}
}

func TestReconcileAcrossNodes(t *testing.T) {
	a, b := cluster(t)
	moved, stale, theirs := a.reserve("moved"), a.reserve("stale"), b.reserve("theirs")
	for _, reg := range []pve.Registration{moved, stale} {
		must(t, os.Rename(a.path(reg.VMID), a.pathOn("n2", reg.VMID))) // as HA does when it fences a
	}
	write(t, a.path(9990), "") // empty, and not from a reservation of ours
	b.check("the other node leaves them alone", tasks(task(theirs, false)), "")
	a.check("the owner takes them", tasks(task(moved, true)), "returned moved, unlocked moved, removed stale")
	if got, want := a.confs(), moved.VMID.String()+".conf 9990.conf"; got != want {
		t.Errorf("on n1: %q, want %q", got, want)
	}
	if got, want := b.confs(), theirs.VMID.String()+".conf"; got != want {
		t.Errorf("on n2: %q, want %q", got, want)
	}
	// Without a look at all nodes a moved conf is still found by its VMID.
	must(t, os.Rename(a.path(moved.VMID), a.pathOn("n2", moved.VMID)))
	view := tasks(task(moved, true))
	view.Cluster = false
	a.check("from this node alone", view, "returned moved")
	// It is edited where it is, just when it is looked at.
	must(t, os.Rename(a.path(moved.VMID), a.pathOn("n2", moved.VMID)))
	view = tasks()
	view.Tasks = func(context.Context) ([]pve.Task, error) {
		write(t, a.pathOn("n2", moved.VMID), read(t, a.pathOn("n2", moved.VMID))+"# mine\n")
		return []pve.Task{task(moved, true)}, nil
	}
	if _, err := a.Reconcile(ctx(t), view); !errors.Is(err, pve.ErrConflict) {
		t.Errorf("moved and edited: %v, want ErrConflict", err)
	}
	a.check("the next time", tasks(task(moved, true)), "returned moved")
	// The other node gave the VMID to somebody else while the conf was away.
	must(t, os.Remove(a.path(moved.VMID)))
	write(t, b.path(moved.VMID), "memory: 512\n")
	a.check("lost to a container of n2", tasks(task(moved, true)), "conflict moved")
	must(t, os.Remove(b.path(moved.VMID)))
	write(t, filepath.Join(b.Root, "nodes/n2/qemu-server", moved.VMID.String()+".conf"), "memory: 512\n")
	a.check("lost to a virtual machine", tasks(task(moved, true)), "conflict moved")
}

// TestUnregisterFindsAMovedConf: a delete after a fencing leaves nothing behind.
func TestUnregisterFindsAMovedConf(t *testing.T) {
	a, b := cluster(t)
	reg := a.reserve("c1")
	must(t, os.Rename(a.path(reg.VMID), a.pathOn("n2", reg.VMID)))
	must(t, a.Unregister(ctx(t), reg))
	if got := b.confs(); got != "" {
		t.Errorf("left on n2: %q", got)
	}
	// Somebody else's there is nothing of ours, and here is nothing of theirs.
	reg = a.reserve("c2")
	must(t, os.Remove(a.path(reg.VMID)))
	write(t, b.path(reg.VMID), "memory: 512\n")
	dir := filepath.Join(a.LXCPath, reg.VMID.String())
	must(t, os.Mkdir(dir, 0o755))
	if err := a.Unregister(ctx(t), reg); !errors.Is(err, pve.ErrForeign) {
		t.Errorf("a conf of somebody else's on n2: %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) || read(t, b.path(reg.VMID)) != "memory: 512\n" {
		t.Errorf("%s: %v; their conf: %q", dir, err, read(t, b.path(reg.VMID)))
	}
}

// TestReconcileRacesWithItself: two nodes restore, remove and reserve at once; nothing
// is lost that has a task, and nothing of the other node's is touched.
func TestReconcileRacesWithItself(t *testing.T) {
	a, b := cluster(t)
	const n = 20
	done := make(chan error, 4)
	for _, m := range []*machine{a, b} {
		var list []pve.Task
		for i := range n {
			list = append(list, task(m.reserve(fmt.Sprint("c", i)), true))
			if i%2 == 0 {
				must(t, os.Remove(m.path(list[i].VMID)))
			}
		}
		for range 2 {
			go func() {
				_, err := m.Reconcile(ctx(t), tasks(list...))
				if errors.Is(err, pve.ErrConflict) {
					err = nil // the other pass restores it, and says so
				}
				done <- err
			}()
		}
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, m := range []*machine{a, b} {
		entries, err := m.List(ctx(t), false)
		must(t, err)
		locks := map[string]int{}
		for _, e := range entries {
			locks[e.Lock]++
		}
		if diff := cmp.Diff(map[string]int{"": n}, locks); diff != "" {
			t.Errorf("%s: confs by lock (-want +got):\n%s", m.Node, diff)
		}
	}
}
