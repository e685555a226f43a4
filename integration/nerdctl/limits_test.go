package nerdctl

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// pid is the init process of a running container.
func (n *cli) pid(t testing.TB, name string) int {
	t.Helper()
	pid, err := strconv.Atoi(n.inspect(t, name, ".State.Pid"))
	if err != nil || pid == 0 {
		t.Fatalf("pid of %s: %d, %v", name, pid, err)
	}
	return pid
}

// cgroup is the content of a control group file of the container: v1 of the controller's hierarchy,
// or v2.
func (n *cli) cgroup(t testing.TB, name, controller, v1, v2 string) string {
	t.Helper()
	groups, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", n.pid(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	defer groups.Close()
	for scanner := bufio.NewScanner(groups); scanner.Scan(); {
		fields := strings.SplitN(scanner.Text(), ":", 3)
		var path string
		switch {
		case harness.Unified() && fields[0] == "0":
			path = filepath.Join("/sys/fs/cgroup", fields[2], v2)
		case !harness.Unified() && contains(fields[1], controller):
			path = filepath.Join("/sys/fs/cgroup", controller, fields[2], v1)
		default:
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	t.Fatalf("%s has no group of %s", name, controller)
	return ""
}

func contains(list, item string) bool { return strings.Contains(","+list+",", ","+item+",") }

func TestLimits(t *testing.T) {
	rows := []struct {
		name, controller, v1, v2, want1, want2 string
		flags                                  []string
	}{
		{"memory", "memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864", []string{"--memory", "64m"}},
		{"memory reservation", "memory", "memory.soft_limit_in_bytes", "memory.low", "33554432", "33554432", []string{"--memory-reservation", "32m"}},
		{"cpus", "cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000", []string{"--cpus", "0.5"}},
		{"cpu shares", "cpu", "cpu.shares", "cpu.weight", "512", "20", []string{"--cpu-shares", "512"}},
		{"cpuset", "cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0", []string{"--cpuset-cpus", "0"}},
		{"pids", "pids", "pids.max", "pids.max", "55", "55", []string{"--pids-limit", "55"}},
	}
	each(t, func(t *testing.T, n *cli) {
		var flags []string
		for _, row := range rows {
			flags = append(flags, row.flags...)
		}
		name := n.start(t, flags...)
		for _, row := range rows {
			want := row.want1
			if harness.Unified() {
				want = row.want2
			}
			if got := n.cgroup(t, name, row.controller, row.v1, row.v2); got != want {
				t.Errorf("%s: %s, want %s", row.name, got, want)
			}
		}
	})
}

// What needs more memory than it may have is killed, and nerdctl says so by the status.
func TestOutOfMemory(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		got := n.sh(t, []string{"--memory", "16m", "--memory-swap", "16m"}, "tail -c 100m /dev/zero")
		if got.status != 137 {
			t.Errorf("got %s, want status 137", got)
		}
	})
}

func TestUpdate(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t, "--memory", "64m", "--cpus", "0.5")
		n.ok(t, "update", "--memory", "96m", "--cpu-quota", "25000", "--pids-limit", "40", name)
		if got := n.cgroup(t, name, "memory", "memory.limit_in_bytes", "memory.max"); got != "100663296" {
			t.Errorf("memory limit %s after the update", got)
		}
		want := "25000"
		if harness.Unified() {
			want = "25000 100000"
		}
		if got := n.cgroup(t, name, "cpu", "cpu.cfs_quota_us", "cpu.max"); got != want {
			t.Errorf("cpu quota %s after the update, want %s", got, want)
		}
		if got := n.cgroup(t, name, "pids", "pids.max", "pids.max"); got != "40" {
			t.Errorf("pids limit %s after the update", got)
		}
	})
}

// Limits of the process and its kernel.
func TestProcessLimits(t *testing.T) {
	rows := []struct {
		name, script, want string
		flags              []string
	}{
		{"ulimit", "ulimit -Sn; ulimit -Hn; ulimit -c", "64\n128\n0\n", []string{"--ulimit", "nofile=64:128", "--ulimit", "core=0"}},
		{"sysctl", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni", "80\n512\n",
			[]string{"--sysctl", "net.ipv4.ip_unprivileged_port_start=80", "--sysctl", "kernel.shmmni=512"}},
		{"oom score", "cat /proc/self/oom_score_adj", "500\n", []string{"--oom-score-adj", "500"}},
		{"shm size", "df -k /dev/shm | tail -n 1 | awk '{ print $2 }'", "8192\n", []string{"--shm-size", "8m"}},
	}
	each(t, func(t *testing.T, n *cli) {
		for _, row := range rows {
			if got := n.sh(t, row.flags, row.script); got.status != 0 || got.stdout != row.want {
				t.Errorf("%s: got %s, want %q", row.name, got, row.want)
			}
		}
	})
}

func TestStats(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t, "--memory", "64m")
		fields := strings.Fields(n.ok(t, "stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", name))
		if len(fields) != 4 || fields[3] != "64MiB" {
			t.Fatalf("stats are %q", fields)
		}
		if pids, err := strconv.Atoi(fields[0]); err != nil || pids < 1 {
			t.Errorf("%s processes", fields[0])
		}
		if fields[1] == "0B" {
			t.Error("no memory in use")
		}
	})
}

func TestTop(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t)
		n.ok(t, "exec", "-d", name, "sleep", "4242")
		wanted := []string{fmt.Sprint(n.pid(t, name)), "trap 'exit 0' TERM", "sleep 4242"}
		// A process just started may be the runtime's own program still.
		harness.Eventually(t, "nerdctl top", func() error {
			lines := strings.Split(n.ok(t, "top", name, "-o", "pid,args"), "\n")
			if !strings.HasPrefix(strings.TrimSpace(lines[0]), "PID") {
				return fmt.Errorf("the heading is %q", lines[0])
			}
			text := strings.Join(lines[1:], "\n")
			for _, want := range wanted {
				if !strings.Contains(text, want) {
					return fmt.Errorf("no %q in %q", want, text)
				}
			}
			return nil
		})
	})
}
