package snapshotter_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// site is a snapshotter on a real pool, with an image of two layers and what an administrator has at hand.
type site struct {
	*history
	t    *testing.T
	b    zfs.Backend
	root string
	dir  string
	log  *test.Hook
}

func (e *site) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// run runs an administrator's command.
func (e *site) run(name string, args ...string) string {
	e.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		e.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (e *site) do(acts ...act) {
	e.t.Helper()
	for _, a := range acts {
		if err := a.do(e.history); err != nil {
			e.t.Fatalf("%s: %v", a.name, err)
		}
	}
}

func (e *site) open() {
	e.t.Helper()
	s, err := snapshotter.Open(e.ctx, snapshotter.Options{Root: e.root, Dir: e.dir, Backend: e.b})
	e.must(err)
	e.s = s
	e.t.Cleanup(func() { s.Close() })
}

func newSite(t *testing.T, b zfs.Backend, root string) *site {
	t.Helper()
	logger, hook := test.NewNullLogger()
	ctx := log.WithLogger(context.WithoutCancel(t.Context()), logrus.NewEntry(logger))
	e := &site{&history{ctx, nil, t.TempDir()}, t, b, root, t.TempDir(), hook}
	e.open()
	e.do(prepare("extract-1 a", ""), write("extract-1 a", "a"), commit("a", "extract-1 a"),
		prepare("extract-2 b", "a"), write("extract-2 b", "b"), commit("b", "extract-2 b"))
	return e
}

// datasets are those of ours.
func (e *site) datasets() []string {
	e.t.Helper()
	l, err := e.b.Children(e.ctx, e.root+"/s")
	e.must(err)
	names := []string{}
	for _, i := range l {
		names = append(names, i.Name)
	}
	return names
}

// names are all of containerd's snapshots.
func (e *site) names() state {
	e.t.Helper()
	got := state{}
	e.must(e.s.Walk(e.ctx, func(_ context.Context, i snapshots.Info) error {
		got[i.Name] = entry{Parent: i.Parent, Kind: i.Kind}
		return nil
	}))
	return got
}

// source is the dataset that an active snapshot is mounted from.
func (e *site) source(key string) string {
	e.t.Helper()
	m, err := e.s.Mounts(e.ctx, key)
	e.must(err)
	return m[0].Source
}

// empty removes everything and sees that nothing stays.
func (e *site) empty(keys ...string) {
	e.t.Helper()
	for _, k := range keys {
		e.must(e.s.Remove(e.ctx, k))
	}
	e.must(e.s.Cleanup(e.ctx))
	e.must(e.s.Cleanup(e.ctx))
	if l := e.datasets(); len(l) != 0 {
		e.t.Errorf("left: %v", l)
	}
}

// TestMishaps is what befalls a pool.
func TestMishaps(t *testing.T) {
	pool(t)
	b := backend(t, "ioctl")
	for name, fn := range map[string]func(*site){
		"foreign snapshots": foreignSnapshots, "a mount in another namespace": heldElsewhere,
		"export and import": exported, "rewound to a checkpoint": rewound, "no space for the database": fullState,
	} {
		t.Run(name, func(t *testing.T) { fn(newSite(t, b, "suite/"+strings.ReplaceAll(name, " ", "-"))) })
	}
}

func foreignSnapshots(e *site) {
	e.do(prepare("c", "b"))
	ct := e.source("c")
	head := e.datasets()[0]
	if head == ct {
		head = e.datasets()[1]
	}
	e.run("zfs", "snapshot", head+"@autosnap", ct+"@autosnap")
	// A layer goes on beside the snapshot, and a container is removed in spite of it.
	e.do(prepare("extract-3 d", "b"), write("extract-3 d", "d"), commit("d", "extract-3 d"))
	for _, k := range []string{"c", "d", "b", "a"} {
		e.must(e.s.Remove(e.ctx, k))
	}
	e.must(e.s.Cleanup(e.ctx))
	for _, name := range []string{head, ct} {
		if _, err := e.b.Stat(e.ctx, name+"@autosnap"); err != nil {
			e.t.Errorf("a foreign snapshot: %v", err)
		}
	}
	e.run("zfs", "destroy", ct+"@autosnap")
	e.run("zfs", "destroy", head+"@autosnap")
	e.empty()
}

func heldElsewhere(e *site) {
	e.do(prepare("c", "b"))
	ct := e.source("c")
	dir := e.t.TempDir()
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t zfs "$0" "$1" && echo held && exec cat`, ct, dir)
	in, err := cmd.StdinPipe()
	e.must(err)
	out, err := cmd.StdoutPipe()
	e.must(err)
	e.must(cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		e.t.Fatalf("%q, %v", line, err)
	}
	if _, err := os.Stat(dir + "/a"); err == nil {
		e.t.Error("the mount is in this namespace too")
	}
	e.must(e.s.Remove(e.ctx, "c"))
	e.must(e.s.Cleanup(e.ctx))
	if _, err := e.b.Stat(e.ctx, ct); err != nil {
		e.t.Errorf("a live root file system in another namespace: %v", err)
	}
	h, ok := zfs.FindHolder("/proc", ct)
	if !ok || h.PID != cmd.Process.Pid || h.Path != dir {
		e.t.Errorf("holder %v, want pid %d at %s", h, cmd.Process.Pid, dir)
	}
	said := false
	for _, l := range e.log.AllEntries() {
		said = said || l.Data["dataset"] == ct && l.Data["holder"] == h.String()
	}
	if !said {
		e.t.Errorf("the log does not name %v", h)
	}
	e.must(in.Close())
	e.must(cmd.Wait())
	e.empty("b", "a")
}

func exported(e *site) {
	e.do(prepare("c", "b"), write("c", "own"))
	e.run("zpool", "export", "suite")
	start := time.Now()
	for _, key := range []string{"d", "extract-3 d"} {
		if _, err := e.s.Prepare(e.ctx, key, "b"); err == nil {
			e.t.Errorf("prepare %s on an exported pool", key)
		}
		if _, err := e.s.Stat(e.ctx, key); !errdefs.IsNotFound(err) {
			e.t.Errorf("what failed stays: %v", err)
		}
	}
	if _, err := e.s.Mounts(e.ctx, "c"); err == nil {
		e.t.Error("mounts on an exported pool")
	}
	// The names are all there: containerd must not think that its images are gone.
	if _, err := e.s.Stat(e.ctx, "b"); err != nil {
		e.t.Error(err)
	}
	e.t.Logf("%v without the pool", time.Since(start))
	// A daemon that starts now says so, and loses nothing.
	e.must(e.s.Close())
	if _, err := snapshotter.Open(e.ctx, snapshotter.Options{Root: e.root, Dir: e.dir, Backend: e.b}); err == nil {
		e.t.Error("it opens without its pool")
	}
	e.run("zpool", "import", "-d", "/dev", "suite")
	e.open()
	e.do(prepare("extract-4 d", "b"), write("extract-4 d", "d"), commit("d", "extract-4 d"), prepare("e", "d"))
	m, err := e.s.Mounts(e.ctx, "c")
	e.must(err)
	e.must(e.at(m, func(dir string) error {
		_, err := os.Stat(dir + "/own")
		return err
	}))
	e.empty("c", "e", "d", "b", "a")
}

func rewound(e *site) {
	e.run("zpool", "checkpoint", "suite")
	e.do(prepare("extract-3 d", "b"), write("extract-3 d", "d"), commit("d", "extract-3 d"), prepare("c", "d"))
	e.run("zpool", "export", "suite")
	e.run("zpool", "import", "-d", "/dev", "--rewind-to-checkpoint", "suite")
	for range 2 {
		// The head is what b is, and d has never been. Nothing may be made of d.
		for _, key := range []string{"extract-4 x", "x"} {
			if _, err := e.s.Prepare(e.ctx, key, "d"); !errdefs.IsNotFound(err) {
				e.t.Errorf("prepare %s on what the pool has forgotten: %v", key, err)
			}
		}
		if _, err := e.s.Mounts(e.ctx, "c"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "hint:") {
			e.t.Errorf("mounts of what the pool has forgotten: %v", err)
		}
		// After a restart as well.
		e.must(e.s.Close())
		e.open()
	}
	e.do(prepare("extract-5 f", "b"), write("extract-5 f", "f"))
	m, err := e.s.Mounts(e.ctx, "extract-5 f")
	e.must(err)
	e.must(e.at(m, func(dir string) error {
		if _, err := os.Stat(dir + "/d"); err == nil {
			e.t.Error("a layer on b shows d's files")
		}
		_, err := os.Stat(dir + "/b")
		return err
	}))
	e.empty("extract-5 f", "c", "d", "b", "a")
}
