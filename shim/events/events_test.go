package events

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/emptypb"
)

const patience = 30 * time.Second

// daemon is containerd's events service. It can be restarted.
type daemon struct {
	t      *testing.T
	path   string
	server *ttrpc.Server

	mu     sync.Mutex
	got    []string
	refuse error // answer to every event, instead of taking it
}

func newDaemon(t *testing.T) *daemon {
	return &daemon{t: t, path: filepath.Join(t.TempDir(), "s")}
}

func (d *daemon) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refuse; err != nil {
		d.refuse = nil
		return nil, errgrpc.ToGRPC(err)
	}
	event, err := typeurl.UnmarshalAny(r.Envelope.Event)
	if err != nil {
		return nil, err
	}
	id := ""
	if e, ok := event.(interface{ GetContainerID() string }); ok {
		id = e.GetContainerID()
	}
	if r.Envelope.Timestamp.AsTime().IsZero() {
		d.t.Error("event without a time")
	}
	d.got = append(d.got, fmt.Sprintf("%s %s %s", r.Envelope.Namespace, r.Envelope.Topic, id))
	return &emptypb.Empty{}, nil
}

func (d *daemon) start() {
	d.t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		d.t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(server, d)
	listener, err := net.Listen("unix", d.path)
	if err != nil {
		d.t.Fatal(err)
	}
	d.server = server
	go func() { _ = server.Serve(context.Background(), listener) }()
	d.t.Cleanup(d.stop)
}

func (d *daemon) stop() { _ = d.server.Close() }

func (d *daemon) wait(count int) []string {
	d.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		d.mu.Lock()
		got := append([]string(nil), d.got...)
		d.mu.Unlock()
		if len(got) >= count {
			return got
		}
	}
	d.t.Fatalf("%d events did not arrive", count)
	return nil
}

func closeQueue(t *testing.T, q *Queue) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := q.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestOrderAndTopics(t *testing.T) {
	d := newDaemon(t)
	d.start()
	q := New(t.Context(), "ns", Config{TTRPCAddress: "unix://" + d.path})
	q.Send(&events.TaskCreate{ContainerID: "a"})
	q.Send(&events.TaskStart{ContainerID: "a"})
	q.Send(&events.TaskExecAdded{ContainerID: "a"})
	q.Send(&events.TaskExecStarted{ContainerID: "a"})
	q.Send(&events.TaskOOM{ContainerID: "a"})
	q.Send("not an event")
	q.Send(&events.TaskPaused{ContainerID: "a"})
	q.Send(&events.TaskResumed{ContainerID: "a"})
	q.Send(&events.TaskCheckpointed{ContainerID: "a"})
	q.Send(&events.TaskExit{ContainerID: "a"})
	q.Send(&events.TaskDelete{ContainerID: "a"})
	closeQueue(t, q)
	closeQueue(t, q)
	q.Send(&events.TaskExit{ContainerID: "late"})
	want := []string{
		"ns /tasks/create a", "ns /tasks/start a", "ns /tasks/exec-added a", "ns /tasks/exec-started a", "ns /tasks/oom a",
		"ns /tasks/paused a", "ns /tasks/resumed a", "ns /tasks/checkpointed a", "ns /tasks/exit a", "ns /tasks/delete a",
	}
	if diff := cmp.Diff(want, d.wait(len(want))); diff != "" {
		t.Error(diff)
	}
}

func TestDaemonRestarts(t *testing.T) {
	d := newDaemon(t)
	q := New(t.Context(), "ns", Config{TTRPCAddress: d.path})
	q.Send(&events.TaskExit{ContainerID: "before"})
	d.start()
	d.wait(1)
	d.stop()
	for i := range 3 {
		q.Send(&events.TaskExit{ContainerID: fmt.Sprint(i)})
	}
	d.start()
	d.wait(4)
	closeQueue(t, q)
	want := []string{"ns /tasks/exit before", "ns /tasks/exit 0", "ns /tasks/exit 1", "ns /tasks/exit 2"}
	if diff := cmp.Diff(want, d.wait(4)); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedEventIsNotRepeated(t *testing.T) {
	d := newDaemon(t)
	d.refuse = fmt.Errorf("bad namespace: %w", errdefs.ErrInvalidArgument)
	d.start()
	q := New(t.Context(), "ns", Config{TTRPCAddress: d.path})
	q.Send(&events.TaskExit{ContainerID: "refused"})
	q.Send(&events.TaskExit{ContainerID: "taken"})
	closeQueue(t, q)
	if diff := cmp.Diff([]string{"ns /tasks/exit taken"}, d.wait(1)); diff != "" {
		t.Error(diff)
	}
}

// TestBound: without containerd the queue neither blocks nor grows, and keeps the newest events; Close gives up with its context.
func TestBound(t *testing.T) {
	before := runtime.NumGoroutine()
	q := New(t.Context(), "ns", Config{TTRPCAddress: "/nonexistent/socket"})
	for i := range capacity + 10 {
		q.Send(&events.TaskExit{ContainerID: fmt.Sprint(i)})
	}
	first, _ := q.first()
	var exit events.TaskExit
	if err := typeurl.UnmarshalTo(first.Event, &exit); err != nil || exit.ContainerID != "10" {
		t.Errorf("the oldest event is of %q, %v", exit.ContainerID, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := q.Close(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), fmt.Sprint(capacity)) {
		t.Errorf("close: %v", err)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestPublishCommand(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "containerd")
	script := "#!/bin/sh\necho \"$@\" >>" + dir + "/args\ncat >>" + dir + "/body\n[ -e " + dir + "/up ] || { : >" + dir + "/up; echo away; exit 1; }\n"
	if err := os.WriteFile(binary, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	q := New(t.Context(), "ns", Config{Binary: binary, GRPCAddress: "/run/c.sock"})
	q.Send(&events.TaskOOM{ContainerID: "a"})
	closeQueue(t, q)
	args, err := os.ReadFile(dir + "/args")
	if err != nil {
		t.Fatal(err)
	}
	// The first attempt fails, the second succeeds.
	want := strings.Repeat("--address /run/c.sock publish --topic /tasks/oom --namespace ns\n", 2)
	if diff := cmp.Diff(want, string(args)); diff != "" {
		t.Error(diff)
	}
	if body, err := os.ReadFile(dir + "/body"); err != nil || !strings.Contains(string(body), "containerd.events.TaskOOM") {
		t.Errorf("body %q, %v", body, err)
	}
}
