package bootstrap

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
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pvelxc/pvelxc/shim/task"

	"github.com/pvelxc/pvelxc/shim/container"
)

const patience = 30 * time.Second

// TestMain makes the test binary the shim program where it is run like it.
// testEngine is the real engine without a configuration or a registrar.
var testEngine = Engine{Create: container.Create, Cleanup: container.Cleanup}

func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-namespace") {
		os.Exit(Main(testEngine, os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
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
	cmd := exec.Command(os.Args[0], append(args, action)...)
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
	p, err := dial(w.t.Context(), strings.TrimPrefix(address, scheme), "ns")
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
	if address := readAddress(filepath.Join(w.root, "c1")); address != result.Address {
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

// TestAnswers are the forms of an answer, byte for byte.
func TestAnswers(t *testing.T) {
	const address = "unix:///run/s/1"
	for _, test := range []struct {
		name    string
		modern  bool
		version int32
		want    string
	}{
		{"2.3 and newer", true, 3, "\x08\x03\x12\x0f" + address + "\x1a\x05ttrpc"},
		{"2.3 joining a shim of version 2", true, 2, "\x08\x02\x12\x0f" + address + "\x1a\x05ttrpc"},
		{"1.6 to 2.2", false, 3, address},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := answer(&out, test.modern, test.version, address); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestParameters: only what containerd 2.3 sends is taken for parameters.
func TestParameters(t *testing.T) {
	in := &invocation{id: "c1", namespace: "ns", address: "/flag.sock", publishBinary: "/flag/containerd"}
	t.Setenv(ttrpcEnv, "/env.ttrpc")
	legacy := parameters{socketDir: defaultSocketDir, ttrpc: "/env.ttrpc", grpc: "/flag.sock", binary: "/flag/containerd"}
	encode := func(m proto.Message) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	dir := "/short"
	for name, test := range map[string]struct {
		input []byte
		want  parameters
	}{
		"nothing":       {nil, legacy},
		"garbage":       {[]byte("\xff\xff"), legacy},
		"options":       {encode(&anypb.Any{TypeUrl: "c1", Value: []byte("other")}), legacy},
		"other's":       {encode(&api.BootstrapParams{InstanceID: "c2", Namespace: "ns"}), legacy},
		"sparse params": {encode(&api.BootstrapParams{InstanceID: "c1", Namespace: "ns"}), with(legacy, func(p *parameters) { p.modern = true })},
		"full params": {
			encode(&api.BootstrapParams{InstanceID: "c1", Namespace: "ns", LogLevel: api.LogLevelFromString("trace"), SocketDir: &dir,
				ContainerdTtrpcAddress: "/p.ttrpc", ContainerdGrpcAddress: "/p.sock", ContainerdBinary: "/p"}),
			parameters{modern: true, debug: true, socketDir: dir, ttrpc: "/p.ttrpc", grpc: "/p.sock", binary: "/p"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, in.parameters(test.input), cmp.AllowUnexported(parameters{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func with(p parameters, change func(*parameters)) parameters {
	change(&p)
	return p
}

func FuzzParameters(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x0a\x02c1\x12\x02ns"))
	in := &invocation{id: "c1", namespace: "ns"}
	f.Fuzz(func(t *testing.T, input []byte) {
		if p := in.parameters(input); p.socketDir == "" {
			t.Error("no socket directory")
		}
	})
}

// TestPod: containers of one sandbox share a shim, whichever annotation and form of start names them.
func TestPod(t *testing.T) {
	w := newWorld(t)
	sandbox, pid := w.start("pod", map[string]string{"io.kubernetes.cri.sandbox-id": "pod"})
	container, second := w.start("c1", map[string]string{"io.kubernetes.cri.sandbox-id": "pod"})
	if second != pid || container.Address != sandbox.Address || container.Version != 3 {
		t.Errorf("container: %v in shim %d; sandbox: %v in shim %d", container, second, sandbox, pid)
	}
	other, third := w.start("alone", map[string]string{"io.kubernetes.cri.sandbox-id": "another", "x": "pod"})
	if third == pid || other.Address == sandbox.Address {
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
	if _, err := os.Stat(strings.TrimPrefix(result.Address, scheme)); err != nil {
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
	socket, err := socketFor(w.sockets, "/c", "ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, addressFile), []byte(socket.address()), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket.path(), Net: "unix"})
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
	in := &invocation{id: "c1", namespace: "ns"}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := in.release(ctx, bundle); err != nil {
		t.Error(err)
	}
	group.Wait()
	w.noSockets()
}

// oldShim serves version 2 alone, or nothing but silence.
func oldShim(t *testing.T, path string, connect func() error) {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	server.RegisterService(task.ServiceV2, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Connect": func(context.Context, func(any) error) (any, error) {
			return &taskapi.ConnectResponse{ShimPid: 1}, connect()
		},
	}})
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// TestJoinTellsTheRunningShimsVersion: after an upgrade the shim of a pod may be older than this program.
func TestJoinTellsTheRunningShimsVersion(t *testing.T) {
	for _, test := range []struct {
		name    string
		connect error
		want    int32
		class   func(error) bool
	}{
		{name: "version 2", want: 2},
		{name: "on its way out", connect: errdefs.ErrUnavailable, want: 0},
		{name: "broken", connect: errdefs.ErrInternal, class: errdefs.IsInternal},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			socket, err := socketFor(w.sockets, "/c", "ns", "pod")
			if err != nil {
				t.Fatal(err)
			}
			oldShim(t, socket.path(), func() error {
				if test.connect != nil {
					return errgrpc.ToGRPC(test.connect)
				}
				return nil
			})
			in := &invocation{id: "c1", namespace: "ns"}
			version, err := in.join(t.Context(), socket)
			if version != test.want || (err == nil) != (test.class == nil) || err != nil && !test.class(err) {
				t.Errorf("version %d, error %v", version, err)
			}
		})
	}
}

func TestSocketFor(t *testing.T) {
	base, err := socketFor("/run/s", "/c", "ns", "pod")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[socket]bool{base: true}
	for _, other := range [][3]string{{"/d", "ns", "pod"}, {"/c", "other", "pod"}, {"/c", "ns", "pod2"}, {"/c", "ns/" + Runtime, "pod"}} {
		s, err := socketFor("/run/s", other[0], other[1], other[2])
		if err != nil || seen[s] {
			t.Errorf("%v: %s, %v", other, s, err)
		}
		seen[s] = true
	}
	if parsed, ok := parseAddress(base.address()); !ok || parsed != base {
		t.Errorf("address %q parses as %q", base.address(), parsed)
	}
	for _, dir := range []string{"relative", "/" + strings.Repeat("x", 50)} {
		if _, err := socketFor(dir, "/c", "ns", "pod"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("directory %s: %v", dir, err)
		}
	}
	if _, ok := parseAddress("unix://relative"); ok {
		t.Error("a relative path was taken")
	}
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
			if err == nil || !strings.Contains(out, test.want) || !strings.HasPrefix(out, Runtime+": ") {
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
	if info.Name != Runtime || info.Version.Version == "" || !proto.Equal(info.Options, given) {
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
	for flag, want := range map[string]string{"-v": "Go version", "-version": Runtime, "-h": "usage"} {
		var out, problems bytes.Buffer
		if status := Main(testEngine, []string{"shim", flag}, strings.NewReader(""), &out, &problems); status != 0 ||
			!strings.Contains(out.String()+problems.String(), want) {
			t.Errorf("%s: status %d, %s%s", flag, status, &out, &problems)
		}
	}
}
