package cri

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// namespaces changes the namespaces of a pod, and so those of its containers.
func namespaces(change func(*cri.NamespaceOption)) podOption {
	return func(c *cri.PodSandboxConfig) { change(c.Linux.SecurityContext.NamespaceOptions) }
}

// ns identifies a namespace of a process; pid 0 is the host's.
func ns(t *testing.T, pid int, name string) string {
	t.Helper()
	who := "self"
	if pid != 0 {
		who = fmt.Sprint(pid)
	}
	link, err := os.Readlink("/proc/" + who + "/ns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestNamespaces: which namespaces the containers of a pod share with each other and with the host.
func TestNamespaces(t *testing.T) {
	const private, shared, host = "private", "shared", "host"
	tests := map[string]struct {
		change func(*cri.NamespaceOption)
		want   map[string]string
	}{
		"plain": {
			func(*cri.NamespaceOption) {},
			map[string]string{"net": shared, "ipc": shared, "uts": shared, "pid": private, "mnt": private, "user": host},
		},
		"shared pid": {
			func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_POD },
			map[string]string{"net": shared, "ipc": shared, "uts": shared, "pid": shared, "mnt": private, "user": host},
		},
		"host network": {
			func(o *cri.NamespaceOption) { o.Network = cri.NamespaceMode_NODE },
			map[string]string{"net": host, "ipc": shared, "uts": host, "pid": private, "mnt": private, "user": host},
		},
		"host pid": {
			func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_NODE },
			map[string]string{"net": shared, "ipc": shared, "uts": shared, "pid": host, "mnt": private, "user": host},
		},
		"host ipc": {
			func(o *cri.NamespaceOption) { o.Ipc = cri.NamespaceMode_NODE },
			map[string]string{"net": shared, "ipc": host, "uts": shared, "pid": private, "mnt": private, "user": host},
		},
		"all of the host": {
			func(o *cri.NamespaceOption) {
				o.Network, o.Pid, o.Ipc = cri.NamespaceMode_NODE, cri.NamespaceMode_NODE, cri.NamespaceMode_NODE
			},
			map[string]string{"net": host, "ipc": host, "uts": host, "pid": host, "mnt": private, "user": host},
		},
		"user namespace": {
			withUserNamespace,
			map[string]string{"net": shared, "ipc": shared, "uts": shared, "pid": private, "mnt": private, "user": shared},
		},
		"user namespace, host network": {
			func(o *cri.NamespaceOption) { withUserNamespace(o); o.Network = cri.NamespaceMode_NODE },
			map[string]string{"net": host, "ipc": shared, "uts": host, "pid": private, "mnt": private, "user": shared},
		},
		"user namespace, shared pid": {
			func(o *cri.NamespaceOption) { withUserNamespace(o); o.Pid = cri.NamespaceMode_POD },
			map[string]string{"net": shared, "ipc": shared, "uts": shared, "pid": shared, "mnt": private, "user": shared},
		},
	}
	each(t, func(t *testing.T, e *env) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				p := e.pod(t, namespaces(test.change), func(c *cri.PodSandboxConfig) {
					if c.Linux.SecurityContext.NamespaceOptions.Network == cri.NamespaceMode_NODE {
						c.Hostname = "" // as kubelet does
					}
				})
				a, b := p.sleeper(t).pid(t), p.sleeper(t).pid(t)
				for kind, want := range test.want {
					got := private
					switch ns(t, a, kind) {
					case ns(t, 0, kind):
						got = host
					case ns(t, b, kind):
						got = shared
					}
					if got != want {
						t.Errorf("%s namespace is %s, want %s", kind, got, want)
					}
				}
			})
		}
	})
}

// userBase is the first id on the host of user namespaces.
const userBase = 200000

// ids maps a user namespace of 65536 ids.
func ids() []*cri.IDMapping {
	return []*cri.IDMapping{{HostId: userBase, ContainerId: 0, Length: 65536}}
}

// withUserNamespace is hostUsers: false.
func withUserNamespace(o *cri.NamespaceOption) {
	o.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids(), Gids: ids()}
}

