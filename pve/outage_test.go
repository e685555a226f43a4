package pve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// again is another program on the same node, with other options.
func (m *machine) again(change func(*pve.Registrar)) *machine {
	m.t.Helper()
	o := *m.Registrar
	change(&o)
	return start(m.t, o, m.mount)
}

func brief(r *pve.Registrar) { r.RetryFor = 20 * time.Millisecond }

func (m *machine) note() string { return filepath.Join(m.StateDir, "away") }

// noteGone waits for the end of an outage.
func (m *machine) noteGone() {
	m.t.Helper()
	poll(m.t, func() string {
		if _, err := os.Lstat(m.note()); err != nil {
			return "gone"
		}
		return "there"
	}, "gone")
}

// TestHangIsWaitedForOnce: whoever finds that the cluster hangs waits, and nobody else on
// the node does or even asks, until it answers again.
func TestHangIsWaitedForOnce(t *testing.T) {
	m, _ := cluster(t)
	before := m.reserve("before")
	m = m.again(brief)
	m.mount.Looks()
	m.mount.Hang()
	if _, err := m.Reserve(ctx(t), guest("c1")); !errors.Is(err, pve.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the first: %v, want ErrUnreachable at the end of its patience", err)
	}
	// Its own request, and a small one to make sure, in which whoever looks for the end joins.
	asked := 0
	poll(t, func() string { asked += m.mount.Looks()[pvetest.OpLookup]; return fmt.Sprint(asked) }, "2")

	m.mount.Counts()
	other := m.again(func(r *pve.Registrar) { r.RetryFor = time.Hour })
	for op, do := range map[string]func() error{
		"New":        func() error { o := *other.Registrar; o.Node = ""; _, err := pve.New(o); return err },
		"Reserve":    func() error { _, err := other.Reserve(ctx(t), guest("c2")); return err },
		"SetRunning": func() error { return other.SetRunning(ctx(t), before) },
		"Unregister": func() error { return other.Unregister(ctx(t), before) },
		"List":       func() error { _, err := other.List(ctx(t), true); return err },
		"Reconcile":  func() error { _, err := other.Reconcile(ctx(t), tasks()); return err },
		"Find":       func() error { _, err := other.Find(ctx(t), before.VMID); return err },
	} {
		if err := do(); !errors.Is(err, pve.ErrUnreachable) || !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v, want ErrUnreachable", op, err)
		}
	}
	degraded, err := other.again(func(r *pve.Registrar) { r.OnNoQuorum = pve.Degrade }).Reserve(ctx(t), guest("c3"))
	if err != nil || degraded.VMID != 0 || !errors.Is(degraded.Degraded, pve.ErrUnreachable) {
		t.Errorf("on_no_quorum = degrade: %+v, %v", degraded, err)
	}
	if looks, changes := m.mount.Looks(), m.mount.Counts(); len(looks)+len(changes) > 0 {
		t.Errorf("a cluster that is known to hang was asked: %v %v", looks, changes)
	}

	m.mount.Unhang()
	m.noteGone()
	if err := other.SetRunning(ctx(t), before); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	poll(t, other.confs, before.VMID.String()+".conf") // what came too late was given back
}

// TestKeeperDies: who finds the note of a dead process takes its place.
func TestKeeperDies(t *testing.T) {
	m, _ := cluster(t)
	write(t, m.note(), "")
	m.reserve("c1")
	m.noteGone()

	m = m.again(brief)
	m.mount.Stop()
	write(t, m.note(), "")
	if _, err := m.Reserve(ctx(t), guest("c2")); !errors.Is(err, pve.ErrUnreachable) {
		t.Errorf("while it is away: %v", err)
	}
	f, err := os.Open(m.note())
	must(t, err)
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("nobody keeps the note: %v", err)
	}
	m.mount.Resume()
	m.noteGone()
}

// TestHurryProvesNothing: a caller whose own time is up leaves no note.
func TestHurryProvesNothing(t *testing.T) {
	m, _ := cluster(t)
	m.mount.Hang()
	hurried, cancel := context.WithTimeout(ctx(t), time.Millisecond)
	defer cancel()
	if _, err := m.Reserve(hurried, guest("c1")); !errors.Is(err, pve.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(m.note()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a note: %v", err)
	}
	m.mount.Unhang()
	poll(t, m.confs, "")
}

// TestSlownessIsNoOutage: an operation that takes too long while the cluster answers others
// is that operation's failure alone.
func TestSlownessIsNoOutage(t *testing.T) {
	m, _ := cluster(t)
	slow := m.again(func(r *pve.Registrar) { r.RetryFor = 3 * time.Second }) // a quarter of it is left for a small answer
	release := make(chan struct{})
	m.mount.Before(func(pvetest.Op, string) { <-release })
	if _, err := slow.Reserve(ctx(t), guest("c1")); !errors.Is(err, pve.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(m.note()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a note: %v", err)
	}
	close(release)
	poll(t, m.confs, "")
}
