package admin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// leftover is what gc --json says of one.
type leftover struct {
	Kind, Name, Reason, Error string
	Kept                      bool
}

// gc gives what a run found of this run's containers: others may run on the machine.
func (a *admin) gc(args ...string) map[string]leftover {
	a.t.Helper()
	report := parse[struct{ Leftovers []leftover }](a.t, a.run(append([]string{"gc", "--json"}, args...)...))
	found := map[string]leftover{}
	for _, l := range report.Leftovers {
		if strings.Contains(l.Name, harness.Token) {
			found[l.Kind+" "+l.Name] = l
		}
	}
	return found
}

// old makes files as old as those that gc takes for left.
func old(t *testing.T, paths ...string) {
	t.Helper()
	past := time.Now().Add(-time.Hour)
	for _, path := range paths {
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
}

func home(namespace, id string) string { return filepath.Join("/run/pvelxc/lxc", namespace, id) }

// A container that containerd has forgotten is taken away, with its processes, groups, mount and conf; one that only its
// shim has lost, one whose bundle alone is gone, and one that runs are not.
func TestGCForgotten(t *testing.T) {
	a := &admin{harness.Private(t, harness.Pvelxc, daemon.Containerd2), t}
	forgotten, shimless, bundleless, fine := a.Start(t, harness.Forever()), a.Start(t, harness.Forever()), a.Start(t, harness.Forever()), a.Start(t, harness.Forever())
	vmid := a.row(forgotten.ID()).VMID
	pids := map[string]int{}
	for _, c := range []*harness.Container{forgotten, shimless, bundleless, fine} {
		pids[c.ID()] = int(c.Task.Pid())
	}
	shims := []int{forgotten.Shim(t), shimless.Shim(t)}
	a.Daemon.Kill()
	for _, pid := range shims {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	harness.Gone(t, shims...)
	hidden := map[string]string{}
	for _, c := range []*harness.Container{forgotten, bundleless} {
		bundle := a.Daemon.Bundle(a.Namespace, c.ID())
		hidden[c.ID()] = bundle
		if err := os.Rename(bundle, bundle+".hidden"); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.gc(); len(got) != 0 {
		t.Errorf("of what is young, found %+v", got)
	}
	for id := range pids {
		old(t, home(a.Namespace, id))
	}
	want := fmt.Sprintf("container %s/%s (%d)", a.Namespace, forgotten.ID(), vmid)
	got := a.gc()
	if l, ok := got[want]; len(got) != 1 || !ok || l.Kept || !strings.Contains(l.Reason, "containerd has forgotten it") {
		t.Errorf("found %+v, want %s", got, want)
	}
	for id, pid := range pids {
		if !harness.Alive(pid) {
			t.Errorf("a dry run ended %s", id)
		}
	}
	if got := a.gc("--apply"); len(got) != 1 || got[want].Error != "" {
		t.Errorf("applied: %+v", got)
	}
	harness.Gone(t, pids[forgotten.ID()])
	for _, path := range []string{home(a.Namespace, forgotten.ID()), filepath.Join(harness.Registrations(), "lxc", fmt.Sprint(vmid)+".conf"), filepath.Join("/var/lib/lxc", fmt.Sprint(vmid))} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there still: %v", path, err)
		}
	}
	for _, c := range []*harness.Container{shimless, bundleless, fine} {
		if !harness.Alive(pids[c.ID()]) {
			t.Errorf("%s was ended", c.ID())
		}
	}
	if got := a.gc(); len(got) != 0 {
		t.Errorf("the next run finds %+v", got)
	}
	// What was hidden comes back, so that containerd can clean up as ever.
	for _, bundle := range hidden {
		if err := os.Rename(bundle+".hidden", bundle); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Daemon.Start(a.Context); err != nil {
		t.Fatal(err)
	}
}

// A running container whose containerd's whole state is out of sight is told of, and goes on.
func TestGCUnseenState(t *testing.T) {
	a := &admin{harness.Private(t, harness.Pvelxc, daemon.Containerd2), t}
	c := a.Start(t, harness.Forever())
	pid, shim := int(c.Task.Pid()), c.Shim(t)
	a.Daemon.Kill()
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	harness.Gone(t, shim)
	state := filepath.Dir(filepath.Dir(a.Daemon.Bundle(a.Namespace, c.ID())))
	if err := os.Rename(state, state+".hidden"); err != nil {
		t.Fatal(err)
	}
	old(t, home(a.Namespace, c.ID()))
	for _, args := range [][]string{nil, {"--apply"}} {
		for name, l := range a.gc(args...) {
			if !l.Kept || !strings.Contains(l.Reason, "hint: lxc-stop") {
				t.Errorf("%s: %+v", name, l)
			}
		}
	}
	if !harness.Alive(pid) {
		t.Error("it was ended")
	}
	if err := os.Rename(state+".hidden", state); err != nil {
		t.Fatal(err)
	}
	if err := a.Daemon.Start(a.Context); err != nil {
		t.Fatal(err)
	}
}

// Groups and directories of containers that are gone are removed; those of others, of a container that runs, and
// any with a process in it are not.
func TestGCLeftovers(t *testing.T) {
	a := on(t)
	running := a.Start(t, harness.Forever())
	roots := []string{"/sys/fs/cgroup"}
	if !harness.Unified() {
		roots, _ = filepath.Glob("/sys/fs/cgroup/*/pvelxc.monitor")
		for i := range roots {
			roots[i] = filepath.Dir(roots[i])
		}
	}
	name := func(id string) string { return "pvelxc.monitor/" + a.Namespace + "--" + id }
	gone, busy, foreign, fresh, taken := a.NewID(), a.NewID(), a.NewID(), a.NewID(), a.NewID()
	var planted []string
	plant := func(path string) {
		t.Helper()
		for _, root := range roots {
			dir := filepath.Join(root, path)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			planted = append(planted, dir)
			old(t, dir)
		}
	}
	t.Cleanup(func() {
		for _, dir := range planted {
			_ = os.Remove(dir)
		}
	})
	plant(name(gone))
	plant(a.Namespace + "/" + gone)          // its own, empty
	plant(a.Namespace + "/" + foreign)       // of nobody that is known to have been ours
	plant("pvelxc.monitor/" + harness.Token) // not a name that we give
	plant(name(busy))
	plant(name(fresh)) // as that of a container which is being made
	now := time.Now()
	for _, root := range roots {
		if err := os.Chtimes(filepath.Join(root, name(fresh)), now, now); err != nil {
			t.Fatal(err)
		}
		old(t, filepath.Join(root, name(running.ID())))
	}
	plant(name(taken))
	plant(a.Namespace + "/" + taken) // another runtime's by now
	other := sleepIn(t, filepath.Join(roots[0], a.Namespace, taken))
	sleeper := sleepIn(t, filepath.Join(roots[0], name(busy)))
	old(t, home(a.Namespace, running.ID()))
	empty := home(a.Namespace, a.NewID())
	if err := os.Mkdir(empty, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(empty, "config"), []byte("lxc.uts.name = x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	young := home(a.Namespace, a.NewID())
	if err := os.Mkdir(young, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(young) })
	old(t, empty)

	groups := "cgroup " + name(gone) + " " + a.Namespace + "/" + gone
	held := "cgroup " + name(busy)
	for _, args := range [][]string{nil, {"--apply"}} {
		got := a.gc(args...)
		if l, ok := got["cgroup "+name(taken)]; !ok || l.Kept || l.Error != "" {
			t.Errorf("gc %q: beside another's group: %+v", args, l)
		}
		if len(got) != 4 || got[groups].Kept || !strings.Contains(got[groups].Reason, "there is no container") ||
			!got[held].Kept || !strings.Contains(got[held].Reason, "1 processes are in it") || !strings.Contains(got["directory "+empty].Reason, "never made") {
			t.Errorf("gc %q found %+v", args, got)
		}
	}
	is := func(path string) bool { _, err := os.Lstat(path); return err == nil }
	for _, root := range roots {
		for path, want := range map[string]bool{
			name(gone): false, a.Namespace + "/" + gone: false, name(taken): false, a.Namespace + "/" + taken: true, name(busy): true, name(fresh): true, name(running.ID()): true, a.Namespace + "/" + foreign: true, "pvelxc.monitor/" + harness.Token: true,
		} {
			if is(filepath.Join(root, path)) != want {
				t.Errorf("%s/%s is there: %t", root, path, !want)
			}
		}
	}
	if is(empty) || !is(young) || !is(home(a.Namespace, running.ID())) {
		t.Errorf("directories: of a container never made %t, of one being made %t, of one that runs %t", is(empty), is(young), is(home(a.Namespace, running.ID())))
	}
	if got := running.Sh(t, "echo well"); got != "well\n" {
		t.Errorf("a container that runs says %q", got)
	}
	sleeper()
	other()
}
