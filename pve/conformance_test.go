package pve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/conf"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

func TestLocalDirectory(t *testing.T) {
	conformance(t, func(t *testing.T) *machine { return local(t) })
}

func TestClusterFileSystem(t *testing.T) {
	conformance(t, func(t *testing.T) *machine { m, _ := cluster(t); return m })
}

// conformance is what a registration does wherever its files are.
func conformance(t *testing.T, machine func(*testing.T) *machine) {
	t.Run("life", func(t *testing.T) { life(t, machine(t)) })
	t.Run("round robin", func(t *testing.T) { roundRobin(t, machine(t)) })
	t.Run("range is full", func(t *testing.T) { rangeIsFull(t, machine(t)) })
	t.Run("update", func(t *testing.T) { update(t, machine(t)) })
	t.Run("foreign confs", func(t *testing.T) { foreignConfs(t, machine(t)) })
	t.Run("leftovers", func(t *testing.T) { leftovers(t, machine(t)) })
	t.Run("leftovers without a conf", func(t *testing.T) { leftoversAlone(t, machine(t)) })
	t.Run("editor", func(t *testing.T) { editor(t, machine(t)) })
	t.Run("pct set", func(t *testing.T) { pctSet(t, machine(t)) })
	t.Run("lock is bounded", func(t *testing.T) { lockIsBounded(t, machine(t)) })
	t.Run("a lock of PVE's", func(t *testing.T) { foreignLock(t, machine(t)) })
	t.Run("too big", func(t *testing.T) { tooBig(t, machine(t)) })
	t.Run("list", func(t *testing.T) { list(t, machine(t)) })
}

func life(t *testing.T, m *machine) {
	reg := m.reserve("c1")
	if !m.Range.Contains(reg.VMID) {
		t.Fatalf("VMID %d is not in %s", reg.VMID, m.Range)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context, pve.Registration) error
		lock string
	}{
		{"reserved", func(context.Context, pve.Registration) error { return nil }, "create"},
		{"running", m.SetRunning, "-"},
		{"running, again", m.SetRunning, "-"},
		{"stopped", m.SetStopped, "create"},
		{"stopped, again", m.SetStopped, "create"},
	} {
		must(t, step.do(ctx(t), reg))
		if got := m.get(reg.VMID, "lock"); got != step.lock {
			t.Errorf("%s: lock is %q, want %q", step.name, got, step.lock)
		}
	}
	for value, want := range map[string]string{"/run/c1": "/run/c1,size=4M", "/run/c1,size=1G": "/run/c1,size=1G", "local:9000/x.raw,size=1G": "local:9000/x.raw,size=1G"} {
		write(t, m.path(reg.VMID), strings.Replace(read(t, m.path(reg.VMID)), "rootfs: "+m.get(reg.VMID, "rootfs"), "rootfs: "+value, 1))
		sized := reg
		sized.RootfsSize = 4 << 20
		must(t, m.SetRunning(ctx(t), sized))
		if got := m.get(reg.VMID, "rootfs"); got != want {
			t.Errorf("rootfs %s is now %s, want %s", value, got, want)
		}
	}
	must(t, m.SetStopped(ctx(t), reg))
	write(t, m.path(reg.VMID), strings.Replace(read(t, m.path(reg.VMID)), "rootfs: "+m.get(reg.VMID, "rootfs"), "rootfs: /run/c1,size=1G", 1))
	text := read(t, m.path(reg.VMID))
	theirs := pvetest.ParsePCT(text)
	if got := theirs.Write(); got != text || len(theirs.Warnings) > 0 {
		t.Errorf("after a life of patches PVE would write\n%s\ninstead of\n%s\nand warn %q", got, text, theirs.Warnings)
	}
	must(t, m.Unregister(ctx(t), reg))
	must(t, m.Unregister(ctx(t), reg))
	if left := m.confs(); left != "" {
		t.Errorf("left in the node's directory: %s", left)
	}
	if err := m.SetRunning(ctx(t), reg); !errors.Is(err, pve.ErrNotRegistered) || !errdefs.IsNotFound(err) {
		t.Errorf("after it is gone: %v, want ErrNotRegistered", err)
	}
}

func roundRobin(t *testing.T, m *machine) {
	first := m.reserve("a")
	must(t, m.Unregister(ctx(t), first))
	second := m.reserve("b")
	if second.VMID != first.VMID+1 && second.VMID != m.Range.First {
		t.Errorf("after %d came %d: a VMID must not be given again at once", first.VMID, second.VMID)
	}
	// The position survives the process.
	o := pve.Registrar{Root: m.Root, Local: m.Local, Node: m.Node, Range: m.Range, HostCPUs: "0", LockDir: m.LockDir, StateDir: m.StateDir, LXCPath: m.LXCPath}
	third := start(t, o, m.mount).reserve("c")
	if third.VMID == first.VMID || third.VMID == second.VMID {
		t.Errorf("a new process gave %d again", third.VMID)
	}
}

