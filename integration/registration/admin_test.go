package registration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/runtime/restart"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// What the Stop and Shutdown buttons do becomes the task's exit: lxc-stop as PVE runs it, after which
// PVE waits for the end of the command socket.
func TestAdminStops(t *testing.T) {
	const obedient = "trap 'exit 7' TERM; echo ready; while :; do sleep 1000 & wait $!; done"
	const stubborn = "trap '' TERM; echo ready; while :; do sleep 1000 & wait $!; done"
	for name, test := range map[string]struct {
		script string
		args   []string
		want   uint32
	}{
		"stop":                     {obedient, []string{"--kill"}, 137},
		"shutdown":                 {obedient, []string{"--timeout", "60"}, 7},
		"shutdown that is ignored": {stubborn, []string{"--timeout", "1"}, 137},
	} {
		t.Run(name, func(t *testing.T) {
			n := cluster(t)
			events := n.Record(t)
			c := n.Start(t, harness.Shell(test.script))
			c.Saw(t, "ready")
			vmid := n.vmid()
			n.lock(vmid, "")
			socket, err := net.Dial("unix", "@"+filepath.Join(lxcpath, vmid, "command"))
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			ended := make(chan error, 1)
			go func() { _, err := socket.Read(make([]byte, 1)); ended <- err }()
			n.run("lxc-stop", append([]string{"-n", vmid}, test.args...)...)
			if err := harness.Soon(t, "end of the command socket", ended); !errors.Is(err, io.EOF) {
				t.Errorf("the command socket ends with %v", err)
			}
			if got := c.Wait(t); got.Status != test.want {
				t.Errorf("exit status %d, want %d", got.Status, test.want)
			}
			events.Await(t, c.ID(), fmt.Sprint("exit ", test.want))
			n.lock(vmid, "create")
		})
	}
}

// To whoever looks after a container (here containerd's own restart monitor, as kubelet does) a Stop from the UI
// is its end: another task follows, which is registered anew under the next VMID.
func TestStoppedByAdminIsRestarted(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever(), harness.With(restart.WithStatus(containerd.Running), restart.WithPolicy(always(t))))
	t.Cleanup(func() { // before the container goes, or it is started once more
		if err := c.Update(n.Context, restart.WithNoRestarts); err != nil {
			t.Error(err)
		}
	})
	vmid := n.vmid()
	n.lock(vmid, "")
	n.run("lxc-stop", "-n", vmid, "--kill")
	if got := c.Wait(t); got.Status != 137 {
		t.Errorf("exit status %d", got.Status)
	}
	harness.Eventually(t, "another task, registered and running", func() error {
		all := n.confs()
		if len(all) != 1 || all[0] == vmid {
			return fmt.Errorf("confs %q, at first %s", all, vmid)
		}
		if p := n.pct(all[0]); p.Keys["hostname"] == "" || p.Keys["lock"] != "" {
			return fmt.Errorf("the conf of %s: %v", all[0], p.Keys)
		}
		return nil
	})
}

func always(t *testing.T) *restart.Policy {
	t.Helper()
	p, err := restart.NewPolicy("always")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The UI's console is what cmode says: a shell in the container, on the terminal that PVE has. lxc-console
// finds no console, says so, and harms nothing.
func TestConsole(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever())
	vmid := n.vmid()
	n.lock(vmid, "")
	if got := n.pct(vmid).Keys["cmode"]; got != "shell" {
		t.Fatalf("cmode is %q", got)
	}
	// As PVE::LXC::get_console_command has it, on a terminal that script makes.
	var shown harness.Buffer
	console := exec.Command("script", "-qec", "lxc-attach --clear-env -n "+vmid, "/dev/null")
	console.Stdout = &shown
	keys, err := console.StdinPipe()
	if err == nil {
		err = console.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ sees, types string }{{"# ", "test -t 0 && echo in-$((6*7))\n"}, {"in-42", "exit 3\n"}} {
		harness.Eventually(t, "output of the console", func() error {
			if out := shown.String(); !strings.Contains(out, step.sees) {
				return fmt.Errorf("no %q in %q", step.sees, out)
			}
			return nil
		})
		if _, err := io.WriteString(keys, step.types); err != nil {
			t.Fatal(err)
		}
	}
	var exit *exec.ExitError
	if err := console.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("the console ended with %v", err)
	}
	for _, args := range [][]string{{"-n", vmid, "-t", "0"}, {"-n", vmid}} {
		ctx, cancel := context.WithTimeout(n.Context, time.Minute)
		out, err := exec.CommandContext(ctx, "script", "-qec", "lxc-console "+strings.Join(args, " "), "/dev/null").CombinedOutput()
		if err == nil || ctx.Err() != nil {
			t.Errorf("lxc-console %q: %v, printed %q; want an error", args, err, out)
		}
		cancel()
	}
	if out := c.Sh(t, "echo fine"); out != "fine\n" {
		t.Errorf("afterwards a shell says %q", out)
	}
	c.Stop(t)
	if err := c.Remove(); err != nil { // the census sees what attaching left
		t.Fatal(err)
	}
}

