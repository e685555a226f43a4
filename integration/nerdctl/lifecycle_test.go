package nerdctl

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

func TestStop(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t)
		n.ok(t, "stop", name)
		n.becomes(t, name, ".State.Status", "exited")
		if got := n.inspect(t, name, ".State.ExitCode"); got != "0" {
			t.Errorf("status %s, want that of the trap, 0", got)
		}
		n.ok(t, "rm", name)
		if got := n.try(t, "inspect", name); got.status == 0 {
			t.Errorf("it is still there: %s", got)
		}
	})
}

// What ignores the stop signal is killed when its time is up, not before.
func TestStopTimeout(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, "trap : TERM; echo ready; while :; do sleep 1000 & wait $!; done", "--net", "none")
		n.logs(t, name, "ready")
		begin := time.Now()
		n.ok(t, "stop", "--time", "2", name)
		if took := time.Since(begin); took < 2*time.Second {
			t.Errorf("killed after %s already", took)
		}
		if got := n.inspect(t, name, ".State.ExitCode"); got != "137" {
			t.Errorf("status %s, want 137", got)
		}
	})
}

func TestStopSignal(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, "trap 'exit 12' USR1; trap 'exit 13' TERM; echo ready; while :; do sleep 1000 & wait $!; done", "--net", "none", "--stop-signal", "SIGUSR1")
		n.logs(t, name, "ready")
		n.ok(t, "stop", name)
		if got := n.inspect(t, name, ".State.ExitCode"); got != "12" {
			t.Errorf("status %s, want 12", got)
		}
	})
}

func TestKillAndWait(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, "trap 'echo got' HUP; trap 'exit 21' INT; echo ready; while :; do sleep 1000 & wait $!; done", "--net", "none")
		n.logs(t, name, "ready")
		n.ok(t, "kill", "-s", "HUP", name)
		n.logs(t, name, "got")
		waited := make(chan string, 1)
		go func() { waited <- n.try(t, "wait", name).stdout }()
		n.ok(t, "kill", "--signal", "SIGINT", name)
		if got := harness.Soon(t, "nerdctl wait", waited); got != "21\n" {
			t.Errorf("wait printed %q", got)
		}
		if got := n.ok(t, "wait", name); got != "21" {
			t.Errorf("a late wait printed %q", got)
		}
		second := n.start(t)
		n.ok(t, "kill", second)
		n.becomes(t, second, ".State.ExitCode", "137")
	})
}

func TestRemoveForced(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t)
		pid := n.pid(t, name)
		if got := n.try(t, "rm", name); got.status == 0 {
			t.Errorf("a running container was removed: %s", got)
		}
		n.ok(t, "rm", "-f", name)
		harness.Gone(t, pid)
	})
}

func TestPause(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, "while :; do date +%s%N >/tmp/now; sleep 0.02; done", "--net", "none")
		n.ok(t, "pause", name)
		n.becomes(t, name, ".State.Status", "paused")
		if got := n.try(t, "exec", name, "true"); got.status == 0 {
			t.Errorf("exec in a paused container: %s", got)
		}
		n.ok(t, "unpause", name)
		n.becomes(t, name, ".State.Status", "running")
		n.ok(t, "exec", name, "sh", "-c", "while ! test -s /tmp/now; do :; done")
		n.ok(t, "pause", name)
		n.ok(t, "rm", "-f", name)
	})
}

// The same container, with its files, runs again.
func TestStartAgain(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, "echo run >>/tmp/runs; cat /tmp/runs; "+forever, "--net", "none")
		n.logs(t, name, "run\n")
		n.ok(t, "stop", name)
		n.ok(t, "start", name)
		n.logs(t, name, "run\nrun\nrun\n")
		n.ok(t, "restart", name)
		n.logs(t, name, "run\nrun\nrun\nrun\nrun\nrun\n")
		renamed := name + "x"
		n.ok(t, "rename", name, renamed)
		if got := n.inspect(t, renamed, ".State.Status"); got != "running" {
			t.Errorf("the renamed container is %s", got)
		}
		n.ok(t, "rename", renamed, name)
	})
}

