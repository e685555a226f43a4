// Package cri tests pods: what a kubelet asks of containerd's CRI, on the reference's runtime handler and
// on ours in one daemon, with the same assertions.
package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
	"github.com/pvelxc/pvelxc/integration/node"
)

func TestMain(m *testing.M) { harness.Main(m) }

// patience bounds what a test waits for; it only matters when the test fails.
var patience = 4 * harness.Patience()

// env is where one subtest runs its pods.
type env struct {
	*node.Node
	handler string
	ctx     context.Context // ends with the test
}

var (
	mu     sync.Mutex
	shared = make(map[daemon.Version]*node.Node)
)

// selected are the runtime handlers of this run. Ours with sandboxes that the shim holds is ours.
func selected(version daemon.Version) []harness.Runtime {
	chosen := harness.Selected()
	return slices.DeleteFunc(node.Runtimes(version), func(r harness.Runtime) bool {
		return !slices.ContainsFunc(chosen, func(c harness.Runtime) bool { return c.Type == r.Type })
	})
}

// each runs test once for each runtime handler, on the newest containerd.
func each(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	for _, r := range selected(daemon.Containerd2) {
		t.Run(r.Name, func(t *testing.T) { test(t, on(t, r, daemon.Containerd2)) })
	}
}

// everywhere runs test once for each runtime handler on every containerd.
func everywhere(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	for _, version := range []daemon.Version{daemon.Containerd2, daemon.Containerd17} {
		for _, r := range selected(version) {
			t.Run(string(version)+"/"+r.Name, func(t *testing.T) { test(t, on(t, r, version)) })
		}
	}
}

// on is the environment of a runtime handler on the node that all tests share. It fails the test when
// something is left behind.
func on(t *testing.T, r harness.Runtime, version daemon.Version) *env {
	t.Helper()
	harness.NeedsRoot(t)
	mu.Lock()
	defer mu.Unlock()
	n := shared[version]
	if n == nil {
		n = start(t, "cri-"+string(version), version, nil)
		shared[version] = n
	}
	return enter(t, n, r)
}

// start runs a node and a pod on each of the handlers under test, so that what is there once for a node is there
// before a census is taken.
func start(t *testing.T, name string, version daemon.Version, change func(*daemon.CRI)) *node.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n, err := node.Start(ctx, filepath.Join(harness.Work, name), version, change)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range selected(version) {
		warm := &env{Node: n, handler: r.Name, ctx: ctx}
		run, err := n.RunPod(ctx, r.Name, n.PodConfig())
		if err != nil {
			t.Fatal(err)
		}
		p := &pod{run, warm}
		var opts []containerOption
		if version != daemon.Containerd17 {
			opts = append(opts, mount(&cri.Mount{ContainerPath: "/image", Image: &cri.ImageSpec{Image: image.Scratch}, Readonly: true}))
		}
		p.start(t, "exit 0", opts...).wait(t)
		p.remove(t)
	}
	return n
}

// enter is the environment of a runtime handler on n.
func enter(t *testing.T, n *node.Node, r harness.Runtime) *env {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log ends with:\n%s", n.LogTail(15))
		}
	})
	(&harness.Env{Runtime: r, Daemon: n.Daemon, Namespace: node.Namespace, Context: ctx}).Guard(t)
	return &env{Node: n, handler: r.Name, ctx: ctx}
}

// pod is a running pod, and container one of its containers.
type (
	pod struct {
		*node.Pod
		env *env
	}
	container struct {
		*node.Container
		env *env
	}
)

// podOption and containerOption change what CRI is asked for.
type (
	podOption       func(*cri.PodSandboxConfig)
	containerOption func(*cri.ContainerConfig)
)

// pod runs a pod until the end of the test.
func (e *env) pod(t *testing.T, opts ...podOption) *pod {
	t.Helper()
	p, err := e.tryPod(t, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (e *env) tryPod(t *testing.T, opts ...podOption) (*pod, error) {
	t.Helper()
	config := e.PodConfig()
	for _, o := range opts {
		o(config)
	}
	p, err := e.RunPod(e.ctx, e.handler, config)
	if err != nil {
		return nil, err
	}
	made := &pod{p, e}
	t.Cleanup(func() { made.remove(t) })
	return made, nil
}

func (p *pod) remove(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Remove(ctx); err != nil {
		t.Error(err)
	}
}

// create makes a container that runs a shell script.
func (p *pod) create(t *testing.T, script string, opts ...containerOption) *container {
	t.Helper()
	c, err := p.tryCreate(script, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *pod) tryCreate(script string, opts ...containerOption) (*container, error) {
	config := p.ContainerConfig(script)
	for _, o := range opts {
		o(config)
	}
	c, err := p.Create(p.env.ctx, config)
	return &container{c, p.env}, err
}

// start makes a container that runs a shell script, and starts it.
func (p *pod) start(t *testing.T, script string, opts ...containerOption) *container {
	t.Helper()
	c := p.create(t, script, opts...)
	if err := c.Start(p.env.ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// forever is a script that ends on SIGTERM at once.
const forever = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"

// sleeper starts a container that stays.
func (p *pod) sleeper(t *testing.T, opts ...containerOption) *container {
	t.Helper()
	return p.start(t, forever, opts...)
}

// output runs a shell script in a container of its own to its end, which must be a good one, and returns
// what it printed.
func (p *pod) output(t *testing.T, script string, opts ...containerOption) string {
	t.Helper()
	c := p.start(t, script, opts...)
	s := c.wait(t)
	log := c.log(t)
	if s.ExitCode != 0 {
		t.Fatalf("%q exited with %d: %s%s", script, s.ExitCode, log["stdout"], log["stderr"])
	}
	return log["stdout"]
}

func (c *container) wait(t *testing.T) *cri.ContainerStatus {
	t.Helper()
	s, err := c.Wait(c.env.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *container) log(t *testing.T) map[string]string {
	t.Helper()
	log, err := c.Log()
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// saw waits until the container has printed text.
func (c *container) saw(t *testing.T, text string) {
	t.Helper()
	harness.Eventually(t, "output of "+c.ID, func() error {
		log, err := c.Log()
		if err == nil && !strings.Contains(log["stdout"], text) {
			err = fmt.Errorf("no %q in %q", text, log)
		}
		return err
	})
}

// exec runs a shell script in the container, which must succeed, and returns its output.
func (c *container) exec(t *testing.T, script string) string {
	t.Helper()
	got, err := c.Exec(c.env.ctx, "sh", "-c", script)
	if err != nil {
		t.Fatalf("exec %q: %v", script, err)
	}
	if got.ExitCode != 0 {
		t.Fatalf("exec of %q exited with %d: %s%s", script, got.ExitCode, got.Stdout, got.Stderr)
	}
	return string(got.Stdout)
}

// pid is the process on the host.
func (c *container) pid(t *testing.T) int {
	t.Helper()
	pid, err := c.Pid(c.env.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// equal fails the test when got, without surrounding white space, is not want.
func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got := strings.TrimSpace(got); got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// mustFail fails the test when err does not say why.
func mustFail(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, w := range words {
		if strings.Contains(err.Error(), w) {
			return
		}
	}
	if len(words) > 0 {
		t.Errorf("%s: the error says none of %q: %v", what, words, err)
	}
}

// dir is a new directory that containers with user namespaces can walk to.
func (e *env) dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(harness.Work, "volume-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	return dir
}
