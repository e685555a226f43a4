package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/image"
)

// Settings are what an [Option] changes.
type Settings struct {
	id      string
	image   string
	spec    []oci.SpecOpts
	stdin   io.Reader
	tty     bool
	io      cio.Creator
	options []containerd.NewContainerOpts
	snap    []snapshots.Opt
}

// Option changes one thing about a container.
type Option func(*Settings)

// Args sets the command line; without it the image's own runs.
func Args(args ...string) Option { return Spec(oci.WithProcessArgs(args...)) }

// Shell runs script with the image's shell.
func Shell(script string) Option { return Args("sh", "-c", script) }

// Forever keeps the container up until it is killed. It ends on SIGTERM with status 0 at once,
// which a plain sleep as PID 1 does not.
func Forever() Option { return Shell("trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done") }

// Spec applies changes to the OCI spec, after the defaults and the image's configuration.
func Spec(opts ...oci.SpecOpts) Option {
	return func(s *Settings) { s.spec = append(s.spec, opts...) }
}

// Edit changes the OCI spec by hand, after all that came before it.
func Edit(change func(*specs.Spec)) Option {
	return Spec(func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		change(s)
		return nil
	})
}

// Mounts adds mounts to the spec.
func Mounts(mounts ...specs.Mount) Option { return Spec(oci.WithMounts(mounts)) }

// User sets the user and the group.
func User(id uint32) Option { return Spec(oci.WithUIDGID(id, id)) }

// Pod puts the container into a pod, as CRI does: id is that of the pod's sandbox, kind "sandbox" or
// "container".
func Pod(id, kind string) Option {
	return Spec(oci.WithAnnotations(map[string]string{
		"io.kubernetes.cri.sandbox-id":     id,
		"io.kubernetes.cri.container-type": kind,
	}))
}

// Hook is a hook that runs a shell script: with the host's shell, for hooks of the host, or the
// image's.
func Hook(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
}

// ID sets the container's id; without it there is a unique one.
func ID(id string) Option { return func(s *Settings) { s.id = id } }

// FromScratch uses the image that has nothing but /busybox.
func FromScratch() Option { return func(s *Settings) { s.image = image.Scratch } }

// TTY gives the container a terminal.
func TTY() Option {
	return func(s *Settings) { s.tty, s.spec = true, append(s.spec, oci.WithTTY) }
}

// Stdin connects standard input.
func Stdin(r io.Reader) Option { return func(s *Settings) { s.stdin = r } }

// IO replaces the streams; the container's buffers stay empty.
func IO(creator cio.Creator) Option { return func(s *Settings) { s.io = creator } }

// With passes options to containerd's client.
func With(opts ...containerd.NewContainerOpts) Option {
	return func(s *Settings) { s.options = append(s.options, opts...) }
}

// Snapshot passes options to the snapshotter that makes the root filesystem.
func Snapshot(opts ...snapshots.Opt) Option {
	return func(s *Settings) { s.snap = append(s.snap, opts...) }
}

// Buffer collects a stream.
type Buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

// Write implements [io.Writer].
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

// String is what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// Result is how a process ended.
type Result struct {
	Status         uint32
	Stdout, Stderr string
}

// Container is a container and its task.
type Container struct {
	containerd.Container
	Task           containerd.Task
	Stdout, Stderr *Buffer

	env    *Env
	exited <-chan containerd.ExitStatus
}

// NewID is a name no other container of this run has.
func (e *Env) NewID() string { return fmt.Sprintf("c%d-%s", serial.Add(1), Token) }

// Create makes a container and its task, which is not started. Everything goes away with the test.
func (e *Env) Create(t testing.TB, opts ...Option) *Container {
	t.Helper()
	c, err := e.TryCreate(t, opts...)
	if err != nil {
		t.Fatalf("create a container: %v", err)
	}
	return c
}

// TryCreate is Create for tests that expect it to fail.
func (e *Env) TryCreate(t testing.TB, opts ...Option) (*Container, error) {
	t.Helper()
	s := Settings{id: e.NewID(), image: image.Busybox}
	for _, o := range opts {
		o(&s)
	}
	img, err := e.Daemon.Client.GetImage(e.Context, s.image)
	if err != nil {
		t.Fatalf("get the test image: %v", err)
	}
	spec := append([]oci.SpecOpts{oci.WithDefaultSpec(), oci.WithImageConfig(img)}, s.spec...)
	created, err := e.Daemon.Client.NewContainer(e.Context, s.id, append([]containerd.NewContainerOpts{
		containerd.WithImage(img),
		containerd.WithSnapshotter(snapshotter),
		containerd.WithNewSnapshot(s.id, img, s.snap...),
		containerd.WithRuntime(e.Runtime.Type, nil),
		containerd.WithNewSpec(spec...),
	}, s.options...)...)
	if err != nil {
		return nil, fmt.Errorf("new container: %w", err)
	}
	c := &Container{Container: created, Stdout: &Buffer{}, Stderr: &Buffer{}, env: e}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			t.Errorf("clean up %s: %v", s.id, err)
		}
	})
	if s.io == nil {
		s.io = c.streams(s.stdin, s.tty, c.Stdout, c.Stderr)
	}
	task, err := created.NewTask(e.Context, s.io)
	if err != nil {
		return c, fmt.Errorf("new task: %w", err)
	}
	c.Task = task
	if c.exited, err = task.Wait(e.Context); err != nil {
		return c, fmt.Errorf("wait for the task: %w", err)
	}
	return c, nil
}

