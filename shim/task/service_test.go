package task

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	api "github.com/containerd/containerd/api/runtime/task/v2"
	v3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/pvelxc/pvelxc/shim/container"
)

const patience = 30 * time.Second

// fake is a container that notes what it is told.
type fake struct {
	config container.Config

	mu    sync.Mutex
	calls []string
	fail  error         // answer to every call
	hold  chan struct{} // Pause waits for it
	state container.State
	exit  chan struct{}
	stats any
}

func (f *fake) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.fail
}

func (f *fake) Pid() int { return 100 }

func (f *fake) Process(execID string) (Process, error) {
	if execID == "missing" {
		return nil, fmt.Errorf("exec %s: %w", execID, errdefs.ErrNotFound)
	}
	return &fakeProcess{f, execID}, nil
}

func (f *fake) AddExec(_ context.Context, c container.ExecConfig) error {
	return f.note("exec %s %v %+v", c.ID, c.Spec.Args, c.Stdio)
}

func (f *fake) Start(_ context.Context, execID string) (int, error) {
	return 101, f.note("start %q", execID)
}

func (f *fake) Kill(_ context.Context, execID string, s syscall.Signal, all bool) error {
	return f.note("kill %q %d %v", execID, s, all)
}

func (f *fake) Delete(_ context.Context, execID string) (container.Exit, error) {
	return container.Exit{Pid: 102, Status: 3, At: time.Unix(7, 0)}, f.note("delete %q", execID)
}

func (f *fake) Pause(context.Context) error {
	if f.hold != nil {
		<-f.hold
	}
	return f.note("pause")
}

func (f *fake) Resume(context.Context) error { return f.note("resume") }

func (f *fake) Update(_ context.Context, r *specs.LinuxResources) error {
	return f.note("update %d", *r.Memory.Limit)
}

func (f *fake) Stats(context.Context) (any, error) { return f.stats, f.note("stats") }

func (f *fake) Pids(context.Context) ([]container.ProcessInfo, error) {
	return []container.ProcessInfo{{Pid: 100}, {Pid: 101, ExecID: "e1"}}, f.note("pids")
}

func (f *fake) Checkpoint(_ context.Context, path string, _ *anypb.Any) error {
	return errors.Join(f.note("checkpoint %s", path), errdefs.ErrNotImplemented)
}

type fakeProcess struct {
	*fake
	execID string
}

func (p *fakeProcess) State() container.State {
	s := p.state
	s.ExecID = p.execID
	return s
}

func (p *fakeProcess) Wait(ctx context.Context) (container.Exit, error) {
	select {
	case <-p.exit:
		return container.Exit{Pid: 100, Status: 4, At: time.Unix(8, 0)}, nil
	case <-ctx.Done():
		return container.Exit{}, ctx.Err()
	}
}

func (p *fakeProcess) Resize(_ context.Context, width, height uint16) error {
	return p.note("resize %q %dx%d", p.execID, width, height)
}

func (p *fakeProcess) CloseStdin(context.Context) error { return p.note("close stdin %q", p.execID) }

// shim is a served Service.
type shim struct {
	service  *Service
	t        *testing.T
	client   *ttrpc.Client
	fake     *fake
	creating func() error
	ended    chan struct{}
}

func serve(t *testing.T) *shim {
	t.Helper()
	s := &shim{t: t, ended: make(chan struct{}, 8)}
	s.fake = &fake{exit: make(chan struct{}), stats: &stats.Metrics{Pids: &stats.PidsStat{Current: 5}}}
	s.service = New(Config{
		Namespace: "ns",
		Events:    func(any) {},
		Shutdown:  func() { s.ended <- struct{}{} },
		Create: func(_ context.Context, c container.Config) (Container, error) {
			if s.creating != nil {
				if err := s.creating(); err != nil {
					return nil, err
				}
			}
			s.fake.config = c
			return s.fake, nil
		},
	})
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	s.service.Register(server)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), listener) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s.client = ttrpc.NewClient(conn)
	t.Cleanup(func() {
		_ = s.client.Close()
		_ = server.Close()
	})
	return s
}

func call[Response any](s *shim, version, method string, request proto.Message) (*Response, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{namespaceHeader: {"ns"}})
	response := new(Response)
	if err := s.client.Call(ctx, version, method, request, response); err != nil {
		return nil, errgrpc.ToNative(err)
	}
	return response, nil
}

