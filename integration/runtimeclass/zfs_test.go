package runtimeclass

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// prepare makes a pool where there is a device for one.
func prepare(t *testing.T) ground {
	t.Helper()
	device := os.Getenv("VM_POOL_DEVICE")
	if device == "" {
		return proxied{}
	}
	zpool(t, "create", "-f", "-O", "mountpoint=none", pool, device)
	t.Cleanup(func() { zpool(t, "destroy", "-f", pool) })
	return zfs{}
}

// zfs is pvelxc-snapshotter on a pool of its own.
type zfs struct{}

const pool = "pods"

func (zfs) command(t *testing.T, e *env) *exec.Cmd {
	t.Helper()
	config := e.dir + ".snapshotter.toml"
	text := fmt.Appendf(nil, "version = 1\nroot = %q\nstate = %q\naddress = %q\ncontainerd = %q\nwarm_clones = 0\n",
		pool+"/pvelxc", filepath.Dir(e.exports()), e.socket(), filepath.Join(e.dir, "containerd.sock"))
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.Command(filepath.Join(daemon.Bin(), "pvelxc-snapshotter"), "-config", config)
}

func (zfs) root(_ *env, line string) error {
	if !strings.HasPrefix(line, pool+"/pvelxc/") || !strings.Contains(line, " / zfs ") {
		return fmt.Errorf("it is %q", line)
	}
	return nil
}

// snapshots are datasets and their snapshots. There are no spare clones, which come and go.
func (zfs) snapshots(t *testing.T, _ *env) []string {
	t.Helper()
	out, err := exec.Command("zfs", "list", "-H", "-o", "name", "-t", "filesystem,snapshot", "-r", pool+"/pvelxc/s").Output()
	if err != nil {
		t.Fatalf("zfs list: %v", err)
	}
	return strings.Fields(string(out))
}

func (zfs) differ() bool { return true }

func zpool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("zpool", args...).CombinedOutput(); err != nil {
		t.Errorf("zpool %s: %v: %s", args[0], err, out)
	}
}