// TestPod: what every pod has, on every containerd: a host name, an address, DNS, shared memory, logs, an
// end and an exit status.
func TestPod(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.sleeper(t)
		equal(t, "host name", c.exec(t, "hostname"), p.Config.Hostname)
		ip, err := p.IP(e.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(c.exec(t, "ip addr show dev eth0"), ip+"/16") || ip == "" {
			t.Errorf("eth0 does not have the pod's address %q", ip)
		}
		equal(t, "DNS", c.exec(t, "cat /etc/resolv.conf"), "search test.svc\nnameserver 10.88.0.1\noptions ndots:5")
		other := p.sleeper(t)
		c.exec(t, "echo hello > /dev/shm/note")
		equal(t, "shared memory", other.exec(t, "cat /dev/shm/note"), "hello")

		last := p.start(t, "echo out; echo err >&2; exit 7")
		if s := last.wait(t); s.ExitCode != 7 || s.Reason != "Error" {
			t.Errorf("exit status %d, reason %q", s.ExitCode, s.Reason)
		}
		log := last.log(t)
		equal(t, "stdout", log["stdout"], "out")
		equal(t, "stderr", log["stderr"], "err")

		s, err := p.Status(e.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Status.State != cri.PodSandboxState_SANDBOX_READY || s.Status.RuntimeHandler != e.handler {
			t.Errorf("the pod is %s, of handler %q", s.Status.State, s.Status.RuntimeHandler)
		}
	})
}

// TestPodSharesOneShim: whatever a pod has, it has one shim.
func TestPodSharesOneShim(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		before := shims() // those of the pods that were may still be ending
		p := e.pod(t)
		p.sleeper(t)
		p.sleeper(t)
		p.shim(t, before)
	})
}

// shim is the one shim of the pod, whatever its containers: those that were there before are others'.
func (p *pod) shim(t *testing.T, before []int) (pid int) {
	t.Helper()
	harness.Eventually(t, "one shim", func() error { // the program that containerd runs to start it ends a moment later
		own := slices.DeleteFunc(shims(), func(pid int) bool { return slices.Contains(before, pid) })
		if len(own) != 1 {
			return fmt.Errorf("the pod has the shims %v", own)
		}
		pid = own[0]
		return nil
	})
	return pid
}

// TestStop: a container has its time to end, and no more; the sandbox ends with what is left in it.
func TestStop(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		good := p.start(t, "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1000 & wait $!; done")
		bad := p.start(t, "trap '' TERM; echo up; sleep 1000")
		good.saw(t, "up")
		bad.saw(t, "up")
		for _, c := range []*container{good, bad} {
			if _, err := e.Runtime.StopContainer(e.ctx, &cri.StopContainerRequest{ContainerId: c.ID, Timeout: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if s := good.wait(t); s.ExitCode != 3 {
			t.Errorf("the one that listens exited with %d", s.ExitCode)
		}
		equal(t, "last words", good.log(t)["stdout"], "up\nbye")
		if s := bad.wait(t); s.ExitCode != 137 {
			t.Errorf("the one that does not listen exited with %d", s.ExitCode)
		}
		p.sleeper(t)
		if _, err := e.Runtime.StopPodSandbox(e.ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
		s, err := p.Status(e.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("the stopped pod is %s", s.Status.State)
		}
	})
}

// TestStopSignal: a container is stopped by the signal that the kubelet names for it, and else by its image's.
func TestStopSignal(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.start(t, "trap 'exit 5' USR1; trap 'exit 6' TERM; echo up; while :; do sleep 1000 & wait $!; done", func(c *cri.ContainerConfig) {
			c.StopSignal = cri.Signal_SIGNAL_SIGUSR1
		})
		c.saw(t, "up")
		if _, err := e.Runtime.StopContainer(e.ctx, &cri.StopContainerRequest{ContainerId: c.ID, Timeout: 60}); err != nil {
			t.Fatal(err)
		}
		if s := c.wait(t); s.ExitCode != 5 || s.StopSignal != cri.Signal_SIGNAL_SIGUSR1 {
			t.Errorf("exit status %d after %s", s.ExitCode, s.StopSignal)
		}
	})
}

// TestOOMKilled: a container that takes more than its memory is shown as killed for that.
func TestOOMKilled(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		hog := p.start(t, "head -c 200m /dev/zero | tail", func(c *cri.ContainerConfig) {
			c.Command = []string{"tail", "/dev/zero"}
			c.Linux.Resources.MemoryLimitInBytes = 32 << 20
		})
		if s := hog.wait(t); s.ExitCode != 137 || s.Reason != "OOMKilled" {
			t.Errorf("exit status %d, reason %q", s.ExitCode, s.Reason)
		}
	})
}

// TestUnknownCommand: what cannot be started is an error that names it, and leaves a container that has
// ended.
func TestUnknownCommand(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.create(t, "", func(c *cri.ContainerConfig) { c.Command = []string{"/no/such/program"} })
		mustFail(t, "start", c.Start(e.ctx), "/no/such/program")
		if s := c.wait(t); s.ExitCode == 0 || s.Reason != "StartError" {
			t.Errorf("exit status %d, reason %q", s.ExitCode, s.Reason)
		}
		mustFail(t, "exec", func() error { _, err := c.Exec(e.ctx, "true"); return err }())
	})
}
