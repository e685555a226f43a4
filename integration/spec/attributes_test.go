package spec

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// edit changes the spec.
func edit(change func(*specs.Spec)) harness.Option { return harness.Edit(change) }

func TestDomainname(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("example.test"), "cat /proc/sys/kernel/domainname", edit(func(s *specs.Spec) { s.Domainname = "example.test" }))
	})
}

func TestUmask(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		mask := uint32(0o137)
		prints(t, e, lines("0137", "-rw-r-----"), "umask; touch /f; ls -l /f | cut -c1-10", edit(func(s *specs.Spec) { s.Process.User.Umask = &mask }))
		prints(t, e, lines("0022"), "umask")
	})
}

func TestPersonality(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("i686"), "uname -m", edit(func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} }))
	})
}

func TestScheduler(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		// Fields 19 and 41 of /proc/PID/stat are the nice value and the policy: 3 is SCHED_BATCH.
		const script = "awk '{ print $19, $41 }' /proc/self/stat"
		prints(t, e, lines("7 3"), script, edit(func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}
		}))
		// Without it there is the policy of others, and whatever nice value the tests run with.
		prints(t, e, lines("0"), "awk '{ print $41 }' /proc/self/stat")
		c := e.Start(t, harness.Forever())
		got := c.Exec(t, []string{"awk", "{ print $41 }", "/proc/self/stat"}, func(p *specs.Process) {
			p.Scheduler = &specs.Scheduler{Policy: specs.SchedIdle}
		})
		if got.Stdout != "5\n" {
			t.Errorf("an exec has %q: %s", got.Stdout, got.Stderr)
		}
	})
}

func TestIOPriority(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("best-effort: prio 6"), "ionice -p $$", edit(func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}))
	})
}

func TestTimeNamespace(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("monotonic 86400 5", "boottime 1000000 0", "later"), strings.Join([]string{
			"awk '{ print $1, $2, $3 }' /proc/self/timens_offsets",
			"awk '{ print ($1 > 1000000) ? \"later\" : \"now\" }' /proc/uptime",
		}, "; "), harness.Spec(oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.TimeNamespace})), edit(func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 86400, Nanosecs: 5}, "boottime": {Secs: 1000000}}
		}))
	})
}

func TestMemoryPolicy(t *testing.T) {
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		t.Skipf("needs a kernel with NUMA: %v", err)
	}
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("bind:0"), "awk '$2 ~ /^bind/ { print $2; exit }' /proc/self/numa_maps", edit(func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
		}))
	})
}

func TestConsoleSize(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, harness.TTY(), edit(func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 37, Width: 101} }), harness.Shell("stty size"))
		if strings.TrimSpace(got.Stdout) != "37 101" {
			t.Errorf("the terminal's size is %q", got.Stdout)
		}
	})
}

func TestExecCPUAffinity(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		got := c.Exec(t, []string{"grep", "Cpus_allowed_list", "/proc/self/status"}, func(p *specs.Process) {
			p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
		})
		if got.Stdout != "Cpus_allowed_list:\t0\n" {
			t.Errorf("an exec has %q: %s", got.Stdout, got.Stderr)
		}
	})
}

// A network device of the host's becomes the container's, under another name and with its addresses.
func TestNetDevice(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		name := fmt.Sprintf("pvx%d", os.Getpid()%10000)
		ip := func(args ...string) error {
			out, err := exec.Command("ip", args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ip %q: %w: %s", args, err, out)
			}
			return nil
		}
		if err := ip("link", "add", name, "type", "veth", "peer", "name", name+"p"); err != nil {
			t.Skipf("needs pairs of network devices: %v", err)
		}
		t.Cleanup(func() { _ = ip("link", "del", name+"p") })
		if err := ip("addr", "add", "192.0.2.7/24", "dev", name); err != nil {
			t.Fatal(err)
		}
		prints(t, e, lines("192.0.2.7/24"), "ip addr show dev eth7 | awk '/inet / { print $2 }'", edit(func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: "eth7"}}
		}))
	})
}

// A later entry changes the filesystem that an earlier one has made.
func TestRemount(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("4096"), "df -k /scratch | awk 'NR == 2 { print $2 }'", harness.Mounts(
			specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
			specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"remount", "size=4m"}},
		))
	})
}