func rangeIsFull(t *testing.T, m *machine) {
	r := *m.Registrar
	r.Range = pve.Range{First: 200, Last: 204}
	m = start(t, r, m.mount)
	seen := map[pve.VMID]bool{}
	for i := range m.Range.Size() {
		seen[m.reserve(fmt.Sprint("c", i)).VMID] = true
	}
	if len(seen) != m.Range.Size() {
		t.Errorf("given: %v", seen)
	}
	_, err := m.Reserve(ctx(t), guest("more"))
	if !errors.Is(err, pve.ErrNoVMID) || !errdefs.IsResourceExhausted(err) {
		t.Fatalf("%v, want ErrNoVMID", err)
	}
	if want := "reserve a VMID: no free VMID: 5 of 200-204 are used (hint: pvelxc gc, or widen vmid_range)"; err.Error() != want {
		t.Errorf("it says %q, want %q", err, want)
	}
	must(t, m.Unregister(ctx(t), pve.Registration{VMID: 202, Namespace: "default", ID: holder(t, m, 202)}))
	if reg := m.reserve("again"); reg.VMID != 202 {
		t.Errorf("the one free VMID is 202, not %d", reg.VMID)
	}
}

// holder is the id of the container that has a VMID.
func holder(t *testing.T, m *machine, vmid pve.VMID) string {
	t.Helper()
	entries, err := m.List(ctx(t), false)
	must(t, err)
	for _, e := range entries {
		if e.VMID == vmid {
			return e.Owner.ID
		}
	}
	t.Fatalf("nobody has %d", vmid)
	return ""
}

func update(t *testing.T, m *machine) {
	reg := m.reserve("c1")
	before := guest("c1").Limits
	// An admin's pct set, which rewrites the file and may touch what we wrote.
	write(t, m.path(reg.VMID), strings.Replace(read(t, m.path(reg.VMID)), "cpuunits: 100\n", "cpuunits: 7\nnameserver: 1.1.1.1\n", 1))
	after := before
	after.Memory, after.CPUQuota, after.CPUPeriod, after.CPUs = 128<<20, 50000, 100000, "1,3"
	must(t, m.Update(ctx(t), reg, before, after))
	for key, want := range map[string]string{"memory": "128", "cpulimit": "0.5", "cores": "1", "cpuunits": "7", "nameserver": "1.1.1.1"} {
		if got := m.get(reg.VMID, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if got := m.conf(reg.VMID).Raw("lxc.cgroup2.cpuset.cpus"); len(got) != 1 || got[0] != "1,3" {
		t.Errorf("cpuset is %q", got)
	}
	must(t, m.Update(ctx(t), reg, after, before))
	for key, want := range map[string]string{"memory": "64", "cpulimit": "-", "cores": "-"} {
		if got := m.get(reg.VMID, key); got != want {
			t.Errorf("back again, %s is %q, want %q", key, got, want)
		}
	}
}

func foreignConfs(t *testing.T, m *machine) {
	for name, text := range map[string]string{
		"unmarked":           "memory: 16\nhostname: admins\n",
		"empty":              "",
		"another container":  "lxc.group: pvelxc/n1/default/other\n",
		"of another node":    "lxc.group: pvelxc/n7/default/c1\n",
		"marker in snapshot": "memory: 16\n[s1]\nlxc.group: pvelxc/n1/default/c1\n",
	} {
		reg := m.reserve("c1")
		write(t, m.path(reg.VMID), text)
		dir := filepath.Join(m.LXCPath, reg.VMID.String())
		must(t, os.Mkdir(dir, 0o755))
		for op, do := range map[string]func() error{
			"SetRunning": func() error { return m.SetRunning(ctx(t), reg) },
			"Update":     func() error { return m.Update(ctx(t), reg, pve.Limits{}, pve.Limits{Memory: 1}) },
			"Unregister": func() error { return m.Unregister(ctx(t), reg) },
		} {
			if err := do(); !errors.Is(err, pve.ErrForeign) || !errdefs.IsFailedPrecondition(err) {
				t.Errorf("%s: %s = %v, want ErrForeign", name, op, err)
			}
		}
		if got := read(t, m.path(reg.VMID)); got != text {
			t.Errorf("%s: it was changed to %q", name, got)
		}
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%s: its LXC directory is gone: %v", name, err)
		}
		must(t, os.Remove(m.path(reg.VMID)))
	}
}

func leftovers(t *testing.T, m *machine) {
	reg := m.reserve("c1")
	dir := filepath.Join(m.LXCPath, reg.VMID.String())
	must(t, os.MkdirAll(filepath.Join(dir, "rootfs", "deep"), 0o755))
	outside := filepath.Join(m.LXCPath, "other")
	must(t, os.Mkdir(outside, 0o755))
	write(t, filepath.Join(outside, "keep"), "x")
	write(t, filepath.Join(dir, "config"), "x")
	write(t, m.path(reg.VMID)+".tmp.pvelxc", "half") // of a process that was killed
	must(t, os.Symlink(outside, filepath.Join(dir, "link")))
	must(t, os.Symlink(outside, filepath.Join(dir, "rootfs", "link")))
	must(t, m.Unregister(ctx(t), reg))
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if read(t, filepath.Join(outside, "keep")) != "x" {
		t.Error("a link was followed")
	}
	if got := m.confs(); got != "" {
		t.Errorf("left beside the confs: %s", got)
	}

	reg = m.reserve("c2")
	dir = filepath.Join(m.LXCPath, reg.VMID.String(), "rootfs")
	must(t, os.MkdirAll(dir, 0o755))
	if err := unix.Mount(outside, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("needs mount(2): %v", err)
	}
	err := m.Unregister(ctx(t), reg)
	must(t, unix.Unmount(dir, 0))
	if !errors.Is(err, unix.EBUSY) || read(t, filepath.Join(outside, "keep")) != "x" {
		t.Errorf("with a mount in it: %v, want EBUSY and nothing removed behind it", err)
	}
	if m.get(reg.VMID, "protection") != "1" {
		t.Error("the conf went although its leftovers did not")
	}
	must(t, m.Unregister(ctx(t), reg))

	// PVE leaves no deep tree there: somebody else's files are not removed.
	reg = m.reserve("c3")
	deep := filepath.Join(m.LXCPath, reg.VMID.String(), "1/2/3/4/5")
	must(t, os.MkdirAll(deep, 0o755))
	if err := m.Unregister(ctx(t), reg); !errors.Is(err, unix.ENOTEMPTY) || m.get(reg.VMID, "protection") != "1" {
		t.Errorf("with a deep tree in it: %v, want ENOTEMPTY and the conf kept", err)
	}
	if _, err := os.Stat(deep); err != nil {
		t.Error(err)
	}
}

// leftoversAlone: who removed the conf by hand leaves a directory to remove, unless
// somebody's container runs in it.
func leftoversAlone(t *testing.T, m *machine) {
	reg := m.reserve("c1")
	dir := filepath.Join(m.LXCPath, reg.VMID.String())
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(dir, "config"), "x")
	must(t, os.Rename(m.path(reg.VMID), m.path(reg.VMID)+".tmp.pvelxc")) // as if killed before a rename, too
	m.run(reg.VMID)
	must(t, m.Unregister(ctx(t), reg))
	if got := read(t, filepath.Join(dir, "config")); got != "x" {
		t.Errorf("of a running container: %q", got)
	}
	m.run()
	must(t, m.Unregister(ctx(t), reg))
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if got := m.confs(); got != "" {
		t.Errorf("left beside the confs: %s", got)
	}
}

