package nerdctl

import (
	"strings"
	"testing"
)

func TestExec(t *testing.T) {
	rows := []struct {
		name, script, want string
		flags              []string
	}{
		{"plain", "echo $K; pwd; hostname", "inherited\n/tmp\nbox\n", nil},
		{"env", "echo $K$L", "changednew\n", []string{"-e", "K=changed", "--env", "L=new"}},
		{"workdir", "pwd", "/home\n", []string{"--workdir", "/home"}},
		{"user", "id -u; id -g; id -G", "1000\n1000\n1000 2000 2001\n", []string{"--user", "app"}},
		{"uid and gid", "id -u; id -g", "7\n8\n", []string{"--user", "7:8"}},
		{"capabilities", "grep CapEff /proc/self/status", "CapEff:\t0000000000000400\n", nil},
		{"privileged", "grep -c 'CapEff:.*0000000000000400' /proc/self/status; true", "0\n", []string{"--privileged"}},
		{"filter", "grep ^Seccomp: /proc/self/status", "Seccomp:\t2\n", nil},
		{"same namespaces", "for n in mnt pid net ipc uts; do test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n; done", "", nil},
	}
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t, "--hostname", "box", "-e", "K=inherited", "-w", "/tmp", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE")
		for _, row := range rows {
			args := append(append([]string{"exec"}, row.flags...), name, "sh", "-c", row.script)
			// Comparing the namespaces of PID 1 is within the rights of root alone, which it is here.
			if got := n.try(t, args...); got.status != 0 || got.stdout != row.want {
				t.Errorf("%s: got %s, want %q", row.name, got, row.want)
			}
		}
	})
}

// This nerdctl has status 1 for every failure of an exec, and says which it was.
func TestExecStatus(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t)
		if got := n.try(t, "exec", name, "sh", "-c", "echo out; echo err >&2; exit 9"); !strings.Contains(got.log, "exit code 9") || got.stdout != "out\n" || got.stderr != "err\n" {
			t.Errorf("got %s", got)
		}
		if got := n.try(t, "exec", name, "sh", "-c", "kill -TERM $$"); !strings.Contains(got.log, "exit code 143") {
			t.Errorf("killed by SIGTERM: %s", got)
		}
		if got := n.try(t, "exec", name, "no-such-command"); got.status == 0 || !strings.Contains(got.log, "no-such-command") {
			t.Errorf("got %s", got)
		}
		if got := n.feed(t, "typed\n", "exec", "-i", name, "cat"); got.status != 0 || got.stdout != "typed\n" {
			t.Errorf("stdin: got %s", got)
		}
	})
}

func TestExecDetached(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t)
		n.ok(t, "exec", "-d", name, "sh", "-c", "echo done >/tmp/flag")
		if got := n.ok(t, "exec", name, "sh", "-c", "while ! test -s /tmp/flag; do sleep 0.05; done; cat /tmp/flag"); got != "done" {
			t.Errorf("got %q", got)
		}
	})
}

// An exec is refused where there is nothing to join.
func TestExecInStopped(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t)
		n.ok(t, "stop", name)
		if got := n.try(t, "exec", name, "true"); got.status == 0 {
			t.Errorf("got %s", got)
		}
	})
}
