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
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

func TestParseVMID(t *testing.T) {
	for text, want := range map[string]pve.VMID{"100": 100, "999999999": 999999999, "99": 0, "1000000000": 0, "0100": 0, "+100": 0, " 100": 0, "": 0, "1e3": 0, "4294967396": 0} {
		if got, err := pve.ParseVMID(text); got != want || (err == nil) != (want != 0) || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for text, ok := range map[string]bool{"100-100": true, "100-200": true, "200-100": false, "100": false, "100-": false, "1-200": false, "100-200-300": false} {
		if r, err := pve.ParseRange(text); (err == nil) != ok || ok && r.String() != text {
			t.Errorf("%q is %v, %v", text, r, err)
		}
	}
}

func TestReserveRefuses(t *testing.T) {
	m := local(t)
	for name, g := range map[string]pve.Guest{"no id": {Namespace: "n", Rootfs: "/r"}, "no namespace": {ID: "i", Rootfs: "/r"}, "no root": {Namespace: "n", ID: "i"}} {
		if _, err := m.Reserve(ctx(t), g); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
	if got := m.confs(); got != "" {
		t.Errorf("left: %s", got)
	}
}

func (m *machine) lockFile(vmid pve.VMID) string {
	return filepath.Join(m.LockDir, "pve-config-"+vmid.String()+".lock")
}

// held takes PVE's lock of a VMID, as pct does, until the end of the test.
func (m *machine) held(vmid pve.VMID) {
	m.t.Helper()
	f, err := os.OpenFile(m.lockFile(vmid), os.O_RDWR|os.O_CREATE, 0o644)
	must(m.t, err)
	m.t.Cleanup(func() { f.Close() })
	must(m.t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
}

// TestLockedVMIDIsSkipped: what another program works on is not waited for.
func TestLockedVMIDIsSkipped(t *testing.T) {
	m := local(t)
	write(t, filepath.Join(m.StateDir, "cursor"), "9000\n")
	m.held(9001)
	if reg := m.reserve("c1"); reg.VMID != 9002 {
		t.Errorf("given %d, want 9002", reg.VMID)
	}
	m = m.again(func(r *pve.Registrar) { r.Range = pve.Range{First: 9001, Last: 9002} })
	if _, err := m.Reserve(ctx(t), guest("c2")); !errors.Is(err, pve.ErrNoVMID) || !strings.Contains(err.Error(), "2 of 9001-9002 are used") {
		t.Errorf("one locked, one taken: %v", err)
	}
}

// TestCrowdedRange: the one free VMID among many is found by the cluster's list, not by trying each.
func TestCrowdedRange(t *testing.T) {
	m, _ := cluster(t)
	m = m.again(func(r *pve.Registrar) { r.Range = pve.Range{First: 9000, Last: 9049} })
	write(t, filepath.Join(m.StateDir, "cursor"), "9000\n")
	for vmid := m.Range.First; vmid <= m.Range.Last; vmid++ {
		if vmid != 9040 {
			write(t, m.path(vmid), "memory: 16\n")
		}
	}
	write(t, m.path(8999), "memory: 16\n") // beside the range
	m.mount.Looks()
	reg, err := m.Reserve(ctx(t), guest("c1"))
	must(t, err)
	if reg.VMID != 9040 {
		t.Errorf("given %d, want 9040", reg.VMID)
	}
	// Each try is four names that are looked up.
	if n := m.mount.Looks()[pvetest.OpLookup]; n > 20 {
		t.Errorf("%d names were looked up", n)
	}
	if _, err := m.Reserve(ctx(t), guest("c2")); !errors.Is(err, pve.ErrNoVMID) || !strings.Contains(err.Error(), "50 of 9000-9049 are used") {
		t.Errorf("a full range: %v", err)
	}
}

// TestCursor: the position of a node survives another range, and one that makes no sense is as none.
func TestCursor(t *testing.T) {
	fresh := local(t).reserve("c1").VMID
	for name, text := range map[string]string{"of another range": "100000000 \n", "of a range before": "100       \n", "garbage": "x", "empty": ""} {
		m := local(t)
		write(t, filepath.Join(m.StateDir, "cursor"), text)
		first := m.reserve("a")
		if first.VMID != fresh {
			t.Errorf("%s: the first is %d, want %d as without any", name, first.VMID, fresh)
		}
		must(t, m.Unregister(ctx(t), first))
		if second := m.reserve("b"); second.VMID != first.VMID+1 {
			t.Errorf("%s: after %d came %d", name, first.VMID, second.VMID)
		}
	}
}

// TestHalfWritten: a conf that could not be written whole is left empty, for who completes it.
func TestHalfWritten(t *testing.T) {
	a, b := cluster(t)
	var once sync.Once
	a.mount.Before(func(op pvetest.Op, path string) {
		switch op {
		case pvetest.OpWrite:
			once.Do(func() {
				write(t, filepath.Join(b.Root, path), "#half")
				a.mount.SetBroken(true)
			})
		case pvetest.OpSet:
			a.mount.SetBroken(false)
		}
	})
	reg := a.reserve("c1")
	if got := read(t, a.path(reg.VMID)); got != "" {
		t.Errorf("left is %q", got)
	}
	a.mount.Before(nil)
	must(t, a.SetRunning(ctx(t), reg))
	if got := a.get(reg.VMID, "hostname"); got != "c1" {
		t.Errorf("completed, its host name is %q", got)
	}
	a.noIntents()
}

// TestWrittenAndRestarted: what came through before the daemon went, and was edited since, is not written over.
func TestWrittenAndRestarted(t *testing.T) {
	a, b := cluster(t)
	var once sync.Once
	theirs := ""
	a.mount.Before(func(op pvetest.Op, path string) {
		if op != pvetest.OpWrite {
			return
		}
		once.Do(func() {
			intent := strings.TrimSuffix(filepath.Base(path), ".conf")
			theirs = read(t, filepath.Join(a.StateDir, "intents", intent)) + "# mine\n"
			write(t, filepath.Join(b.Root, path), theirs)
			a.mount.Stop()
			time.AfterFunc(3*time.Millisecond, a.mount.Resume)
		})
	})
	reg := a.reserve("c1")
	if got := read(t, a.path(reg.VMID)); got != theirs || got == "" {
		t.Errorf("the conf became\n%s", got)
	}
	a.noIntents()
}

// TestFullDirectory: a file system that takes a part of a conf leaves none.
func TestFullDirectory(t *testing.T) {
	root := filepath.Join(t.TempDir(), "pve")
	must(t, os.Mkdir(root, 0o755))
	if err := unix.Mount("none", root, "tmpfs", 0, "size=8k"); err != nil {
		t.Skipf("needs mount(2): %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(root, 0)) })
	m := start(t, options(t, root, "n1"), nil)
	long := guest("c1")
	long.Image, long.Pod = strings.Repeat("ü", 1000), strings.Repeat("ü", 1000)
	for range 32 {
		long.Tags = append(long.Tags, fmt.Sprint("t", len(long.Tags), strings.Repeat("x", 60)))
	}
	long.Container = strings.Repeat("😀", 1000)
	reg, err := m.Reserve(ctx(t), long)
	must(t, err)
	m.written(reg.VMID)
	if got := read(t, m.path(reg.VMID)); got != "" {
		t.Errorf("left are %d bytes", len(got))
	}
	if err := m.SetRunning(ctx(t), reg); !errors.Is(err, pve.ErrTooBig) || m.confs() != reg.VMID.String()+".conf" {
		t.Errorf("%v, want ErrTooBig; in the directory: %s", err, m.confs())
	}
	must(t, m.Unregister(ctx(t), reg))
}

// TestNoNeedNoWrite: what is as it should be is not written, and what cannot be written leaves nothing.
func TestNoNeedNoWrite(t *testing.T) {
	m, _ := cluster(t)
	reg := m.reserve("c1")
	must(t, m.SetRunning(ctx(t), reg))
	m.mount.Counts()
	must(t, m.SetRunning(ctx(t), reg))
	must(t, m.Update(ctx(t), reg, guest("").Limits, guest("").Limits))
	if changes := m.mount.Counts(); len(changes) > 0 {
		t.Errorf("changes for nothing: %v", changes)
	}
	m.mount.Before(func(op pvetest.Op, _ string) { m.mount.SetBroken(op == pvetest.OpWrite) })
	if err := m.SetStopped(ctx(t), reg); !errors.Is(err, unix.EIO) || m.confs() != reg.VMID.String()+".conf" {
		t.Errorf("%v, want EIO; in the directory: %s", err, m.confs())
	}
}

// TestLateGrant: what a slow cluster grants to nobody is given back with all that was held for it.
func TestLateGrant(t *testing.T) {
	m, _ := cluster(t)
	write(t, filepath.Join(m.StateDir, "cursor"), "9000\n")
	release, reached := make(chan struct{}), make(chan struct{})
	m.mount.Before(func(op pvetest.Op, _ string) {
		if op == pvetest.OpCreate {
			close(reached)
			<-release
		}
	})
	hurried, cancel := context.WithCancel(ctx(t))
	go func() { <-reached; cancel() }()
	if _, err := m.Reserve(hurried, guest("c1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	poll(t, func() string {
		f, err := os.Open(m.lockFile(9001))
		must(t, err)
		defer f.Close()
		return fmt.Sprint(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	}, "<nil>")
	if got := m.confs(); got != "" {
		t.Errorf("left: %s", got)
	}
	m.noIntents()
	links, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, m.Root) {
			t.Errorf("%s is still open", target)
		}
	}
}
