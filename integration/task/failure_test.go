package task

import (
	"maps"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// What fails in a pod leaves nothing open in its shim, which lives on: not streams, nor terminals, trees or processes.
func TestFailuresLeaveNothingOpen(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		pod := e.NewID()
		pause := e.Start(t, harness.ID(pod), harness.Pod(pod, "sandbox"), harness.Forever())
		fail := func() {
			for _, options := range [][]harness.Option{
				{harness.Args("/no/such/program")},
				{harness.Args("/no/such/program"), harness.TTY()},
				{harness.Args("true"), harness.Mounts(specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such/source", Options: []string{"bind"}})},
				{harness.Args("true"), harness.Spec(oci.WithHostname("x"), oci.WithHostNamespace(specs.UTSNamespace))},
			} {
				c, err := e.TryCreate(t, append(options, harness.Pod(pod, "container"))...)
				if err == nil {
					err = c.Task.Start(e.Context)
				}
				if err == nil && e.Runtime == harness.Pvelxc {
					t.Error("what must fail has started")
				}
				if err := c.Remove(); err != nil {
					t.Error(err)
				}
			}
			for _, tty := range []bool{false, true} {
				p := pause.NewExec(t, nil, []string{"/no/such/program"}, func(p *specs.Process) { p.Terminal = tty })
				if err := p.Start(e.Context); err == nil {
					t.Error("an exec of nothing has started")
				}
				_, _ = p.Delete(e.Context)
			}
		}
		fail() // opens what the shim keeps
		shim := pause.Shim(t)
		before := len(harness.OpenFiles(shim))
		for range 3 {
			fail()
		}
		harness.Eventually(t, "the shim's descriptors", func() error {
			after := harness.OpenFiles(shim)
			if len(after) > before {
				return leak{before, slices.Sorted(maps.Values(after))}
			}
			return nil
		})
	})
}

// leak is more descriptors than there were.
type leak struct {
	before int
	files  []string
}

func (l leak) Error() string {
	text := "before it had fewer:"
	for _, f := range l.files {
		text += " " + f
	}
	return text
}
