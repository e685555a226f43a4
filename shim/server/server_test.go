package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/shim/bootstrap"
	"github.com/pvelxc/pvelxc/shim/container"
	"github.com/pvelxc/pvelxc/shim/sandbox"
	"github.com/pvelxc/pvelxc/shim/sandbox/service"
	"github.com/pvelxc/pvelxc/shim/task"
)

const patience = 30 * time.Second

// testEngine is the real engine without a configuration or a registrar.
var testEngine = Engine{
	Create: container.Create, Cleanup: container.Cleanup,
	Sandbox: func(ctx context.Context, c sandbox.Config) (*sandbox.Sandbox, error) {
		c.Settings = container.Settings{Root: container.DefaultRoot}
		return sandbox.New(ctx, c)
	},
}

// front is the program that containerd runs; pvelxc-shim lies beside it.
var front string

// TestMain makes the test binary either program where it is run by that name.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case frontName:
		os.Exit(bootstrap.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
	case bootstrap.ShimProgram:
		os.Exit(Main(testEngine, os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "programs")
		if err == nil {
			defer os.RemoveAll(dir)
			front = filepath.Join(dir, frontName)
			err = install(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "install the programs:", err)
			return 1
		}
		return m.Run()
	}())
}

const frontName = "containerd-shim-pvelxc-v2"

// install puts the test binary into dir under the names of both programs.
func install(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	for _, name := range []string{frontName, bootstrap.ShimProgram} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// world is a containerd's surroundings: bundles, and a directory for sockets.
type world struct {
	t       *testing.T
	root    string
	sockets string
	shims   []int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// Socket paths are limited: t.TempDir is too long for a hash in it.
	sockets, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, root: t.TempDir(), sockets: sockets}
	t.Cleanup(func() {
		for _, pid := range w.shims {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = os.RemoveAll(sockets)
	})
	return w
}

func (w *world) bundle(id string, annotations map[string]string) string {
	w.t.Helper()
	dir := filepath.Join(w.root, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	spec, err := json.Marshal(map[string]any{"ociVersion": "1.2.0", "annotations": annotations})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), spec, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "log"), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		w.t.Fatal(err)
	}
	return dir
}