func list(t *testing.T, m *machine) {
	a, b := m.reserve("a"), m.reserve("b")
	must(t, m.SetRunning(ctx(t), b))
	admins := m.pathOn(m.Node, 100)
	write(t, admins, "memory: 512\nlxc.group: onboot\n")
	write(t, m.pathOn(m.Node, 101)+".bak", "lxc.group: pvelxc/n1/default/x\n")
	entries, err := m.List(ctx(t), true)
	must(t, err)
	if e, err := m.Find(ctx(t), b.VMID); err != nil || e.Owner.ID != "b" || e.Node != "n1" || e.Lock != "" {
		t.Errorf("found %+v, %v", e, err)
	}
	if e, err := m.Find(ctx(t), 100); err != nil || e.Owner != (pve.Owner{}) {
		t.Errorf("found of an admin's %+v, %v", e, err)
	}
	if _, err := m.Find(ctx(t), 9998); !errors.Is(err, pve.ErrNotRegistered) {
		t.Errorf("found of nobody: %v", err)
	}
	if len(entries) != 2 {
		t.Fatalf("%d entries, want 2: %+v", len(entries), entries)
	}
	for i, want := range []struct {
		reg  pve.Registration
		lock string
	}{{a, "create"}, {b, ""}} {
		e := entries[i]
		if e.VMID != want.reg.VMID || e.Node != "n1" || e.Owner != (pve.Owner{Node: "n1", Namespace: "default", ID: want.reg.ID}) || e.Lock != want.lock {
			t.Errorf("entry %d is %+v, want %+v", i, e, want)
		}
		if want := conf.Digest([]byte(read(t, m.path(e.VMID)))); e.Digest != want {
			t.Errorf("digest of %d is %s, want %s", e.VMID, e.Digest, want)
		}
	}
}
