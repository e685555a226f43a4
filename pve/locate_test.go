package pve

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKinds: what the system's errors mean depends on what is at the root.
func TestKinds(t *testing.T) {
	for _, test := range []struct {
		errno         unix.Errno
		local, remote error
	}{
		{unix.EACCES, nil, ErrNoQuorum}, {unix.ENOTCONN, ErrUnreachable, ErrUnreachable}, {unix.ECONNABORTED, ErrUnreachable, ErrUnreachable},
		{unix.ESHUTDOWN, ErrUnreachable, ErrUnreachable}, {unix.EIO, nil, ErrUnreachable}, {unix.ENOSPC, ErrTooBig, ErrTooBig},
		{unix.EFBIG, ErrTooBig, ErrTooBig}, {unix.ENOENT, ErrNotRegistered, ErrNotRegistered}, {unix.EPERM, nil, nil},
	} {
		for _, local := range []bool{true, false} {
			want := test.remote
			if local {
				want = test.local
			}
			var e *Error
			err := (&Registrar{Local: local}).wrap("try", 9000, &os.PathError{Op: "open", Path: "/x", Err: test.errno})
			if !errors.As(err, &e) || e.Kind != want || e.VMID != 9000 || !errors.Is(err, test.errno) {
				t.Errorf("%v, local %v: %v, want %v", test.errno, local, err, want)
			}
		}
	}
}

// TestVanished: a conf that went between the list of names and its reading is as one that was never there.
func TestVanished(t *testing.T) {
	r := renderer(t)
	if err := os.WriteFile(r.store.path("n1", 9000), []byte("lxc.group: pvelxc/n1/default/c1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, empty, err := r.readAll(context.Background(), "n1", []VMID{9000, 9001})
	if err != nil || len(entries) != 1 || entries[0].VMID != 9000 || len(empty) > 0 {
		t.Errorf("%+v, empty %v, %v", entries, empty, err)
	}
}

// TestWhereItIs: only a machine without /etc/pve is no node of PVE's.
func TestWhereItIs(t *testing.T) {
	r, err := Reader(Registrar{Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	want, local := DefaultRoot, false
	if _, err := os.Lstat(DefaultRoot); err != nil {
		want, local = DefaultLocal, true
	}
	if r.Root != want || r.Local != local {
		t.Errorf("registrations are at %s, local %v; want %s, %v", r.Root, r.Local, want, local)
	}
}

// TestNodeThatClimbs: a list of guests that names no node leads nowhere.
func TestNodeThatClimbs(t *testing.T) {
	r := renderer(t)
	for path, text := range map[string]string{
		".vmlist":            `{"version": 1, "ids": {"9000": {"node": "../x", "type": "lxc", "version": 1}}}`,
		"x/lxc/9000.conf":    "lxc.group: pvelxc/n1/default/c1\n",
		"nodes/n2/lxc/.keep": "",
	} {
		path = filepath.Join(r.Root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.Local, r.store.local = false, false // as if it were the cluster's
	if node, data, err := r.locate(9000); !errors.Is(err, unix.ENOENT) {
		t.Errorf("located on %q: %q, %v", node, data, err)
	}
	p := &reconciliation{Registrar: r}
	if node, data, err := p.find(context.Background(), 9000); !errors.Is(err, unix.ENOENT) {
		t.Errorf("found on %q: %q, %v", node, data, err)
	}
}
