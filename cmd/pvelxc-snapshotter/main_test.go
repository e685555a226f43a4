package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParse(t *testing.T) {
	c, err := parse("x.toml", []byte("version = 1\nroot = \"rpool/pvelxc\"\nwarm_clones = 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != "rpool/pvelxc" || c.WarmClones != 2 || c.WarmLayers != defaultConfig().WarmLayers || c.Backend != "auto" {
		t.Errorf("%+v", c)
	}
	for name, text := range map[string]string{
		"no root":     "version = 1",
		"unknown key": "root = \"a/b\"\nroots = 1",
		"version":     "version = 2\nroot = \"a/b\"",
		"type":        "root = 1",
		"name":        "root = \"a/../b\"",
		"negative":    "root = \"a/b\"\nwarm_clones = -1",
		"syntax":      "root =",
		"level":       "root = \"a/b\"\nlog_level = \"loud\"",
		"backend":     "root = \"a/b\"\nbackend = \"btrfs\"",
		"foreign":     "root = \"a/b\"\nforeign_snapshots = \"eat\"",
		"state":       "root = \"a/b\"\nstate = \"here\"",
		"containerd":  "root = \"a/b\"\ncontainerd = \"\"",
	} {
		if _, err := parse("x.toml", []byte(text)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckStorage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "storage.cfg")
	text := "dir: local\n\tpath /var/lib/vz\n\tcontent iso\n\nzfspool: local-zfs\n\tpool rpool/data\n\tsparse\n\ndir: other\n\tpool tank\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for root, want := range map[string]bool{
		"rpool/data": false, "rpool/data/pvelxc": false, "rpool": false,
		"rpool/pvelxc": true, "rpool/data/a/pvelxc": true, "rpool/database": true, "tank/pvelxc": true,
	} {
		err := checkStorage(root, file)
		if (err == nil) != want {
			t.Errorf("%s: %v", root, err)
		}
		if err != nil && !strings.Contains(err.Error(), "local-zfs") {
			t.Errorf("%s: %v does not name the storage", root, err)
		}
	}
	if err := checkStorage("rpool/data", file+".none"); err != nil {
		t.Errorf("without Proxmox VE: %v", err)
	}
}

func TestListen(t *testing.T) {
	address := filepath.Join(t.TempDir(), "run", "s.sock")
	l, err := listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(address)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v; want mode 0600", info.Mode(), err)
	}
	if _, err := listen(t.Context(), address); err == nil {
		t.Error("a second process takes the socket")
	}
	// Killed: the file stays, and nobody listens.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// TestActivated is the process that TestListenActivated starts.
func TestActivated(t *testing.T) {
	if os.Getenv("PVELXC_ACTIVATED") == "" {
		t.Skip("is a part of TestListenActivated")
	}
	l, err := listen(t.Context(), filepath.Join(t.TempDir(), "other.sock"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("activated")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// The socket that systemd passes is the one that is listened on, and a client that came before the daemon is served.
func TestListenActivated(t *testing.T) {
	address := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	passed, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	// LISTEN_PID is that of the process itself.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestActivated$'`, os.Args[0])
	cmd.Env = append(os.Environ(), "PVELXC_ACTIVATED=yes", "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{passed}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if text, err := io.ReadAll(conn); err != nil || string(text) != "activated" {
		t.Errorf("the client that waited got %q, %v", text, err)
	}
}

// A root inside a storage of Proxmox VE is refused before anything is done, by -check too.
func TestRootInsideStorage(t *testing.T) {
	dir := t.TempDir()
	storages := filepath.Join(dir, "storage.cfg")
	file := filepath.Join(dir, "snapshotter.toml")
	if err := errors.Join(os.WriteFile(storages, []byte("zfspool: local-zfs\n\tpool rpool/data\n"), 0o600),
		os.WriteFile(file, []byte("version = 1\nroot = \"rpool/data/pvelxc\"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	defer func(old string) { storageFile = old }(storageFile)
	storageFile = storages
	for _, args := range [][]string{{"-config", file, "-check"}, {"-config", file, "-recover"}, {"-config", file}} {
		if err := run(t.Context(), args, io.Discard); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "local-zfs") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// The configuration that ships is valid, and its comments tell the defaults.
func TestShippedConfig(t *testing.T) {
	raw, err := os.ReadFile("../../dist/snapshotter.toml")
	if err != nil {
		t.Skipf("needs dist/snapshotter.toml: %v", err)
	}
	want, err := parse("x.toml", raw)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(raw), "\n")
	settings := 0
	for i, l := range lines {
		if strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "# ") {
			lines[i] = l[1:]
			settings++
		}
	}
	got, err := parse("x.toml", []byte(strings.Join(lines, "\n")))
	if err != nil || got != want || settings != 10 {
		t.Errorf("%d defaults in comments: %+v, %v; want %+v", settings, got, err, want)
	}
}