// What pct set does to a running container is seen: limits in the cgroup, the conf, the LXC config written
// anew. A later update of something else leaves it alone.
func TestPctSet(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever(), harness.Spec(oci.WithMemoryLimit(64<<20), oci.WithCPUShares(512)))
	vmid := n.vmid()
	n.lock(vmid, "")
	const limit = 80 << 20
	n.run("lxc-cgroup", "-n", vmid, memoryKey(), fmt.Sprint(limit)) // asks the monitor for the group, as PVE does
	theirs := n.pct(vmid)
	theirs.Keys["memory"] = "80"
	n.write(n.path(vmid), theirs.Write())
	n.write(filepath.Join(lxcpath, vmid, "config"), "lxc.uts.name = pve-was-here\n")
	if got := n.memoryLimit(t, c); got != limit {
		t.Errorf("stats say %d, want %d", got, limit)
	}
	shares := uint64(2048)
	if err := c.Task.Update(n.Context, containerd.WithResources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}})); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the weight in the conf", func() error {
		if got := n.pct(vmid).Keys["cpuunits"]; got == theirs.Keys["cpuunits"] {
			return fmt.Errorf("cpuunits is %q", got)
		}
		return nil
	})
	if got := n.pct(vmid).Keys["memory"]; got != "80" || n.memoryLimit(t, c) != limit {
		t.Errorf("after an update of the CPU: memory %q in the conf, %d in force", got, n.memoryLimit(t, c))
	}
	n.update(t, c, 96<<20)
	if got := n.memoryLimit(t, c); got != 96<<20 {
		t.Errorf("after an update of the memory: %d", got)
	}
	// The rewritten copy is nobody's to read: exec, stop and delete work.
	if out := c.Sh(t, "echo fine"); out != "fine\n" {
		t.Errorf("a shell says %q", out)
	}
	c.Stop(t)
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	n.none("after delete")
	gone(t, filepath.Join(lxcpath, vmid))
}

func memoryKey() string {
	if harness.Unified() {
		return "memory.max"
	}
	return "memory.limit_in_bytes"
}

func TestAdminEnters(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever())
	vmid := n.vmid()
	if out := n.run("lxc-attach", "-n", vmid, "--", "/bin/sh", "-c", "echo pid-1-is $(cat /proc/1/comm)"); !strings.Contains(out, "pid-1-is sh") {
		t.Errorf("lxc-attach printed %q", out)
	}
	c.Stop(t)
	if err := c.Remove(); err != nil { // the census sees what attaching left
		t.Fatal(err)
	}
	n.none("after delete")
}

// An update reaches the conf, and what the admin wrote there survives it.
func TestUpdateAndAdminsEdit(t *testing.T) {
	n := cluster(t)
	c := n.Start(t, harness.Forever(), harness.Spec(oci.WithMemoryLimit(64<<20)))
	vmid := n.vmid()
	n.lock(vmid, "")
	n.write(n.path(vmid), n.read(n.path(vmid))+"onboot: 0\nstartup: order=7\n")
	n.update(t, c, 128<<20)
	c.Stop(t)
	n.lock(vmid, "create")
	if got := n.pct(vmid).Keys["startup"]; got != "order=7" {
		t.Errorf("the admin's line became %q", got)
	}
}