func TestCreateThenStart(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.name(t)
		n.ok(t, append([]string{"create"}, n.runArgs("--name", name, "--net", "none", image.Busybox, "sh", "-c", "echo attached; exit 4")[1:]...)...)
		if got := n.inspect(t, name, ".State.Running"); got != "false" {
			t.Errorf("running: %s", got)
		}
		// This nerdctl has status 1 for every failure in the container.
		if got := n.try(t, "start", "-a", name); got.status == 0 || got.stdout != "attached\n" {
			t.Errorf("start -a: got %s", got)
		}
		n.becomes(t, name, ".State.ExitCode", "4")
	})
}

// containerd's own monitor starts the container again; nerdctl tells it to and to stop.
func TestRestartPolicy(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t, "--restart", "always")
		first := n.pid(t, name)
		// Detached: the exec dies with its PID namespace, perhaps before it can exit by itself.
		n.ok(t, "exec", "-d", name, "kill", "-TERM", "1")
		harness.Gone(t, first)
		// For a moment after its end it is called running still.
		harness.Eventually(t, "restart of "+name, func() error {
			state := n.inspect(t, name, `printf "%s %d" .State.Status .State.Pid`)
			if !strings.HasPrefix(state, "running ") || state == fmt.Sprint("running ", first) {
				return fmt.Errorf("state and pid %s", state)
			}
			return nil
		})
		if got := n.inspect(t, name, ".RestartCount"); got != "1" {
			t.Errorf("restart count %s", got)
		}
		n.ok(t, "stop", name)
		n.becomes(t, name, ".State.Running", "false")
	})
}

func TestLogs(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, "echo one; echo two >&2; printf three; exit 2", "--net", "none")
		n.becomes(t, name, ".State.Status", "exited")
		harness.Eventually(t, "log", func() error {
			if got := n.try(t, "logs", name); got.stdout != "one\nthree" || got.stderr != "two\n" {
				return fmt.Errorf("got %s", got)
			}
			return nil
		})
		if got := n.ok(t, "logs", "--tail", "1", name); !strings.Contains(got, "three") || strings.Contains(got, "one") {
			t.Errorf("the tail is %q", got)
		}
		if got := n.ok(t, "logs", "-t", name); !strings.Contains(got, "Z one") {
			t.Errorf("no times in %q", got)
		}
	})
}

// Nothing of a long output is lost when its writer ends at once. The runc shim kills the logger
// program too early for that.
func TestLogsAreWhole(t *testing.T) {
	n := newCLI(t, harness.On(t, harness.Pvelxc))
	n.prepare(t)
	n.guard(t)
	// It ends: nerdctl's log driver stops then, whatever it has not read.
	name := n.detach(t, "seq 1 20000", "--net", "none")
	harness.Eventually(t, "log", func() error {
		lines := strings.Fields(n.ok(t, "logs", name))
		if len(lines) != 20000 || lines[19999] != "20000" {
			return fmt.Errorf("%d lines", len(lines))
		}
		return nil
	})
}

func TestLogsFollow(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, "echo ready; trap 'echo more' USR1; trap 'echo bye; exit 0' TERM; while :; do sleep 1000 & wait $!; done", "--net", "none")
		var out harness.Buffer
		follow := n.command("logs", "-f", name)
		follow.Stdout, follow.Stderr = &out, &out
		if err := follow.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- follow.Wait() }()
		see := func(text string) {
			t.Helper()
			harness.Eventually(t, "followed log", func() error {
				if got := out.String(); !strings.Contains(got, text) {
					return fmt.Errorf("no %q in %q", text, got)
				}
				return nil
			})
		}
		see("ready\n")
		n.ok(t, "kill", "-s", "USR1", name)
		see("more\n")
		n.ok(t, "stop", name)
		see("bye\n")
		if err := harness.Soon(t, "end of logs -f", ended); err != nil {
			t.Errorf("logs -f: %v: %s", err, out.String())
		}
	})
}
