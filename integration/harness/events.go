package harness

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
)

// Recorder keeps the events of an environment's namespace, in the order of their arrival.
type Recorder struct {
	runtime Runtime

	mu   sync.Mutex
	seen []recorded // guarded by mu
}

type recorded struct {
	container string
	line      string
	payload   any
}

// Record starts to record events. It ends with the test.
func (e *Env) Record(t testing.TB) *Recorder {
	t.Helper()
	ctx, cancel := context.WithCancel(e.Context)
	t.Cleanup(cancel)
	incoming, _ := e.Daemon.Client.Subscribe(ctx, fmt.Sprintf("namespace==%s", e.Namespace))
	r := &Recorder{runtime: e.Runtime}
	go func() {
		for {
			select {
			case envelope := <-incoming:
				r.add(envelope)
			case <-ctx.Done():
				return
			}
		}
	}()
	return r
}

func (r *Recorder) add(envelope *events.Envelope) {
	payload, err := typeurl.UnmarshalAny(envelope.Event)
	if err != nil {
		return
	}
	id, line := describe(envelope.Topic, payload)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, recorded{id, line, payload})
}

// describe renders an event as its topic without "/tasks/", followed by the exec's id where there is
// one, and by the status of an exit.
func describe(topic string, payload any) (container, line string) {
	line = strings.TrimPrefix(topic, "/tasks/")
	switch e := payload.(type) {
	case *apievents.TaskCreate:
		return e.ContainerID, line
	case *apievents.TaskStart:
		return e.ContainerID, line
	case *apievents.TaskExit:
		if e.ID != e.ContainerID {
			line += " " + e.ID
		}
		return e.ContainerID, fmt.Sprintf("%s %d", line, e.ExitStatus)
	case *apievents.TaskDelete:
		if e.ID != "" && e.ID != e.ContainerID {
			line += " " + e.ID
		}
		return e.ContainerID, line
	case *apievents.TaskExecAdded:
		return e.ContainerID, line + " " + e.ExecID
	case *apievents.TaskExecStarted:
		return e.ContainerID, line + " " + e.ExecID
	case *apievents.TaskOOM:
		return e.ContainerID, line
	case *apievents.TaskPaused:
		return e.ContainerID, line
	case *apievents.TaskResumed:
		return e.ContainerID, line
	case *apievents.TaskCheckpointed:
		return e.ContainerID, line
	}
	return "", line
}

// Of lists a container's events so far: see [Recorder.Await].
func (r *Recorder) Of(id string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, e := range r.seen {
		if e.container == id {
			lines = append(lines, e.line)
		}
	}
	return lines
}

// Payload is the first event of a container that has the type T.
func Payload[T any](r *Recorder, id string) (found T, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.seen {
		if p, is := e.payload.(T); is && e.container == id {
			return p, true
		}
	}
	return found, false
}

// Await waits for an event of a container, given as "create", "start", "exec-added ID",
// "exec-started ID", "exit STATUS", "exit ID STATUS", "delete", "oom", "paused" or "resumed", and
// returns all events up to then.
func (r *Recorder) Await(t testing.TB, id, line string) []string {
	t.Helper()
	var lines []string
	Eventually(t, "event "+line+" of "+id, func() error {
		lines = r.Of(id)
		for _, l := range lines {
			if l == line {
				return nil
			}
		}
		return fmt.Errorf("events so far: %q", lines)
	})
	return lines
}

// Expect fails the test unless these are the events of a deleted container. runc's shim sometimes ends
// before it has sent its last ones, which containerd then may or may not supply: so of the reference
// the events before init's exit are compared.
func (r *Recorder) Expect(t testing.TB, id string, want ...string) {
	t.Helper()
	last := want[len(want)-1]
	if r.runtime == Runc {
		want = slices.DeleteFunc(want, func(l string) bool { return l == "delete" })
		want = want[:len(want)-1]
		last = want[len(want)-1]
	}
	got := r.Await(t, id, last)
	if r.runtime == Runc {
		got = got[:min(len(got), len(want))]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// execIDs decodes what the task service says about each process.
func execIDs(t testing.TB, infos []containerd.ProcessInfo) map[uint32]string {
	t.Helper()
	ids := make(map[uint32]string)
	for _, info := range infos {
		ids[info.Pid] = ""
		if info.Info == nil {
			continue
		}
		decoded, err := typeurl.UnmarshalAny(info.Info)
		if err != nil {
			t.Fatalf("details of process %d: %v", info.Pid, err)
		}
		if details, ok := decoded.(*options.ProcessDetails); ok {
			ids[info.Pid] = details.ExecID
		}
	}
	return ids
}
