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
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/conf"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// editor changes the file without any lock, as vi does, for as long as it can, while
// we patch it.
func editor(t *testing.T, m *machine) {
	if m.mount == nil {
		t.Skip("needs pvetest: only there can a test come between the steps of a write")
	}
	reg := m.reserve("c1")
	must(t, m.SetRunning(ctx(t), reg))
	var edits atomic.Int64
	edit := func(most int64) {
		m.mount.Before(func(op pvetest.Op, path string) {
			if op == pvetest.OpWrite && strings.HasSuffix(path, ".tmp.pvelxc") && edits.Load() < most {
				write(t, m.path(reg.VMID), read(t, m.path(reg.VMID))+fmt.Sprintf("mp%d: /srv,mp=/srv\n", edits.Add(1)))
			}
		})
	}
	edit(2)
	must(t, m.SetStopped(ctx(t), reg))
	if got := m.get(reg.VMID, "lock") + m.get(reg.VMID, "mp1") + m.get(reg.VMID, "mp2"); edits.Load() != 2 || got != "create/srv,mp=/srv/srv,mp=/srv" {
		t.Errorf("after %d edits: %q in\n%s", edits.Load(), got, read(t, m.path(reg.VMID)))
	}
	edit(1 << 30)
	err := m.SetRunning(ctx(t), reg)
	m.mount.Before(nil)
	if !errors.Is(err, pve.ErrConflict) || !errdefs.IsAborted(err) {
		t.Errorf("against an editor that never rests: %v, want ErrConflict", err)
	}
	for i := range edits.Load() {
		if key := fmt.Sprintf("mp%d", i+1); m.get(reg.VMID, key) == "-" {
			t.Errorf("the admin's %s is lost", key)
		}
	}
	if got := m.confs(); got != reg.VMID.String()+".conf" {
		t.Errorf("left in the directory: %s", got)
	}
}

// pctSet changes the file under PVE's lock, as pct does, while we patch it. Nobody's
// change may be lost.
func pctSet(t *testing.T, m *machine) {
	reg := m.reserve("c1")
	const rounds = 40
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range rounds {
				adminSet(t, m, reg.VMID)
			}
		})
	}
	wg.Go(func() {
		for i := range rounds {
			do := m.SetRunning
			if i%2 == 1 {
				do = m.SetStopped
			}
			if err := do(ctx(t), reg); err != nil {
				t.Errorf("round %d: %v", i, err)
			}
		}
	})
	wg.Wait()
	if got, want := m.get(reg.VMID, "tty"), fmt.Sprint(2*rounds); got != want {
		t.Errorf("of %s changes by pct %s are left", want, got)
	}
	if got := m.get(reg.VMID, "lock"); got != "create" {
		t.Errorf("our last change is lost: lock is %q", got)
	}
}

// adminSet adds one to a key, as a program that keeps PVE's protocol.
func adminSet(t *testing.T, m *machine, vmid pve.VMID) {
	f, err := os.OpenFile(filepath.Join(m.LockDir, "pve-config-"+vmid.String()+".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		defer f.Close()
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Error(err)
		return
	}
	path := m.path(vmid)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	theirs := pvetest.ParsePCT(string(data))
	n := 0
	fmt.Sscan(theirs.Keys["tty"], &n)
	theirs.Keys["tty"] = fmt.Sprint(n + 1)
	if err := errors.Join(os.WriteFile(path+".tmp.1", []byte(theirs.Write()), 0o640), os.Rename(path+".tmp.1", path)); err != nil {
		t.Error(err)
	}
}

// foreignLock: a lock that PVE put there is PVE's to take away, whatever the container does.
func foreignLock(t *testing.T, m *machine) {
	reg := m.reserve("c1")
	must(t, m.SetRunning(ctx(t), reg))
	text := strings.Replace(read(t, m.path(reg.VMID)), "memory:", "lock: backup\nmemory:", 1)
	write(t, m.path(reg.VMID), text)
	for name, do := range map[string]func(context.Context, pve.Registration) error{"SetStopped": m.SetStopped, "SetRunning": m.SetRunning} {
		must(t, do(ctx(t), reg))
		if got := read(t, m.path(reg.VMID)); got != text {
			t.Errorf("after %s the conf is\n%s", name, got)
		}
	}
}

// TestOddFiles: what is no file does not hide the confs beside it, and nothing is read or removed through it.
func TestOddFiles(t *testing.T) {
	m := local(t)
	reg := m.reserve("c1")
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, strings.Replace(read(t, m.path(reg.VMID)), "/c1\n", "/c2\n", 1))
	must(t, os.Symlink(outside, m.path(9990)))
	must(t, os.Mkdir(m.path(9991), 0o755))
	must(t, unix.Mkfifo(m.path(9992), 0o600))
	write(t, m.path(9993), strings.Repeat("x", 2*conf.MaxSize))
	entries, err := m.List(ctx(t), true)
	if err != nil || len(entries) != 1 || entries[0].VMID != reg.VMID {
		t.Errorf("%+v, %v", entries, err)
	}
	if _, err := m.Reconcile(ctx(t), tasks(task(reg, false))); err != nil {
		t.Error(err)
	}
	if err := m.SetRunning(ctx(t), pve.Registration{VMID: 9990, Namespace: "default", ID: "c2"}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link was followed: %v", err)
	}
	if got := read(t, outside); !strings.Contains(got, "/c2\n") {
		t.Errorf("behind the link is %q", got)
	}
}

// tooBig: a line of ours does not fit beside what an admin wrote, and nothing is lost over it.
func tooBig(t *testing.T, m *machine) {
	reg := m.reserve("c1")
	must(t, m.SetRunning(ctx(t), reg))
	text := read(t, m.path(reg.VMID))
	text += "#" + strings.Repeat("x", conf.MaxSize-len(text)-2) + "\n"
	write(t, m.path(reg.VMID), text)
	if err := m.SetStopped(ctx(t), reg); !errors.Is(err, pve.ErrTooBig) || !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("%v, want ErrTooBig", err)
	}
	if got := read(t, m.path(reg.VMID)); got != text || m.confs() != reg.VMID.String()+".conf" {
		t.Errorf("%d bytes are left of %d; the directory has %s", len(got), len(text), m.confs())
	}
	must(t, m.Unregister(ctx(t), reg))
}

func lockIsBounded(t *testing.T, m *machine) {
	reg := m.reserve("c1")
	f, err := os.OpenFile(filepath.Join(m.LockDir, "pve-config-"+reg.VMID.String()+".lock"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	r := *m.Registrar
	r.LockTimeout = 20 * time.Millisecond
	short := start(t, r, m.mount)
	if err := short.SetRunning(ctx(t), reg); !errors.Is(err, pve.ErrBusy) || !errdefs.IsUnavailable(err) {
		t.Errorf("while another program holds it: %v, want ErrBusy", err)
	}
	cancelled, cancel := context.WithCancel(ctx(t))
	cancel()
	if err := m.SetRunning(cancelled, reg); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context cancelled: %v", err)
	}
	must(t, f.Close())
	must(t, short.SetRunning(ctx(t), reg))
}
