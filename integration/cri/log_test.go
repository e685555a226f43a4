package cri

import (
	"os"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

// TestLogRotation: after a rotation the container writes to the new file, and no line is lost.
func TestLogRotation(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		c := e.pod(t).start(t, "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo line $i; sleep 0.01; done; echo last $i")
		c.saw(t, "line 1\n")
		rotated := c.LogFile() + ".1"
		if err := os.Rename(c.LogFile(), rotated); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Runtime.ReopenContainerLog(e.ctx, &cri.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
			t.Fatal(err)
		}
		c.saw(t, "line")
		c.exec(t, "touch /stop")
		c.wait(t)
		old, err := os.ReadFile(rotated)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := node.ParseLog(string(old))
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, l := range parsed {
			all.WriteString(l.Text + "\n")
		}
		all.WriteString(c.log(t)["stdout"])
		lines := strings.Fields(strings.NewReplacer("line ", "", "last ", "last").Replace(all.String()))
		for i, n := range lines[:len(lines)-1] {
			if n != itoa(i+1) {
				t.Fatalf("line %d of the logs says %s", i+1, n)
			}
		}
		equal(t, "the last line", lines[len(lines)-1], "last"+itoa(len(lines)-1))
	})
}

// TestLongLines: a line that is too long for the format is several, marked so.
func TestLongLines(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		c := e.pod(t).start(t, "head -c 50000 /dev/zero | tr '\\0' x; echo; printf unfinished")
		c.wait(t)
		equal(t, "the log", c.log(t)["stdout"], strings.Repeat("x", 50000)+"\nunfinished")
		data, err := os.ReadFile(c.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		lines, err := node.ParseLog(string(data))
		if err != nil {
			t.Fatal(err)
		}
		if !lines[0].Partial || lines[len(lines)-2].Partial || len(lines) < 4 {
			t.Errorf("%d lines, the first partial: %t, the last but one partial: %t", len(lines), lines[0].Partial, lines[len(lines)-2].Partial)
		}
	})
}

// TestTerminalLog: a container with a terminal logs what it shows.
func TestTerminalLog(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		c := e.pod(t).start(t, "tty; echo err >&2", func(c *cri.ContainerConfig) { c.Tty, c.Stdin = true, true })
		c.wait(t)
		log := c.log(t)
		if !strings.Contains(log["stdout"], "/dev/") || !strings.Contains(log["stdout"], "err") || log["stderr"] != "" {
			t.Errorf("the log has %q", log)
		}
	})
}

// TestEvents: a client that listens is told of every container's and sandbox's life, in order.
func TestEvents(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		events, err := e.Runtime.GetContainerEvents(e.ctx, &cri.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		// The stream is there when it brings something: pods of nobody's, until one is seen.
		seen := make(chan *cri.ContainerEventResponse, 100)
		go func() {
			defer close(seen)
			for {
				event, err := events.Recv()
				if err != nil {
					return
				}
				seen <- event
			}
		}()
		harness.Eventually(t, "the stream", func() error {
			e.pod(t)
			select {
			case <-seen:
				return nil
			default:
				return errNothing
			}
		})
		p := e.pod(t)
		c := p.start(t, "exit 0")
		c.wait(t)
		p.remove(t)
		want := map[string]string{
			c.ID: "CONTAINER_CREATED_EVENT CONTAINER_STARTED_EVENT CONTAINER_STOPPED_EVENT CONTAINER_DELETED_EVENT",
			p.ID: "CONTAINER_CREATED_EVENT CONTAINER_STARTED_EVENT CONTAINER_STOPPED_EVENT CONTAINER_DELETED_EVENT",
		}
		got := make(map[string][]string)
		for len(got[p.ID]) < 4 || len(got[c.ID]) < 4 {
			event := harness.Soon(t, "an event", seen)
			if event == nil {
				t.Fatalf("the stream ended; it had %v", got)
			}
			got[event.ContainerId] = append(got[event.ContainerId], event.ContainerEventType.String())
		}
		for id, events := range want {
			equal(t, "events", strings.Join(got[id], " "), events)
		}
	})
}