// modern are the parameters that containerd 2.3 and newer send.
func (w *world) modern(id string) []byte {
	w.t.Helper()
	params := &api.BootstrapParams{
		InstanceID: id, Namespace: "ns", SocketDir: &w.sockets,
		ContainerdGrpcAddress: "/run/test/containerd.sock", ContainerdTtrpcAddress: "/nonexistent/ttrpc",
	}
	if err := params.AddExtension(&options.Options{SystemdCgroup: true}); err != nil {
		w.t.Fatal(err)
	}
	data, err := proto.Marshal(params)
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// run runs the program as containerd does: both outputs together.
func (w *world) run(bundle, id, action string, stdin []byte, flags ...string) (string, error) {
	w.t.Helper()
	args := append([]string{"-namespace", "ns", "-address", "/run/test/containerd.sock", "-publish-binary", "/nonexistent", "-id", id}, flags...)
	cmd := exec.Command(front, append(args, action)...)
	cmd.Dir = bundle
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS=/nonexistent/ttrpc", "NOTIFY_SOCKET=/x")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// start runs start the modern way and returns the result and the shim's pid.
func (w *world) start(id string, annotations map[string]string) (*api.BootstrapResult, int) {
	w.t.Helper()
	out, err := w.run(w.bundle(id, annotations), id, "start", w.modern(id))
	if err != nil {
		w.t.Fatalf("start: %v: %s", err, out)
	}
	result := new(api.BootstrapResult)
	if err := proto.Unmarshal([]byte(out), result); err != nil {
		w.t.Fatalf("answer %q: %v", out, err)
	}
	pid := w.connect(result.Address, task.ServiceV3)
	w.shims = append(w.shims, pid)
	return result, pid
}

func (w *world) client(address string) *peer {
	w.t.Helper()
	p, err := dial(w.t.Context(), strings.TrimPrefix(address, "unix://"), "ns")
	if err != nil || p == nil {
		w.t.Fatalf("dial %s: %v", address, err)
	}
	w.t.Cleanup(p.close)
	return p
}

func (w *world) connect(address, service string) (pid int) {
	w.t.Helper()
	response := new(taskapi.ConnectResponse)
	if err := w.client(address).call(w.t.Context(), service, "Connect", &taskapi.ConnectRequest{ID: "x"}, response); err != nil {
		w.t.Fatal(err)
	}
	return int(response.ShimPid)
}

func (w *world) shutdown(address string) {
	w.t.Helper()
	if err := w.client(address).call(w.t.Context(), task.ServiceV2, "Shutdown", &taskapi.ShutdownRequest{}, &empty{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) eventually(what string, condition func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("it never came true that %s", what)
		}
	}
}

func gone(pid int) func() bool {
	return func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ") // its parent, init or us, may be slow to reap
	}
}

func (w *world) noSockets() {
	w.t.Helper()
	entries, err := os.ReadDir(w.sockets)
	if err != nil || len(entries) > 0 {
		w.t.Errorf("left in the socket directory: %v, %v", entries, err)
	}
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	result, pid := w.start("c1", nil)
	if diff := cmp.Diff(fmt.Sprintf("3 ttrpc unix://%s/", w.sockets), fmt.Sprintf("%d %s %.*s", result.Version, result.Protocol,
		len("unix://"+w.sockets+"/"), result.Address)); diff != "" {
		t.Error(diff)
	}
	if second := w.connect(result.Address, task.ServiceV2); second != pid {
		t.Errorf("version 2 is served by %d, version 3 by %d", second, pid)
	}
	if address := bootstrap.ReadAddress(filepath.Join(w.root, "c1")); address != result.Address {
		t.Errorf("the bundle says %q", address)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	for variable, want := range map[string]bool{"NOTIFY_SOCKET=/x": false, "TTRPC_ADDRESS=/nonexistent/ttrpc": true, "GOMAXPROCS=2": true} {
		if strings.Contains(string(environ), variable+"\x00") != want {
			t.Errorf("%s in the shim's environment: want %v", variable, want)
		}
	}
	if session, err := unix.Getsid(pid); err != nil || session != pid {
		t.Errorf("the shim is in session %d, %v", session, err)
	}
	ours, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		t.Fatal(err)
	}
	parent, _ := strconv.Atoi(strings.TrimSpace(string(ours)))
	if child, _ := strconv.Atoi(strings.TrimSpace(string(theirs))); child != min(parent+1, 1000) {
		t.Errorf("OOM score %d under containerd's %d", child, parent)
	}
	w.shutdown(result.Address)
	w.eventually("the shim ends", gone(pid))
	w.noSockets()
}

// TestPod: containers of one sandbox share a shim, whichever annotation and form of start names them.
func TestPod(t *testing.T) {
	w := newWorld(t)
	first, pid := w.start("pod", map[string]string{"io.kubernetes.cri.sandbox-id": "pod"})
	container, second := w.start("c1", map[string]string{"io.kubernetes.cri.sandbox-id": "pod"})
	if second != pid || container.Address != first.Address || container.Version != 3 {
		t.Errorf("container: %v in shim %d; sandbox: %v in shim %d", container, second, first, pid)
	}
	other, third := w.start("alone", map[string]string{"io.kubernetes.cri.sandbox-id": "another", "x": "pod"})
	if third == pid || other.Address == first.Address {
		t.Error("another pod got the same shim")
	}
	// `delete` for a container of the pod ends the shim only when it is empty, which it is here.
	if out, err := w.run(filepath.Join(w.root, "c1"), "c1", "delete", nil, "-bundle", filepath.Join(w.root, "c1")); err != nil {
		t.Fatalf("delete: %v: %s", err, out)
	}
	w.eventually("an empty shim ends with delete", gone(pid))
	w.shutdown(other.Address)
	w.eventually("the other shim ends", gone(third))
	w.noSockets()
}

// hostPod is a runtime.v1.PodSandboxConfig with the modes NODE of linux.security_context.
var hostPod = &anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: []byte{0x42, 10, 0x12, 8, 0x0a, 6, 0x08, 2, 0x10, 2, 0x18, 2}}