func must[Response any](s *shim, method string, request proto.Message) *Response {
	s.t.Helper()
	response, err := call[Response](s, ServiceV3, method, request)
	if err != nil {
		s.t.Fatalf("%s: %v", method, err)
	}
	return response
}

func (s *shim) create(id string) {
	s.t.Helper()
	must[api.CreateTaskResponse](s, "Create", &api.CreateTaskRequest{ID: id})
}

func (s *shim) calls(want ...string) {
	s.t.Helper()
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	if diff := cmp.Diff(want, s.fake.calls); diff != "" {
		s.t.Error(diff)
	}
	s.fake.calls = nil
}

type emptyMessage = emptypb.Empty

// TestSameMessages is what the two versions share a set of methods on: their messages are the same but for the package's name.
func TestSameMessages(t *testing.T) {
	second, third := api.File_runtime_task_v2_shim_proto.Messages(), v3.File_runtime_task_v3_shim_proto.Messages()
	if second.Len() == 0 || second.Len() != third.Len() {
		t.Fatalf("%d messages in version 2, %d in version 3", second.Len(), third.Len())
	}
	for i := range second.Len() {
		if diff := cmp.Diff(fieldsOf(second.Get(i)), fieldsOf(third.Get(i))); diff != "" {
			t.Errorf("message %s:\n%s", second.Get(i).Name(), diff)
		}
	}
	methods := func(file protoreflect.FileDescriptor) (names []string) {
		for i := range file.Services().Get(0).Methods().Len() {
			m := file.Services().Get(0).Methods().Get(i)
			names = append(names, fmt.Sprintf("%s(%s) %s", m.Name(), m.Input().Name(), m.Output().Name()))
		}
		return names
	}
	if diff := cmp.Diff(methods(api.File_runtime_task_v2_shim_proto), methods(v3.File_runtime_task_v3_shim_proto)); diff != "" {
		t.Error(diff)
	}
}

func fieldsOf(m protoreflect.MessageDescriptor) (fields []string) {
	fields = append(fields, string(m.Name()))
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		text := fmt.Sprintf("%d %s %s %s", f.Number(), f.Name(), f.Kind(), f.Cardinality())
		if f.Message() != nil {
			text += " " + string(f.Message().Name())
		}
		fields = append(fields, text)
	}
	return fields
}

// TestMethods goes through the service over both names, with the messages a client of version 3 uses.
func TestMethods(t *testing.T) {
	for _, version := range []string{ServiceV2, ServiceV3} {
		t.Run(version, func(t *testing.T) { testMethods(t, version) })
	}
}

