package task

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// joined puts a container into another one's namespace.
func joined(kind specs.LinuxNamespaceType, pid uint32, name string) harness.Option {
	return harness.Spec(oci.WithLinuxNamespace(specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", pid, name)}))
}

// The containers of a pod share one shim, which goes when the last of them does.
func TestPodSharesShim(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		pod := e.NewID()
		pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever())
		app := e.Start(t, harness.Pod(pod, "container"), harness.Forever())
		other := e.Start(t, harness.Forever())
		if pause.ShimAddress(t) != app.ShimAddress(t) || pause.Shim(t) != app.Shim(t) {
			t.Errorf("the containers of a pod have shims %d and %d", pause.Shim(t), app.Shim(t))
		}
		if other.Shim(t) == pause.Shim(t) {
			t.Error("a container of no pod has the pod's shim")
		}
		if err := app.Remove(); err != nil {
			t.Fatal(err)
		}
		if got := pause.Sh(t, "echo well"); got != "well\n" {
			t.Errorf("exec in the sandbox after its container is gone: %q", got)
		}
		again := e.Start(t, harness.Pod(pod, "container"), harness.Forever())
		if again.Shim(t) != pause.Shim(t) {
			t.Error("a later container of the pod has another shim")
		}
	})
}

func TestPodNamespaces(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		pod := e.NewID()
		pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever(), harness.Spec(oci.WithHostname("the-pod")))
		pid := pause.Task.Pid()
		app := e.Start(t, harness.Pod(pod, "container"), harness.Forever(), joined(specs.NetworkNamespace, pid, "net"),
			joined(specs.IPCNamespace, pid, "ipc"), joined(specs.UTSNamespace, pid, "uts"))
		for _, ns := range []string{"net", "ipc", "uts"} {
			if a, b := namespace(t, pid, ns), namespace(t, app.Task.Pid(), ns); a != b {
				t.Errorf("%s namespaces %s and %s differ", ns, a, b)
			}
		}
		for _, ns := range []string{"mnt", "pid"} {
			if a, b := namespace(t, pid, ns), namespace(t, app.Task.Pid(), ns); a == b {
				t.Errorf("both are in %s namespace %s", ns, a)
			}
		}
		if got := strings.TrimSpace(app.Sh(t, "hostname")); got != "the-pod" {
			t.Errorf("host name %q in the joined namespace", got)
		}
	})
}

func namespace(t *testing.T, pid uint32, name string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// A pod with a shared PID namespace: a container's end kills what it left behind, and nothing else.
func TestPodSharedPIDNamespace(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		pod := e.NewID()
		pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever())
		app := e.Start(t, harness.Pod(pod, "container"), joined(specs.PIDNamespace, pause.Task.Pid(), "pid"),
			harness.Shell("sleep 1000 & sleep 1000 & echo ready; while :; do sleep 1; done"))
		app.Saw(t, "ready")
		if got := strings.TrimSpace(app.Sh(t, "cat /proc/1/comm")); got == "" {
			t.Error("the pod's first process is not visible")
		}
		members := app.Members(t)
		if len(members) < 3 {
			t.Fatalf("members %v", members)
		}
		if err := app.Task.Kill(e.Context, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if got := app.Wait(t).Status; got != 143 {
			t.Errorf("status %d, want 143", got)
		}
		harness.Gone(t, members...)
		if got := pause.Sh(t, "echo well"); got != "well\n" {
			t.Errorf("exec in the sandbox: %q", got)
		}
	})
}

// A create that takes its time does not keep the shim from answering for its other containers.
func TestStateDuringCreate(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		dir := t.TempDir()
		reached, release := filepath.Join(dir, "reached"), filepath.Join(dir, "release")
		for _, fifo := range []string{reached, release} {
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		pod := e.NewID()
		pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever())
		created := make(chan error, 1)
		go func() {
			_, err := e.TryCreate(t, harness.Pod(pod, "container"), harness.Forever(), harness.Edit(func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{harness.Hook(fmt.Sprintf("echo >%s; read line <%s", reached, release))}}
			}))
			created <- err
		}()
		blocked := make(chan error, 1)
		go func() {
			_, err := os.ReadFile(reached)
			blocked <- err
		}()
		select {
		case err := <-created:
			t.Fatalf("the create did not wait for its hook: %v", err)
		case err := <-blocked:
			if err != nil {
				t.Fatal(err)
			}
		}
		if status, err := pause.Task.Status(e.Context); err != nil || status.Status != containerd.Running {
			t.Errorf("state of the sandbox during a create: %s, %v", status.Status, err)
		}
		if got := pause.Sh(t, "echo well"); got != "well\n" {
			t.Errorf("exec in the sandbox during a create: %q", got)
		}
		if err := os.WriteFile(release, []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
		if err := harness.Soon(t, "the create", created); err != nil {
			t.Error(err)
		}
	})
}
