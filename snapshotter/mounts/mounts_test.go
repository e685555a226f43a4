package mounts_test

import (
	"errors"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/snapshotter/mounts"
)

func bind(dir string, options ...string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: append([]string{"rbind"}, options...)}}
}

func newPool(t *testing.T) *mounts.Pool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	p := mounts.New(func(m mount.Mount) bool { return m.Type == "bind" })
	t.Cleanup(p.Close)
	return p
}

// create makes a file in a tree.
func create(tree *os.File, name string) error {
	fd, err := unix.Openat(int(tree.Fd()), name, unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// open says whether a tree is open still.
func open(tree *os.File) bool {
	_, err := tree.Stat()
	return !errors.Is(err, os.ErrClosed)
}

func TestRead(t *testing.T) {
	p := newPool(t)
	dir := t.TempDir()
	for _, list := range [][]mount.Mount{nil, bind(dir), bind(dir, "ro"), bind(dir, "uidmap=0:1:1", "gidmap=0:1:1")} {
		tree, err := p.Read(list)
		if err != nil {
			t.Fatal(err)
		}
		if err := create(tree, "x"); err != unix.EROFS {
			t.Errorf("%v: a write gives %v", list, err)
		}
		tree.Close()
	}
}

// A tree stays mounted between layers, until its dataset is released.
func TestWrite(t *testing.T) {
	p := newPool(t)
	dir := t.TempDir()
	first, done, err := p.Write(bind(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := create(first, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/x"); err != nil {
		t.Error(err)
	}
	done()
	done()
	second, done, err := p.Write(bind(dir, "rw"))
	if err != nil || second != first {
		t.Errorf("the next layer gets another mount: %v", err)
	}
	p.Release(dir + "/other")
	p.Release(dir)
	if !open(second) {
		t.Error("a tree is closed under its user")
	}
	third, done3, err := p.Write(bind(dir))
	if err != nil || third == second {
		t.Errorf("a released mount is used again: %v", err)
	}
	done()
	if open(second) || !open(third) {
		t.Errorf("open: %v, %v; want the released one closed", open(second), open(third))
	}
	done3()
	p.Release(dir)
	if open(third) {
		t.Error("what nobody uses stays open after its release")
	}
	fourth, done, err := p.Write(bind(dir))
	if err != nil {
		t.Fatal(err)
	}
	done()
	p.Close()
	if open(fourth) {
		t.Error("Close leaves a mount")
	}
}

func TestOthers(t *testing.T) {
	p := newPool(t)
	dir := t.TempDir()
	for name, c := range map[string]struct {
		list []mount.Mount
		is   func(error) bool
	}{
		"overlay":         {[]mount.Mount{{Type: "overlay", Source: "overlay"}}, errdefs.IsNotImplemented},
		"two":             {append(bind(dir), bind(dir)...), errdefs.IsNotImplemented},
		"below a target":  {[]mount.Mount{{Type: "bind", Source: dir, Target: "x"}}, errdefs.IsNotImplemented},
		"read-only":       {bind(dir, "ro"), errdefs.IsInvalidArgument},
		"a relative path": {bind("etc"), errdefs.IsInvalidArgument},
		"nothing":         {bind(dir + "/none"), func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
	} {
		if _, _, err := p.Write(c.list); err == nil || !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Only what lies directly below our dataset is ours.
func TestDatasets(t *testing.T) {
	ours := mounts.Datasets("tank/pvelxc/s")
	for source, want := range map[string]bool{
		"tank/pvelxc/s/abc": true, "tank/pvelxc/s/abc@def": true,
		"tank/pvelxc/s": false, "tank/pvelxc/s@x": false, "tank/pvelxc/s/a/b": false, "tank/pvelxc/sx/abc": false, "tank/data/vm-1": false,
		"tank/pvelxc/s/../../data": false, "tank/pvelxc/s/": false, "": false, "tank/pvelxc/s/a@b@c": false,
	} {
		if got := ours(mount.Mount{Type: "zfs", Source: source}); got != want {
			t.Errorf("%q: %v", source, got)
		}
	}
	if ours(mount.Mount{Type: "bind", Source: "tank/pvelxc/s/abc"}) {
		t.Error("a bind mount is taken for a dataset")
	}
}
