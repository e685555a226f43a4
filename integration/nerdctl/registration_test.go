package nerdctl

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
	"github.com/pvelxc/pvelxc/integration/node"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// TestRegistration: what Proxmox VE sees of nerdctl's containers: their name at once, limits as they are
// updated, the image when gc has asked for it.
func TestRegistration(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	n := newCLI(t, e)
	n.prepare(t)
	n.guard(t)
	name := n.start(t, "--memory", "64m")
	id := n.inspect(t, name, ".Id")
	registered := func(is func(*pvetest.PCT) bool) (conf *pvetest.PCT) {
		t.Helper()
		harness.Eventually(t, "conf of "+name, func() (err error) {
			if _, conf, err = node.Registered(id); err == nil && !is(conf) {
				err = fmt.Errorf("it is %q with the note %q", conf.Keys, conf.Description)
			}
			return err
		})
		return conf
	}
	conf := registered(func(c *pvetest.PCT) bool { return c.Keys["lock"] == "" })
	if want := strings.ToLower(strings.ReplaceAll(name, "_", "-")); conf.Keys["hostname"] != want || conf.Keys["memory"] != "64" || conf.Keys["tags"] != "containerd;ns-"+e.Namespace {
		t.Errorf("it is %q, want the host name %s", conf.Keys, want)
	}
	n.ok(t, "update", "--memory", "96m", name)
	registered(func(c *pvetest.PCT) bool { return c.Keys["memory"] == "96" })
	gc := exec.CommandContext(e.Context, filepath.Join(daemon.Bin(), "pvelxc"), "gc", "--apply")
	gc.Env = append(os.Environ(), "PVELXC_CONFIG="+filepath.Join(harness.Work, "pvelxc.toml"), "CONTAINERD_ADDRESS="+e.Daemon.Address)
	if out, err := gc.CombinedOutput(); err != nil {
		t.Fatalf("gc: %v: %s", err, out)
	}
	registered(func(c *pvetest.PCT) bool { return strings.Contains(c.Description, "**image** `"+image.Busybox+"`") })
	n.ok(t, "rm", "-f", name)
	if vmid, _, err := node.Registered(id); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its removal: conf %s, %v", vmid, err)
	}
}
