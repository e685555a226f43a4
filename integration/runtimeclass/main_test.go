// Package runtimeclass tests a node with two runtimes and a snapshotter for each: runc's pods are on containerd's own
// overlayfs, ours on a snapshotter that is a process of its own: containerd's overlayfs behind a socket.
package runtimeclass

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/node"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	patience = 10 * time.Minute
	name     = "pvelxc" // the snapshotter's, to containerd
)

// ground is what a snapshotter stands on.
type ground interface {
	// command serves the snapshotter of e on its socket.
	command(t *testing.T, e *env) *exec.Cmd
	// root fails where the line of /proc/mounts of a container's root is not of this snapshotter.
	root(e *env, line string) error
	// snapshots are all that it keeps.
	snapshots(t *testing.T, e *env) []string
	// differ tells whether it unpacks too.
	differ() bool
}

// env is the node and its snapshotter.
type env struct {
	*node.Node
	ground
	ctx         context.Context
	dir         string
	snapshotter *exec.Cmd
}

// start runs a node, and one pod on each of its handlers, so that what is there once for a
// node is there before anything is counted.
func start(t *testing.T) *env {
	t.Helper()
	harness.NeedsRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	e := &env{ground: prepare(t), ctx: ctx, dir: filepath.Join(harness.Work, "node")}
	e.serve(t)
	t.Cleanup(func() {
		e.stop(syscall.SIGTERM)
		_ = syscall.Unmount(e.exports(), syscall.MNT_DETACH)
		if t.Failed() {
			text, _ := os.ReadFile(e.dir + ".snapshotter.log")
			t.Logf("the snapshotter's log:\n%s", text)
		}
	})
	n, err := node.Start(ctx, e.dir, daemon.Containerd2, func(c *daemon.CRI) {
		c.Proxies = []daemon.Proxy{{Name: name, Address: e.socket(), Exports: e.exports(), Differ: e.differ()}}
		c.Snapshotter = name // what CRI tells of usage is the default one's alone
		c.Handlers[0].Snapshotter = "overlayfs"
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Node = n
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log ends with:\n%s", n.LogTail(15))
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, r := range node.Runtimes(daemon.Containerd2) {
		if err := e.once(r.Name); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func (e *env) socket() string  { return e.dir + ".snapshotter.sock" }
func (e *env) exports() string { return e.dir + ".snapshotter/exports" }

// serve starts the snapshotter, and waits until it listens.
func (e *env) serve(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(e.dir+".snapshotter.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	_ = os.Remove(e.socket()) // a killed one leaves it
	e.snapshotter = e.command(t, e)
	e.snapshotter.Stdout, e.snapshotter.Stderr = log, log
	if err := e.snapshotter.Start(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the snapshotter", func() error { _, err := os.Stat(e.socket()); return err })
}

func (e *env) stop(s syscall.Signal) {
	_ = e.snapshotter.Process.Signal(s)
	_ = e.snapshotter.Wait()
}

// guard fails the test when more is left after it than there was: processes, mounts, control groups, files, snapshots.
func (e *env) guard(t *testing.T) {
	t.Helper()
	before, snapshots := e.census(), e.snapshots(t, e)
	t.Cleanup(func() {
		harness.Eventually(t, "a node as it was", func() error {
			if err := e.collect(); err != nil {
				return err
			}
			extra := e.census().Extra(before)
			for _, d := range e.snapshots(t, e) {
				if !slices.Contains(snapshots, d) {
					extra = append(extra, "snapshot "+d)
				}
			}
			if len(extra) > 0 {
				return errors.New(strings.Join(extra, "\n"))
			}
			return nil
		})
	})
}

// collect has containerd collect its garbage: until then a snapshot that CRI has removed is the snapshotter's still.
func (e *env) collect() error {
	ctx := namespaces.WithNamespace(e.ctx, node.Namespace)
	service := e.Client.LeasesService()
	lease, err := service.Create(ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	return service.Delete(ctx, lease, leases.SynchronousDelete)
}

// census is what there is, but for the snapshotter's process, of which there may be another one, and the sockets' files
// that runc's shims leave.
func (e *env) census() harness.Census {
	c := harness.TakeCensus(&harness.Env{Runtime: harness.Pvelxc, Daemon: e.Daemon, Namespace: node.Namespace, Context: e.ctx})
	for key := range c {
		if strings.HasPrefix(key, fmt.Sprintf("process %d:", e.snapshotter.Process.Pid)) || strings.HasPrefix(key, "file "+daemon.ShimSocketDir) {
			delete(c, key)
		}
	}
	return c
}

// pod is one with a container that stays.
type pod struct {
	*node.Pod
	*node.Container
	env *env
}

// run makes a pod, and its end that of the test.
func (e *env) run(t *testing.T, handler string) *pod {
	t.Helper()
	p, err := e.try(handler, "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (e *env) try(handler, script string) (*pod, error) {
	p, err := e.RunPod(e.ctx, handler, e.PodConfig())
	if err != nil {
		return nil, err
	}
	c, err := p.Create(e.ctx, p.ContainerConfig(script))
	if err == nil {
		err = c.Start(e.ctx)
	}
	if err != nil {
		return nil, errors.Join(err, p.Remove(e.ctx))
	}
	return &pod{p, c, e}, nil
}

// once is the life of a pod.
func (e *env) once(handler string) error {
	p, err := e.try(handler, "echo made > /made")
	if err != nil {
		return err
	}
	s, err := p.Wait(e.ctx)
	if err == nil && s.ExitCode != 0 {
		err = fmt.Errorf("it exited with %d", s.ExitCode)
	}
	return errors.Join(err, p.Remove(e.ctx))
}

// sh runs a shell script in the pod's container, and returns what it prints.
func (p *pod) sh(t *testing.T, script string) string {
	t.Helper()
	got, err := p.Exec(p.env.ctx, "sh", "-c", script)
	if err != nil || got.ExitCode != 0 {
		t.Fatalf("%q: %v, %v", script, got, err)
	}
	return strings.TrimSpace(string(got.Stdout))
}
