package spec

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestSysctl(t *testing.T) {
	set := func(key, value string) harness.Option {
		return harness.Edit(func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{key: value} })
	}
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines(12345), "cat /proc/sys/kernel/msgmax", set("kernel.msgmax", "12345"))
		prints(t, e, lines(1), "cat /proc/sys/net/ipv4/ip_forward", set("net.ipv4.ip_forward", "1"))
		refused(t, e, []string{"vm.swappiness"}, set("vm.swappiness", "10"))
		refused(t, e, []string{"net.ipv4.ip_forward"}, set("net.ipv4.ip_forward", "1"), harness.Spec(oci.WithHostNamespace(specs.NetworkNamespace)))
	})
}

func TestDevices(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("null ok", "zero ok", "fd ok", "ptmx ok", "full ok"), strings.Join([]string{
			"echo x >/dev/null && echo null ok",
			"test $(head -c 3 /dev/zero | wc -c) = 3 && echo zero ok",
			"test -L /dev/fd && test -L /dev/stdin && test -L /dev/stdout && test -L /dev/stderr && echo fd ok",
			"test -e /dev/ptmx && echo ptmx ok",
			"test -c /dev/full -a -c /dev/random -a -c /dev/urandom -a -c /dev/tty && echo full ok",
		}, "; "))
	})
}

// A device of the spec has its type, numbers, mode and owner; one that is not allowed cannot be opened.
func TestAddedDevice(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		mode, id, major, minor := os.FileMode(0o640), uint32(1000), int64(10), int64(229) // fuse
		device := func(allow bool) harness.Option {
			return harness.Edit(func(s *specs.Spec) {
				s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{
					Path: "/dev/mine", Type: "c", Major: major, Minor: minor, FileMode: &mode, UID: &id, GID: &id,
				})
				s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
					Allow: allow, Type: "c", Major: &major, Minor: &minor, Access: "rwm",
				})
			})
		}
		open := "; (exec 3</dev/mine) 2>/dev/null && echo opened || echo refused"
		prints(t, e, lines("crw-r----- 1000 1000 10, 229", "opened"), "ls -ln /dev/mine | awk '{ print $1, $3, $4, $5, $6 }'"+open, device(true))
		prints(t, e, lines("refused"), "true"+open, device(false))
	})
}

// A container makes no device nodes that its control group does not allow.
func TestMknod(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("refused"), "mknod /tmp/mem c 1 1 2>/dev/null && (exec 3</tmp/mem) 2>/dev/null && echo opened || echo refused")
	})
}

func TestNamespaces(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.Forever())
		for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
			if link(t, c, ns) == own(t, ns) {
				t.Errorf("the container is in the host's %s namespace", ns)
			}
		}
		hosts := e.Start(t, harness.Forever(), harness.Spec(oci.WithHostNamespace(specs.NetworkNamespace),
			oci.WithHostNamespace(specs.IPCNamespace), oci.WithHostNamespace(specs.PIDNamespace), oci.WithHostNamespace(specs.UTSNamespace)))
		for _, ns := range []string{"net", "ipc", "pid", "uts"} {
			if link(t, hosts, ns) != own(t, ns) {
				t.Errorf("the container is not in the host's %s namespace", ns)
			}
		}
	})
}

// A network namespace made by somebody else, as CNI does, is joined and outlives the container.
func TestJoinNetworkNamespace(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		if out, err := exec.Command("ip", "netns", "add", "mine").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("ip", "netns", "del", "mine").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			_ = unix.Unmount("/run/netns", unix.MNT_DETACH) // ip makes it a mount point
		})
		if out, err := exec.Command("ip", "-n", "mine", "link", "add", "eth7", "type", "veth", "peer", "name", "eth8").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		prints(t, e, lines("eth7"), "ls /sys/class/net | grep -x eth7",
			harness.Spec(oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/run/netns/mine"})))
		if _, err := os.Stat("/run/netns/mine"); err != nil {
			t.Error(err)
		}
	})
}

// A path that is a namespace of another kind, or none, is an error.
func TestJoinWrongNamespace(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		for _, path := range []string{"/proc/self/ns/uts", "/etc/passwd", "/no/such/namespace"} {
			t.Log(path)
			refused(t, e, []string{"namespace", path}, harness.Spec(oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})))
		}
	})
}

// Each kind of hook runs at its time, in its place, with the state on its standard input.
func TestHooks(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		dir := t.TempDir()
		record := func(name string) []specs.Hook {
			return []specs.Hook{harness.Hook("state=$(cat); echo " + name + " >>" + filepath.Join(dir, "order") + "; echo \"$state\" >" + filepath.Join(dir, name))}
		}
		c := e.Create(t, harness.Forever(), harness.Mounts(bind(dir, dir, "bind")), harness.Edit(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{
				Prestart:        record("prestart"),
				CreateRuntime:   record("createRuntime"),
				CreateContainer: record("createContainer"),
				StartContainer:  record("startContainer"),
				Poststart:       record("poststart"),
				Poststop:        record("poststop"),
			}
		}))
		expect := func(when, want string) {
			t.Helper()
			data, _ := os.ReadFile(filepath.Join(dir, "order"))
			got := strings.Fields(string(data))
			if e.Runtime == harness.Runc { // runs poststart at create, before startContainer
				got = slices.DeleteFunc(got, func(hook string) bool { return hook == "poststart" })
				want = strings.Replace(want, " poststart", "", 1)
			}
			if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
				t.Errorf("after %s (-want +got):\n%s", when, diff)
			}
		}
		expect("create", "prestart createRuntime createContainer")
		if err := c.Task.Start(e.Context); err != nil {
			t.Fatal(err)
		}
		if e.Runtime == harness.Runc { // does not wait for startContainer
			harness.Eventually(t, "the startContainer hook", func() error {
				_, err := os.Stat(filepath.Join(dir, "startContainer"))
				return err
			})
		}
		expect("start", "prestart createRuntime createContainer startContainer poststart")
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		expect("delete", "prestart createRuntime createContainer startContainer poststart poststop")
		states := map[string]string{"poststart": "running", "poststop": "stopped"}
		if e.Runtime == harness.Runc {
			delete(states, "poststart")
		}
		for name, status := range states {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !strings.Contains(string(data), `"status":"`+status+`"`) || !strings.Contains(string(data), c.ID()) {
				t.Errorf("the state of %s: %s (%v), want status %s and the id", name, data, err, status)
			}
		}
	})
}

func TestFailingHook(t *testing.T) {
	fail := []specs.Hook{harness.Hook("echo the hook is unhappy >&2; exit 3")}
	for name, hooks := range map[string]*specs.Hooks{
		"createRuntime":   {CreateRuntime: fail},
		"createContainer": {CreateContainer: fail},
		"startContainer":  {StartContainer: fail},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				if e.Runtime == harness.Runc && name == "startContainer" {
					t.Skip("runc's start does not wait for the startContainer hook")
				}
				refused(t, e, []string{"hook"}, harness.Edit(func(s *specs.Spec) { s.Hooks = hooks }))
			})
		})
	}
}

func link(t *testing.T, c *harness.Container, ns string) string {
	t.Helper()
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Task.Pid(), ns))
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func own(t *testing.T, ns string) string {
	t.Helper()
	target, err := os.Readlink("/proc/self/ns/" + ns)
	if err != nil {
		t.Fatal(err)
	}
	return target
}
