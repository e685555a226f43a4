package registration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// asked is a node with an API, which knows nothing yet.
func asked(t *testing.T) (*node, *pvetest.API) {
	t.Helper()
	api := pvetest.StartAPI(t)
	api.SetGuests()
	api.SetTasks()
	n := cluster(t, "[pve.api]", fmt.Sprintf("url = %q", api.URL), fmt.Sprintf("token_file = %q", api.TokenFile), byAuthority(api))
	return n, api
}

func number(t *testing.T, vmid string) int {
	t.Helper()
	v, err := strconv.Atoi(vmid)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// separately runs the command and returns both of its streams.
func (n *node) separately(args ...string) (stdout, stderr string) {
	n.t.Helper()
	var out, errs bytes.Buffer
	cmd := n.command(pvelxc(), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		n.t.Fatalf("pvelxc %s: %v: %s", strings.Join(args, " "), err, &errs)
	}
	return out.String(), errs.String()
}

// Who stopped a container is known to the API alone; inspect and logs say it, and do without it.
func TestWhoStoppedIt(t *testing.T) {
	n, api := asked(t)
	c := n.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	if out, errs := n.separately("inspect", vmid); strings.Contains(out, "Tasks of Proxmox VE") || errs != "" {
		t.Errorf("before anything was done: %q in\n%s", errs, out)
	}
	now := time.Now().Unix()
	upid := "UPID:pve1:0001A2B3:00C0FFEE:6553F100:vzstop:" + vmid + ":root@pam:"
	api.SetTasks(pvetest.APITask{UPID: upid, Node: "pve1", Type: "vzstop", User: "root@pam", VMID: number(t, vmid), Start: now})
	n.run("lxc-stop", "-n", vmid, "--kill")
	c.Wait(t)
	n.lock(vmid, "create")
	harness.Eventually(t, "the shim's answer", func() error {
		if log := n.Daemon.LogTail(200); !strings.Contains(log, `msg="stopped in Proxmox VE" by="root@pam, vzstop, task `+upid) {
			return errors.New("it is not in the log")
		}
		return nil
	})
	api.SetTasks(
		pvetest.APITask{UPID: upid, Node: "pve1", Type: "vzstop", User: "root@pam", VMID: number(t, vmid), Start: now, End: now + 1, Status: "OK", Log: []string{"stopping it", "TASK OK"}},
		pvetest.APITask{UPID: pvetest.UPID, Node: "pve1", Type: "vzstop", User: "another@pve", VMID: number(t, vmid), Start: now - 3600, End: now - 3599, Status: "OK"},
		pvetest.APITask{UPID: pvetest.UPID, Node: "pve1", Type: "vzstop", User: "another@pve", VMID: 4711, Start: now, Status: "OK"},
	)
	api.SetGuests(map[string]any{"vmid": number(t, vmid), "node": "pve1", "type": "lxc", "status": "stopped", "pool": "shop"})
	out, errs := n.separately("inspect", vmid)
	for _, want := range []string{"stopped  by root@pam, vzstop, task " + upid, "cluster  stopped on node pve1, in pool shop", "    stopping it\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("inspect does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "another@pve") || errs != "" {
		t.Errorf("what was done to another container with the VMID, or %q:\n%s", errs, out)
	}
	out, _ = n.separately("logs", vmid, "--file", filepath.Join(n.Daemon.Dir, "log"))
	if !strings.Contains(out, " pve     info    vzstop by root@pam, task "+upid) || !strings.Contains(out, " pve     info    stopping it") || !strings.Contains(out, " pve     info    vzstop ended: OK") {
		t.Errorf("logs:\n%s", out)
	}
	api.Fail(nil, pvetest.Status(403, "Permission check failed (/nodes/pve1, Sys.Audit)"))
	out, errs = n.separately("inspect", vmid)
	if !strings.Contains(out, "stopped on node pve1") || !strings.Contains(errs, "Permission check failed (/nodes/pve1, Sys.Audit)") || strings.Contains(errs, "12345678-1234") {
		t.Errorf("with half of the answers: %q\n%s", errs, out)
	}
	hold := make(chan struct{})
	api.Fail(pvetest.Hold(hold))
	out, errs = n.separately("inspect", vmid)
	close(hold)
	if !strings.Contains(out, "── LXC config") || !strings.Contains(errs, "deadline exceeded") {
		t.Errorf("without any answer: %q\n%s", errs, out)
	}
}

// A conf on another node is left there when the cluster says that its container runs there, by gc and by
// a shim; it comes back when it does not.
func TestMovedAndRuns(t *testing.T) {
	n, api := asked(t)
	n.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	says := func(status string) {
		api.SetGuests(map[string]any{"vmid": number(t, vmid), "node": "pve2", "type": "lxc", "status": status, "name": "web"})
	}
	says("running")
	if err := os.Rename(n.path(vmid), n.pathOn("pve2", vmid)); err != nil {
		t.Fatal(err)
	}
	if out := n.gc(); !strings.Contains(out, "conflict") || !strings.Contains(out, `node pve2 has its conf and a running container "web"`) {
		t.Errorf("gc says %s", out)
	}
	if out, _ := n.separately("inspect", vmid); !strings.Contains(out, "cluster  running on node pve2") {
		t.Errorf("inspect says\n%s", out)
	}
	reconciles["a shim starts"](t, n)
	harness.Eventually(t, "the shim's answer", func() error {
		if log := n.Daemon.LogTail(200); !strings.Contains(log, "registration conflict") {
			return fmt.Errorf("it is not in the log")
		}
		return nil
	})
	n.none("on the node that the container is registered from")
	api.Fail(pvetest.Status(401, "authentication failure"))
	says("stopped")
	if out := n.gc(); !strings.Contains(out, "returned") || !strings.Contains(out, "authentication failure") {
		t.Errorf("without an answer gc says %s", out)
	}
	n.lock(vmid, "")
}

// A container whose pool could not be asked when it started joins it later.
func TestJoinsPoolLater(t *testing.T) {
	n, api := pooled(t, byAuthority)
	n.Start(t, harness.Forever())
	vmid := n.vmid()
	members(t, api, vmid)
	api.SetMember("k8s", number(t, vmid), false)
	for _, test := range []struct {
		args []string
		want []string
	}{{[]string{"gc"}, nil}, {[]string{"gc", "--apply"}, []string{vmid}}} {
		if out := n.run(pvelxc(), test.args...); !strings.Contains(out, "joined") || !strings.Contains(out, vmid) {
			t.Errorf("%q says %s", test.args, out)
		}
		members(t, api, test.want...)
	}
	if out := n.gc(); strings.Contains(out, "joined") {
		t.Errorf("once more: %s", out)
	}
	api.Fail(pvetest.Status(500, "pool 'k8s' does not exist"))
	if out := n.gc(); !strings.Contains(out, "does not exist") {
		t.Errorf("without the pool: %s", out)
	}
}

// containerd tells gc the image of a container that no annotation names.
func TestImageInTheNote(t *testing.T) {
	n := cluster(t)
	n.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	if note := n.pct(vmid).Description; strings.Contains(note, image.Busybox) {
		t.Fatalf("the test is void: the note is %q", note)
	}
	if out := n.gc(); !strings.Contains(out, "described") {
		t.Errorf("gc says %s", out)
	}
	if note := n.pct(vmid).Description; !strings.Contains(note, "**image** `"+image.Busybox+"`") {
		t.Errorf("the note is %q", note)
	}
	if out, _ := n.separately("inspect", vmid); !strings.Contains(out, "Proxmox VE conf, changed since\nnothing") {
		t.Errorf("inspect takes it for an edit:\n%s", out)
	}
}
