package registration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// age makes confs as old as ones that reconciliation removes without a container.
func (n *node) age(paths ...string) {
	n.t.Helper()
	past := time.Now().Add(-time.Hour)
	for _, path := range paths {
		if err := os.Chtimes(path, past, past); err != nil {
			n.t.Fatal(err)
		}
	}
}

// gone waits until a file is.
func gone(t *testing.T, path string) {
	t.Helper()
	harness.Eventually(t, "removal of "+path, func() error {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

// reconciles are the two ways in which an admin need do nothing, or one thing.
var reconciles = map[string]func(t *testing.T, n *node){
	"gc": func(_ *testing.T, n *node) { n.gc() },
	"a shim starts": func(t *testing.T, n *node) {
		harness.Reconcile()
		c := n.Start(t, harness.Forever(), pod("sandbox")) // itself unregistered
		t.Cleanup(func() { c.Stop(t) })
	},
}

// A conf without a container is removed, a lost one written again, a moved one brought back, an edited one
// kept, a foreign one left alone: at the start of any shim, and by gc.
func TestReconcile(t *testing.T) {
	for name, reconcile := range reconciles {
		t.Run(name, func(t *testing.T) {
			n := cluster(t)
			vmids := map[string]string{} // by what happens to the conf
			for _, fate := range []string{"lost", "moved", "edited", "created"} {
				create := n.Start
				if fate == "created" {
					create = n.Create
				}
				before := n.confs()
				create(t, harness.Forever(), harness.ID(fate+"-"+n.NewID()))
				vmid := extra(n.confs(), before)
				n.written(vmid)
				if vmids[fate] = vmid; fate != "created" {
					n.lock(vmid, "")
				}
			}
			const orphan, foreign = "900900", "900901"
			orphaned := strings.ReplaceAll(n.read(n.path(vmids["lost"])), "lost-", "gone-")
			n.write(n.path(orphan), orphaned)
			n.write(n.path(foreign), "hostname: somebody\nostype: debian\n")
			n.age(n.path(orphan), n.path(foreign))
			edited := n.read(n.path(vmids["edited"])) + "# mine\nmp0: /srv,mp=/srv\n"
			n.write(n.path(vmids["edited"]), edited)
			if err := errors.Join(os.Remove(n.path(vmids["lost"])), os.Rename(n.path(vmids["moved"]), n.pathOn("pve2", vmids["moved"]))); err != nil {
				t.Fatal(err)
			}
			reconcile(t, n)
			gone(t, n.path(orphan))
			for _, fate := range []string{"lost", "moved"} {
				harness.Eventually(t, "return of the conf that was "+fate, func() error {
					if text, err := os.ReadFile(n.path(vmids[fate])); err != nil || len(text) == 0 {
						return fmt.Errorf("conf %q: %w", text, err)
					}
					return nil
				})
				if p := n.pct(vmids[fate]); p.Keys["lock"] != "" || !strings.Contains(p.Description, fate+"-") {
					t.Errorf("the conf that was %s is now\n%s", fate, n.read(n.path(vmids[fate])))
				}
			}
			if _, err := os.Lstat(n.pathOn("pve2", vmids["moved"])); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the moved conf is still on pve2: %v", err)
			}
			for vmid, want := range map[string]string{foreign: "hostname: somebody\nostype: debian\n", vmids["edited"]: edited} {
				if got := n.read(n.path(vmid)); got != want {
					t.Errorf("the conf of %s became %q", vmid, got)
				}
			}
			if got := n.pct(vmids["created"]).Keys["lock"]; got != "create" {
				t.Errorf("lock of a container that did not start: %q", got)
			}
			if err := os.Remove(n.path(foreign)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// extra is what only the first list has.
func extra(all, before []string) string {
	for _, v := range all {
		if !strings.Contains(strings.Join(before, " "), v) {
			return v
		}
	}
	return ""
}

// An update is not forgotten with the conf.
func TestLostAfterUpdate(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	n.update(t, c, 96<<20)
	if err := os.Remove(n.path(vmid)); err != nil {
		t.Fatal(err)
	}
	n.gc()
	if got := n.pct(vmid).Keys["memory"]; got != "96" {
		t.Errorf("written again with memory %s, want 96", got)
	}
}

// The VMID of a container is somebody else's: the container runs on, and the other's conf is left alone
// even when the container goes.
func TestTakenVMID(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	const theirs = "hostname: somebody\nostype: debian\n"
	n.write(n.path(vmid), theirs)
	if out := n.gc(); !strings.Contains(out, "conflict") || !strings.Contains(out, vmid) {
		t.Errorf("gc says %q", out)
	}
	if out := c.Sh(t, "echo fine"); out != "fine\n" {
		t.Errorf("the container says %q", out)
	}
	c.Stop(t)
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	if got := n.read(n.path(vmid)); got != theirs {
		t.Errorf("the other's conf became %q", got)
	}
	// What is in the LXC path could be the other's by now.
	if err := errors.Join(os.Remove(n.path(vmid)), os.RemoveAll(filepath.Join(lxcpath, vmid))); err != nil {
		t.Fatal(err)
	}
}

// Deletions and reconciliations at once: a conf that reconciliation writes again does not outlive its
// container.
func TestDeleteRacesWithReconcile(t *testing.T) {
	n := cluster(t)
	const count = 6
	var containers []*harness.Container
	for range count {
		containers = append(containers, n.Start(t, harness.Forever()))
	}
	for _, vmid := range n.confs() {
		n.lock(vmid, "")
		if err := os.Remove(n.path(vmid)); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	var reconciling sync.WaitGroup
	reconciling.Go(func() {
		for {
			if err := n.tryGC(); err != nil {
				t.Log(err) // for the next one to mend
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for _, c := range containers {
		c.Stop(t)
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	reconciling.Wait()
	n.none("after the last deletion")
}

// After a reboot of the host there is no task, nothing below /run and no LXC container, but the conf is
// there. It goes when the first container starts, and with it what is in the LXC path.
func TestReboot(t *testing.T) {
	n := cluster(t)
	e := harness.Private(t, harness.Pvelxc, daemon.Containerd2)
	n.configure("") // the new containerd wrote the file
	sockets := func() string { return n.run("ls", daemon.ShimSocketDir) }
	others := sockets()
	c := e.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	shim := c.Shim(t)
	e.Daemon.Kill()
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cgroups := func() []string {
		out, _ := exec.Command("find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", "*"+c.ID()+"*").Output()
		return strings.Fields(string(out))
	}
	harness.Eventually(t, "end of the container", func() error {
		for _, group := range cgroups() {
			procs, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
			for _, text := range strings.Fields(string(procs)) {
				if pid, err := strconv.Atoi(text); err == nil && pid > 1 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			_ = os.Remove(group)
		}
		if left := cgroups(); len(left) > 0 {
			return fmt.Errorf("groups %q", left)
		}
		return nil
	})
	harness.Eventually(t, "unmount of its root", func() error {
		return syscall.Unmount(filepath.Join(e.Daemon.Bundle(e.Namespace, c.ID()), "rootfs"), 0)
	})
	clear := []string{e.Daemon.State(), filepath.Join(e.Daemon.Dir, "root/io.containerd.runtime.v2.task", e.Namespace), filepath.Join("/run/pvelxc/lxc", e.Namespace), "/run/lxc/lock/var/lib/lxc"}
	for _, socket := range strings.Fields(sockets()) {
		if !strings.Contains(others, socket) {
			clear = append(clear, filepath.Join(daemon.ShimSocketDir, socket))
		}
	}
	for _, dir := range clear {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Daemon.Start(e.Context); err != nil {
		t.Fatal(err)
	}
	n.age(n.path(vmid))
	if got := n.confs(); len(got) != 1 {
		t.Fatalf("the test is void: confs %q", got)
	}
	reconciles["a shim starts"](t, n)
	gone(t, n.path(vmid))
	gone(t, filepath.Join(lxcpath, vmid))
}

// Two nodes with a containerd each give no VMID twice, though their range has hardly more than they need.
func TestTwoNodesRace(t *testing.T) {
	n := cluster(t)
	const each = 4
	type place struct {
		*harness.Env
		name string
	}
	var nodes []place
	for _, name := range []string{"pve1", "pve2"} {
		file := filepath.Join(harness.Work, name+".toml")
		n.write(file, fmt.Sprintf("version = 1\n[pve]\nroot = %q\nvmid_range = \"9000-9009\"\n", n.others[name].Dir))
		// What a node has of its own: its state, its locks, its LXC.
		const alone = `set -e; for d in /run/pvelxc /run/lxc /run/lock /var/lib/pvelxc /var/lib/lxc; do mkdir -p "$d"; mount -t tmpfs none "$d"; done; exec "$@"`
		e := harness.Private(t, harness.Pvelxc, daemon.Containerd2, func(d *daemon.Daemon) {
			d.Env = append(d.Env, "PVELXC_CONFIG="+file)
			d.Prefix = []string{"unshare", "--mount", "sh", "-c", alone, "sh"}
		})
		nodes = append(nodes, place{e, name})
	}
	for _, p := range nodes { // both begin at the same VMID
		n.write(fmt.Sprintf("/proc/%d/root/var/lib/pvelxc/registration/cursor", p.Daemon.Pid()), "9000\n")
	}
	var starting sync.WaitGroup
	for _, p := range nodes {
		for range each {
			starting.Go(func() {
				if _, err := p.TryStart(t, harness.Forever()); err != nil {
					t.Errorf("%s: %v", p.name, err)
				}
			})
		}
	}
	starting.Wait()
	seen := map[string]string{}
	for _, p := range nodes {
		paths, err := filepath.Glob(filepath.Join(n.Dir, "nodes", p.name, "lxc", "*.conf"))
		if err != nil || len(paths) != each {
			t.Errorf("%s has %q, want %d: %v", p.name, paths, each, err)
		}
		for _, path := range paths {
			if other, twice := seen[filepath.Base(path)]; twice {
				t.Errorf("%s is on %s and on %s", filepath.Base(path), other, p.name)
			}
			seen[filepath.Base(path)] = p.name
			harness.Eventually(t, "owner of "+path, func() error {
				if !strings.Contains(n.read(path), "lxc.group: pvelxc/"+p.name+"/") {
					return errors.New(n.read(path))
				}
				return nil
			})
		}
	}
}