func (c *Container) streams(stdin io.Reader, tty bool, stdout, stderr io.Writer) cio.Creator {
	opts := []cio.Opt{cio.WithStreams(stdin, stdout, stderr), cio.WithFIFODir(fifoDir())}
	if tty {
		opts = append(opts, cio.WithTerminal)
	}
	return cio.NewCreator(opts...)
}

func fifoDir() string { return filepath.Join(Work, "fifo") }

// Start makes a container and starts it.
func (e *Env) Start(t testing.TB, opts ...Option) *Container {
	t.Helper()
	c := e.Create(t, opts...)
	if err := c.Task.Start(e.Context); err != nil {
		t.Fatalf("start %s: %v", c.ID(), err)
	}
	return c
}

// TryStart is Start for tests that may see it fail.
func (e *Env) TryStart(t testing.TB, opts ...Option) (*Container, error) {
	t.Helper()
	c, err := e.TryCreate(t, opts...)
	if err == nil {
		err = c.Task.Start(e.Context)
	}
	return c, err
}

// Run runs a container to its end and removes it.
func (e *Env) Run(t testing.TB, opts ...Option) Result {
	t.Helper()
	c := e.Start(t, opts...)
	result := c.Wait(t)
	if err := c.Remove(); err != nil {
		t.Errorf("remove %s: %v", c.ID(), err)
	}
	return result
}

// Wait returns how the container's init ended, with all its output.
func (c *Container) Wait(t testing.TB) Result {
	t.Helper()
	status := Soon(t, "exit of "+c.ID(), c.exited)
	if err := status.Error(); err != nil {
		t.Fatalf("wait for %s: %v", c.ID(), err)
	}
	if streams := c.Task.IO(); streams != nil {
		drained := make(chan struct{})
		go func() { streams.Wait(); close(drained) }()
		Soon(t, "end of the output of "+c.ID(), drained)
	}
	return Result{status.ExitCode(), c.Stdout.String(), c.Stderr.String()}
}

// Stop kills the container and waits for its end.
func (c *Container) Stop(t testing.TB) Result {
	t.Helper()
	if err := c.Task.Kill(c.env.Context, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		t.Fatalf("kill %s: %v", c.ID(), err)
	}
	return c.Wait(t)
}

// Saw waits until the container has written text to its standard output.
func (c *Container) Saw(t testing.TB, text string) {
	t.Helper()
	Eventually(t, "output of "+c.ID(), func() error {
		if out := c.Stdout.String(); !strings.Contains(out, text) {
			return fmt.Errorf("no %q in %q; stderr: %q", text, out, c.Stderr.String())
		}
		return nil
	})
}

// Remove kills and deletes the task and the container with its snapshot; what is gone already is
// fine. It does not depend on the test's context.
func (c *Container) Remove() error {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), c.env.Namespace), 2*patience)
	defer cancel()
	var failed error
	if task, err := c.Container.Task(ctx, nil); err == nil {
		if _, err := task.Delete(ctx, killed); err != nil && !errdefs.IsNotFound(err) {
			failed = fmt.Errorf("delete the task: %w", err)
		}
	} else if !errdefs.IsNotFound(err) {
		failed = fmt.Errorf("look for the task: %w", err)
	}
	if c.Task != nil {
		release(c.Task.IO())
	}
	if err := c.Container.Delete(ctx, containerd.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		failed = errors.Join(failed, fmt.Errorf("delete the container: %w", err))
	}
	return failed
}

// killed makes Delete kill a running task first and wait for its end, for a while.
func killed(ctx context.Context, p containerd.Process) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, err := p.Status(ctx)
	if err != nil || status.Status == containerd.Stopped {
		return nil
	}
	exited, err := p.Wait(ctx)
	if err != nil {
		return nil
	}
	if status.Status == containerd.Created {
		return containerd.WithProcessKill(ctx, p)
	}
	if err := p.Kill(ctx, syscall.SIGKILL, containerd.WithKillAll); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("kill: %w", err)
	}
	select {
	case <-exited:
		return nil
	case <-time.After(patience):
		return errors.New("did not end after SIGKILL")
	}
}