func testMethods(t *testing.T, version string) {
	s := serve(t)
	do := func(method string, request proto.Message) {
		t.Helper()
		if _, err := call[emptyMessage](s, version, method, request); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	created, err := call[v3.CreateTaskResponse](s, version, "Create", &v3.CreateTaskRequest{
		ID: "c1", Bundle: "/b", Stdin: "i", Stdout: "o", Stderr: "e", Terminal: true, Checkpoint: "/cp",
		Rootfs: []*types.Mount{{Type: "overlay"}}, Options: &anypb.Any{TypeUrl: "u"},
	})
	if err != nil || created.Pid != 100 {
		t.Fatalf("create: %v, %v", created, err)
	}
	config := s.fake.config
	config.Events = nil
	if diff := cmp.Diff(container.Config{
		ID: "c1", Namespace: "ns", Bundle: "/b", Checkpoint: "/cp", Options: &anypb.Any{TypeUrl: "u"},
		Stdio:  container.Stdio{Stdin: "i", Stdout: "o", Stderr: "e", Terminal: true},
		Rootfs: []*types.Mount{{Type: "overlay"}},
	}, config, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	process := &anypb.Any{TypeUrl: specPrefix + "1/Process", Value: []byte(`{"args":["ls"]}`)}
	do("Exec", &v3.ExecProcessRequest{ID: "c1", ExecID: "e1", Stdout: "o", Spec: process})
	started, err := call[v3.StartResponse](s, version, "Start", &v3.StartRequest{ID: "c1", ExecID: "e1"})
	if err != nil || started.Pid != 101 {
		t.Errorf("start: %v, %v", started, err)
	}
	do("Kill", &v3.KillRequest{ID: "c1", ExecID: "e1", Signal: 15})
	do("Kill", &v3.KillRequest{ID: "c1", Signal: 9, All: true})
	do("Pause", &v3.PauseRequest{ID: "c1"})
	do("Resume", &v3.ResumeRequest{ID: "c1"})
	do("ResizePty", &v3.ResizePtyRequest{ID: "c1", Width: 80, Height: 25})
	do("CloseIO", &v3.CloseIORequest{ID: "c1", ExecID: "e1", Stdin: true})
	do("CloseIO", &v3.CloseIORequest{ID: "c1"})
	do("Update", &v3.UpdateTaskRequest{ID: "c1", Resources: &anypb.Any{
		TypeUrl: specPrefix + "1/LinuxResources", Value: []byte(`{"memory":{"limit":1048576}}`),
	}})
	deleted, err := call[v3.DeleteResponse](s, version, "Delete", &v3.DeleteRequest{ID: "c1", ExecID: "e1"})
	if err != nil || deleted.Pid != 102 || deleted.ExitStatus != 3 || deleted.ExitedAt.Seconds != 7 {
		t.Errorf("delete: %v, %v", deleted, err)
	}
	s.calls(`exec e1 [ls] {Stdin: Stdout:o Stderr: Terminal:false}`, `start "e1"`, `kill "e1" 15 false`, `kill "" 9 true`, "pause", "resume",
		`resize "" 80x25`, `close stdin "e1"`, "update 1048576", `delete "e1"`)

	pids, err := call[v3.PidsResponse](s, version, "Pids", &v3.PidsRequest{ID: "c1"})
	if err != nil || len(pids.Processes) != 2 || pids.Processes[0].Info != nil {
		t.Fatalf("pids: %v, %v", pids, err)
	}
	var details options.ProcessDetails
	if err := typeurl.UnmarshalTo(pids.Processes[1].Info, &details); err != nil || details.ExecID != "e1" {
		t.Errorf("details %v, %v", &details, err)
	}
	metrics, err := call[v3.StatsResponse](s, version, "Stats", &v3.StatsRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	if metrics.Stats.TypeUrl != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("metrics of type %s", metrics.Stats.TypeUrl)
	}
	connected, err := call[v3.ConnectResponse](s, version, "Connect", &v3.ConnectRequest{ID: "c1"})
	if err != nil || int(connected.ShimPid) != os.Getpid() || connected.TaskPid != 100 {
		t.Errorf("connect: %v, %v", connected, err)
	}
}

func TestState(t *testing.T) {
	s := serve(t)
	s.create("c1")
	at := time.Unix(9, 5)
	for status, want := range map[container.Status]task.Status{
		container.StatusUnknown: task.Status_UNKNOWN, container.StatusCreated: task.Status_CREATED, container.StatusRunning: task.Status_RUNNING,
		container.StatusStopped: task.Status_STOPPED, container.StatusPaused: task.Status_PAUSED,
	} {
		s.fake.state = container.State{
			ID: "c1", Bundle: "/b", Pid: 100, Status: status, Stdio: container.Stdio{Stdout: "o", Terminal: true},
			Exit: container.Exit{Status: 2, At: at},
		}
		got := must[api.StateResponse](s, "State", &api.StateRequest{ID: "c1", ExecID: "e1"})
		if diff := cmp.Diff(&api.StateResponse{
			ID: "e1", ExecID: "e1", Bundle: "/b", Pid: 100, Status: want, Stdout: "o", Terminal: true, ExitStatus: 2, ExitedAt: timestamp(at),
		}, got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
}

// TestStateWhileBusy: State has two seconds, whatever else goes on, in the same container or in another's creation.
func TestStateWhileBusy(t *testing.T) {
	s := serve(t)
	s.create("c1")
	s.fake.hold = make(chan struct{})
	entered, release := make(chan struct{}), make(chan struct{})
	s.creating = func() error {
		close(entered)
		<-release
		return nil
	}
	var group sync.WaitGroup
	group.Go(func() { _, _ = call[emptyMessage](s, ServiceV3, "Pause", &api.PauseRequest{ID: "c1"}) })
	group.Go(func() { _, _ = call[api.CreateTaskResponse](s, ServiceV3, "Create", &api.CreateTaskRequest{ID: "c2"}) })
	<-entered
	must[api.StateResponse](s, "State", &api.StateRequest{ID: "c1"})
	if _, err := call[api.StateResponse](s, ServiceV3, "State", &api.StateRequest{ID: "c2"}); !errdefs.IsNotFound(err) {
		t.Errorf("state of a container being created: %v", err)
	}
	if _, err := call[api.CreateTaskResponse](s, ServiceV3, "Create", &api.CreateTaskRequest{ID: "c2"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second creation: %v", err)
	}
	must[emptyMessage](s, "Shutdown", &api.ShutdownRequest{})
	close(release)
	close(s.fake.hold)
	group.Wait()
	if len(s.ended) > 0 {
		t.Error("the shim ended while a container was being created")
	}
}

func TestWait(t *testing.T) {
	s := serve(t)
	s.create("c1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := s.client.Call(ctx, ServiceV3, "Wait", &api.WaitRequest{ID: "c1"}, &api.WaitResponse{})
	if !errors.Is(err, context.DeadlineExceeded) && !errdefs.IsDeadlineExceeded(errgrpc.ToNative(err)) {
		t.Errorf("wait for a running process: %v", err)
	}
	close(s.fake.exit)
	for range 2 {
		if exit := must[api.WaitResponse](s, "Wait", &api.WaitRequest{ID: "c1"}); exit.ExitStatus != 4 || exit.ExitedAt.Seconds != 8 {
			t.Errorf("exit %v", exit)
		}
	}
}

func TestErrors(t *testing.T) {
	s := serve(t)
	s.creating = func() error { return fmt.Errorf("no room: %w", errdefs.ErrResourceExhausted) }
	if _, err := call[api.CreateTaskResponse](s, ServiceV3, "Create", &api.CreateTaskRequest{ID: "c1"}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("failed creation: %v", err)
	}
	s.creating = nil
	s.create("c1") // the failed one has left its id free
	for name, request := range map[string]proto.Message{
		"State": &api.StateRequest{ID: "x"}, "Start": &api.StartRequest{ID: "x"}, "Delete": &api.DeleteRequest{ID: "x"},
		"Pids": &api.PidsRequest{ID: "x"}, "Pause": &api.PauseRequest{ID: "x"}, "Resume": &api.ResumeRequest{ID: "x"},
		"Checkpoint": &api.CheckpointTaskRequest{ID: "x"}, "Kill": &api.KillRequest{ID: "x"}, "Exec": &api.ExecProcessRequest{ID: "x"},
		"ResizePty": &api.ResizePtyRequest{ID: "x"}, "CloseIO": &api.CloseIORequest{ID: "x"}, "Update": &api.UpdateTaskRequest{ID: "x"},
		"Wait": &api.WaitRequest{ID: "x"}, "Stats": &api.StatsRequest{ID: "x"},
	} {
		if _, err := call[emptyMessage](s, ServiceV3, name, request); !errdefs.IsNotFound(err) {
			t.Errorf("%s of an unknown container: %v", name, err)
		}
	}
	resources := &anypb.Any{TypeUrl: specPrefix + "1/LinuxResources", Value: []byte(`{`)}
	windows := &anypb.Any{TypeUrl: specPrefix + "1/WindowsResources", Value: []byte(`{}`)}
	for name, test := range map[string]struct {
		method  string
		request proto.Message
		class   func(error) bool
	}{
		"missing exec":      {"Wait", &api.WaitRequest{ID: "c1", ExecID: "missing"}, errdefs.IsNotFound},
		"bad JSON":          {"Update", &api.UpdateTaskRequest{ID: "c1", Resources: resources}, errdefs.IsInvalidArgument},
		"windows":           {"Update", &api.UpdateTaskRequest{ID: "c1", Resources: windows}, errdefs.IsInvalidArgument},
		"no resources":      {"Update", &api.UpdateTaskRequest{ID: "c1"}, errdefs.IsInvalidArgument},
		"exec without spec": {"Exec", &api.ExecProcessRequest{ID: "c1", ExecID: "e"}, errdefs.IsInvalidArgument},
		"huge terminal":     {"ResizePty", &api.ResizePtyRequest{ID: "c1", Width: 1 << 16}, errdefs.IsInvalidArgument},
		"checkpoint":        {"Checkpoint", &api.CheckpointTaskRequest{ID: "c1"}, errdefs.IsNotImplemented},
	} {
		if _, err := call[emptyMessage](s, ServiceV3, test.method, test.request); !test.class(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx := ttrpc.WithMetadata(t.Context(), ttrpc.MD{namespaceHeader: {"other"}})
	err := s.client.Call(ctx, ServiceV2, "State", &api.StateRequest{ID: "c1"}, &api.StateResponse{})
	if !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("request for another namespace: %v", err)
	}
}

// TestDeleteAndShutdown: a failed deletion keeps the container, a second one does not find it, and only an empty shim ends.
func TestDeleteAndShutdown(t *testing.T) {
	s := serve(t)
	s.create("c1")
	s.fake.fail = errdefs.ErrFailedPrecondition
	if _, err := call[api.DeleteResponse](s, ServiceV3, "Delete", &api.DeleteRequest{ID: "c1"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a running container: %v", err)
	}
	s.fake.fail = nil
	must[emptyMessage](s, "Shutdown", &api.ShutdownRequest{ID: "c1"})
	if len(s.ended) > 0 {
		t.Fatal("the shim ended with a container")
	}
	must[api.DeleteResponse](s, "Delete", &api.DeleteRequest{ID: "c1"})
	if _, err := call[api.DeleteResponse](s, ServiceV3, "Delete", &api.DeleteRequest{ID: "c1"}); !errdefs.IsNotFound(err) {
		t.Errorf("second deletion: %v", err)
	}
	if pid := must[api.ConnectResponse](s, "Connect", &api.ConnectRequest{ID: "c1"}).TaskPid; pid != 0 {
		t.Errorf("pid %d of a deleted container", pid)
	}
	must[emptyMessage](s, "Shutdown", &api.ShutdownRequest{ID: "c1"})
	if len(s.ended) != 1 {
		t.Error("the empty shim does not end")
	}
	if _, err := call[api.CreateTaskResponse](s, ServiceV3, "Create", &api.CreateTaskRequest{ID: "c2"}); !errdefs.IsUnavailable(err) {
		t.Errorf("creation in an ending shim: %v", err)
	}
	if _, err := call[api.ConnectResponse](s, ServiceV3, "Connect", &api.ConnectRequest{ID: "c2"}); !errdefs.IsUnavailable(err) {
		t.Errorf("joining an ending shim: %v", err)
	}
}

// TestEndsUnasked: whoever deleted the last container may be gone, and then nobody asks the shim to end.
func TestEndsUnasked(t *testing.T) {
	t.Run("request given up", func(t *testing.T) {
		s := serve(t)
		s.create("c1")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.service.Delete(ctx, &api.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if len(s.ended) != 1 {
			t.Error("the shim waits for a request that will not come")
		}
	})
	t.Run("no request", func(t *testing.T) {
		s := serve(t)
		s.service.config.Patience = time.Millisecond
		s.create("c1")
		must[api.DeleteResponse](s, "Delete", &api.DeleteRequest{ID: "c1"})
		select {
		case <-s.ended:
		case <-time.After(patience):
			t.Error("the shim waits for ever")
		}
	})
	t.Run("another container", func(t *testing.T) {
		s := serve(t)
		s.create("c1")
		generation := s.service.containers.generation()
		must[api.DeleteResponse](s, "Delete", &api.DeleteRequest{ID: "c1"})
		s.create("c2")
		must[api.DeleteResponse](s, "Delete", &api.DeleteRequest{ID: "c2"})
		if s.service.containers.closeIfStillEmpty(generation) {
			t.Error("the end of an earlier container ends the shim of a later one")
		}
	})
}

func FuzzDecodeSpec(f *testing.F) {
	f.Add(specPrefix+"1/Process", []byte(`{"args":["x"]}`))
	f.Add("Process", []byte(`null`))
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		p, err := decodeProcess(&anypb.Any{TypeUrl: url, Value: value})
		if (p == nil) == (err == nil) {
			t.Errorf("decoded %v with error %v", p, err)
		}
	})
}
