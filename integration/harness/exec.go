package harness

import (
	"context"
	"io"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ExecOption changes the process of an exec.
type ExecOption func(*specs.Process)

// Process is an exec in a container.
type Process struct {
	containerd.Process
	Stdout, Stderr *Buffer

	exited <-chan containerd.ExitStatus
}

// Exec runs a command in the container to its end.
func (c *Container) Exec(t testing.TB, args []string, opts ...ExecOption) Result {
	t.Helper()
	p := c.NewExec(t, nil, args, opts...)
	if err := p.Start(c.env.Context); err != nil {
		t.Fatalf("start an exec of %q: %v", args, err)
	}
	result := p.Wait(t)
	if _, err := p.Delete(c.env.Context); err != nil {
		t.Errorf("delete the exec of %q: %v", args, err)
	}
	return result
}

// Sh runs a shell script in the container, which must succeed, and returns its output.
func (c *Container) Sh(t testing.TB, script string) string {
	t.Helper()
	got := c.Exec(t, []string{"sh", "-c", script})
	if got.Status != 0 {
		t.Fatalf("exec of %q exited with %d: %s%s", script, got.Status, got.Stdout, got.Stderr)
	}
	return got.Stdout
}

// NewExec adds an exec to the container, which is not started.
func (c *Container) NewExec(t testing.TB, stdin io.Reader, args []string, opts ...ExecOption) *Process {
	t.Helper()
	spec := c.ProcessSpec(t, args, opts...)
	p := &Process{Stdout: &Buffer{}, Stderr: &Buffer{}}
	id := c.env.NewID()
	process, err := c.Task.Exec(c.env.Context, id, spec, c.streams(stdin, spec.Terminal, p.Stdout, p.Stderr))
	if err != nil {
		t.Fatalf("exec %q: %v", args, err)
	}
	p.Process = process
	t.Cleanup(func() { release(process.IO()) })
	if p.exited, err = process.Wait(c.env.Context); err != nil {
		t.Fatalf("wait for the exec of %q: %v", args, err)
	}
	return p
}

// ProcessSpec is the container's process with another command line and without a terminal.
func (c *Container) ProcessSpec(t testing.TB, args []string, opts ...ExecOption) *specs.Process {
	t.Helper()
	spec, err := c.Spec(c.env.Context)
	if err != nil {
		t.Fatalf("read the spec of %s: %v", c.ID(), err)
	}
	process := *spec.Process
	process.Args, process.Terminal = args, false
	for _, o := range opts {
		o(&process)
	}
	return &process
}

// release ends the client's side of a process's streams, its FIFOs included.
func release(streams cio.IO) {
	if streams != nil {
		streams.Cancel()
		_ = streams.Close()
	}
}

// Wait returns how the process ended, with all its output.
func (p *Process) Wait(t testing.TB) Result {
	t.Helper()
	status := Soon(t, "exit of exec "+p.ID(), p.exited)
	if err := status.Error(); err != nil {
		t.Fatalf("wait for exec %s: %v", p.ID(), err)
	}
	if streams := p.IO(); streams != nil {
		drained := make(chan struct{})
		go func() { streams.Wait(); close(drained) }()
		Soon(t, "end of the output of exec "+p.ID(), drained)
	}
	return Result{status.ExitCode(), p.Stdout.String(), p.Stderr.String()}
}

// Pids are the container's processes as the runtime reports them: pid → exec id, empty for init and
// for processes that containerd did not start.
func (c *Container) Pids(ctx context.Context, t testing.TB) map[uint32]string {
	t.Helper()
	infos, err := c.Task.Pids(ctx)
	if err != nil {
		t.Fatalf("pids of %s: %v", c.ID(), err)
	}
	return execIDs(t, infos)
}

// Exited yields the status when the process ends.
func (p *Process) Exited() <-chan containerd.ExitStatus { return p.exited }