// TestSandbox: a shim that holds a sandbox stays without containers, and ends with the sandbox: by containerd's request, and by
// delete, which containerd runs when it does not know the shim any more.
func TestSandbox(t *testing.T) {
	w := newWorld(t)
	start := func() (address string, pid int) {
		t.Helper()
		bundle := w.bundle("sb", nil)
		if err := os.Remove(filepath.Join(bundle, "config.json")); err != nil {
			t.Fatal(err)
		}
		out, err := w.run(bundle, "sb", "start", w.modern("sb"))
		result := new(api.BootstrapResult)
		if err != nil || proto.Unmarshal([]byte(out), result) != nil {
			t.Fatalf("start: %v: %q", err, out)
		}
		pid = w.connect(result.Address, task.ServiceV3)
		w.shims = append(w.shims, pid)
		request := &sandboxapi.CreateSandboxRequest{SandboxID: "sb", BundlePath: bundle, Options: hostPod}
		if err := w.client(result.Address).call(t.Context(), service.Name, "CreateSandbox", request, &sandboxapi.CreateSandboxResponse{}); err != nil {
			t.Fatal(err)
		}
		w.shutdown(result.Address) // as after the deletion of its last container
		if pid != w.connect(result.Address, task.ServiceV3) {
			t.Error("the shim went without being asked to")
		}
		return result.Address, pid
	}
	address, pid := start()
	if err := w.client(address).call(t.Context(), service.Name, "ShutdownSandbox", &sandboxapi.ShutdownSandboxRequest{SandboxID: "sb"}, &empty{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the shim ends", gone(pid))
	_, pid = start()
	if out, err := w.run(filepath.Join(w.root, "sb"), "sb", "delete", nil); err != nil {
		t.Fatalf("delete: %v: %s", err, out)
	}
	w.eventually("the shim ends with delete", gone(pid))
	w.noSockets()
}

// TestConcurrentStarts: all containers of a pod started at once get one shim.
func TestConcurrentStarts(t *testing.T) {
	w := newWorld(t)
	const count = 8
	addresses := make([]string, count)
	var group sync.WaitGroup
	for i := range count {
		id := fmt.Sprint("c", i)
		bundle := w.bundle(id, map[string]string{"io.containerd.runc.v2.group": "g"})
		group.Go(func() {
			out, err := w.run(bundle, id, "start", w.modern(id))
			result := new(api.BootstrapResult)
			if err != nil || proto.Unmarshal([]byte(out), result) != nil {
				t.Errorf("start: %v: %q", err, out)
				return
			}
			addresses[i] = result.Address
		})
	}
	group.Wait()
	if distinct := slices.Compact(slices.Sorted(slices.Values(addresses))); len(distinct) != 1 {
		t.Fatalf("addresses %q", distinct)
	}
	pid := w.connect(addresses[0], task.ServiceV3)
	w.shutdown(addresses[0])
	w.eventually("the shim ends", gone(pid))
	w.noSockets()
}

// TestShimDies: its socket stays behind. delete removes it; start replaces it.
func TestShimDies(t *testing.T) {
	w := newWorld(t)
	_, pid := w.start("c1", nil)
	_ = unix.Kill(pid, unix.SIGKILL)
	w.eventually("the shim is dead", gone(pid))
	result, second := w.start("c1", nil)
	_ = unix.Kill(second, unix.SIGKILL)
	w.eventually("the second shim is dead", gone(second))
	if _, err := os.Stat(strings.TrimPrefix(result.Address, "unix://")); err != nil {
		t.Fatalf("test is void: no socket is left: %v", err)
	}
	out, err := w.run(filepath.Join(w.root, "c1"), "c1", "delete", nil)
	if err != nil {
		t.Fatalf("delete: %v: %s", err, out)
	}
	response := new(taskapi.DeleteResponse)
	if err := proto.Unmarshal([]byte(out), response); err != nil || response.ExitStatus != 137 || response.ExitedAt.AsTime().Year() < 2000 {
		t.Errorf("answer %v, %v", response, err)
	}
	w.noSockets()
}

// TestDyingShim: a process that is being killed still takes connections, and closes them without an answer.
func TestDyingShim(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle("c1", nil)
	socket := bootstrap.Socket(filepath.Join(w.sockets, "c1"))
	if err := os.WriteFile(filepath.Join(bundle, "address"), []byte(socket.Address()), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket.Path(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	var group sync.WaitGroup
	group.Go(func() {
		defer listener.Close()
		for range 3 {
			conn, err := listener.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
		}
	})
	c := &command{Invocation: &bootstrap.Invocation{ID: "c1", Namespace: "ns"}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.release(ctx, bundle); err != nil {
		t.Error(err)
	}
	group.Wait()
	w.noSockets()
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle("c1", nil)
	for name, test := range map[string]struct{ id, action, want string }{
		"unknown command": {"c1", "run", "unknown command"},
		"no command":      {"c1", "", "unknown command"},
		"no id":           {"", "start", "-id is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := w.run(bundle, test.id, test.action, nil)
			if err == nil || !strings.Contains(out, test.want) || !strings.HasPrefix(out, bootstrap.Runtime+": ") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := w.run(bundle, "c1", "start", w.modern("c1")); err == nil || !strings.Contains(out, "read spec") {
		t.Errorf("bad spec: %v: %s", err, out)
	}
	w.noSockets()
}

func TestInfo(t *testing.T) {
	given, err := anypb.New(&options.Options{SystemdCgroup: true})
	if err != nil {
		t.Fatal(err)
	}
	input, err := proto.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	var out, problems bytes.Buffer
	if status := Main(testEngine, []string{"shim", "-info"}, bytes.NewReader(input), &out, &problems); status != 0 || problems.Len() > 0 {
		t.Fatalf("status %d: %s", status, &problems)
	}
	info := new(types.RuntimeInfo)
	if err := proto.Unmarshal(out.Bytes(), info); err != nil {
		t.Fatal(err)
	}
	if info.Name != bootstrap.Runtime || info.Version.Version == "" || !proto.Equal(info.Options, given) {
		t.Errorf("info %v", info)
	}
	var got features.Features
	if err := json.Unmarshal(info.Features.Value, &got); err != nil {
		t.Fatal(err)
	}
	if idmap := got.Linux.MountExtensions.IDMap.Enabled; idmap == nil || !*idmap {
		t.Error("no idmapped mounts: CRI will refuse user namespaces")
	}
	for _, option := range []string{"ro", "rro", "rbind", "ridmap", "rprivate", "rnoatime", "nosymfollow"} {
		if !slices.Contains(got.MountOptions, option) {
			t.Errorf("mount option %s is missing", option)
		}
	}
	if status := Main(testEngine, []string{"shim", "-info"}, strings.NewReader("\xff"), &out, &problems); status == 0 {
		t.Error("bad options were taken")
	}
}

func TestVersionAndHelp(t *testing.T) {
	for flag, want := range map[string]string{"-v": "Go version", "-version": bootstrap.Runtime, "-h": "usage"} {
		var out, problems bytes.Buffer
		if status := Main(testEngine, []string{"shim", flag}, strings.NewReader(""), &out, &problems); status != 0 ||
			!strings.Contains(out.String()+problems.String(), want) {
			t.Errorf("%s: status %d, %s%s", flag, status, &out, &problems)
		}
	}
}
