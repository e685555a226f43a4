package pve_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/conf"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// machine is one node with its own locks, state and LXC path.
type machine struct {
	*pve.Registrar
	t     testing.TB
	mount *pvetest.Mount // nil for a local directory
}

// options of a machine under test: everything of its own, no grace.
func options(t testing.TB, root, node string) pve.Registrar {
	t.Helper()
	dir := t.TempDir()
	sockets := filepath.Join(dir, "unix")
	write(t, sockets, "Num       RefCount Protocol Flags    Type St Inode Path\n")
	if err := os.Mkdir(filepath.Join(dir, "lxc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return pve.Registrar{
		Root: root, Node: node, Range: pve.Range{First: 9000, Last: 9999}, HostCPUs: "0-7", OnNoQuorum: pve.Fail,
		LockDir: filepath.Join(dir, "lock"), StateDir: filepath.Join(dir, "state"), LXCPath: filepath.Join(dir, "lxc"),
		SocketTable: sockets, Grace: time.Nanosecond, RetryFor: time.Hour, LockTimeout: time.Hour,
	}
}

func start(t testing.TB, o pve.Registrar, mount *pvetest.Mount) *machine {
	t.Helper()
	r, err := pve.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{r, t, mount}
}

// local is a machine without Proxmox VE.
func local(t testing.TB) *machine {
	t.Helper()
	o := options(t, filepath.Join(t.TempDir(), "pve"), "n1")
	o.Local = true
	return start(t, o, nil)
}

// cluster is a machine for each of the nodes n1 and n2.
func cluster(t testing.TB) (*machine, *machine) {
	t.Helper()
	mounts := pvetest.Start(t, "n1", "n2")
	return start(t, options(t, mounts["n1"].Dir, "n1"), mounts["n1"]), start(t, options(t, mounts["n2"].Dir, "n2"), mounts["n2"])
}

func guest(id string) pve.Guest {
	return pve.Guest{Namespace: "default", ID: id, Name: id, Rootfs: "/run/" + id, RootfsSize: 1 << 30, Limits: pve.Limits{Memory: 64 << 20, CPUWeight: 100}}
}

// reserve registers a container that must get a VMID.
func (m *machine) reserve(id string) pve.Registration {
	m.t.Helper()
	reg, err := m.Reserve(ctx(m.t), guest(id))
	if err != nil {
		m.t.Fatal(err)
	}
	if reg.VMID == 0 {
		m.t.Fatalf("%s is not registered: %v", id, reg.Degraded)
	}
	m.written(reg.VMID)
	return reg
}

// written waits until a reservation has written its conf: it keeps PVE's lock until then.
func (m *machine) written(vmid pve.VMID) {
	m.t.Helper()
	f, err := os.OpenFile(filepath.Join(m.LockDir, "pve-config-"+vmid.String()+".lock"), os.O_RDWR, 0)
	if err == nil {
		defer f.Close()
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) path(vmid pve.VMID) string { return m.pathOn(m.Node, vmid) }

func (m *machine) pathOn(node string, vmid pve.VMID) string {
	return filepath.Join(m.Root, "nodes", node, "lxc", vmid.String()+".conf")
}

func (m *machine) conf(vmid pve.VMID) *conf.Conf {
	m.t.Helper()
	c, err := conf.Parse([]byte(read(m.t, m.path(vmid))))
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// get is a key of a conf; "-" where it is absent.
func (m *machine) get(vmid pve.VMID, key string) string {
	m.t.Helper()
	if v, ok := m.conf(vmid).Get(key); ok {
		return v
	}
	return "-"
}

// confs are the names in the node's directory.
func (m *machine) confs() string {
	m.t.Helper()
	entries, err := os.ReadDir(filepath.Join(m.Root, "nodes", m.Node, "lxc"))
	if err != nil {
		m.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// run makes the containers look as if they ran.
func (m *machine) run(vmids ...pve.VMID) {
	m.t.Helper()
	var b strings.Builder
	for _, v := range vmids {
		fmt.Fprintf(&b, "0000000000000000: 00000002 00000000 00010000 0001 01 12345 @%s/%d/command\n", m.LXCPath, v)
	}
	write(m.t, m.SocketTable, b.String())
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return c
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
