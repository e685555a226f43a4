package harness

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/image"
)

// Runtime is a containerd runtime under test.
type Runtime struct {
	Name string // short: the subtest's name and part of the containerd namespace
	Type string // containerd's runtime type
}

// The runtimes. Runc is the reference.
var (
	Runc   = Runtime{"runc", "io.containerd.runc.v2"}
	Pvelxc = Runtime{"pvelxc", "io.containerd.pvelxc.v2"}
)

// Selected are the runtimes of this run: those named in $PVELXC_TEST_RUNTIMES, else both.
func Selected() []Runtime {
	names := os.Getenv("PVELXC_TEST_RUNTIMES")
	var selected []Runtime
	for _, r := range []Runtime{Runc, Pvelxc} {
		if names == "" || strings.Contains(names, r.Name) {
			selected = append(selected, r)
		}
	}
	return selected
}

// Env is where one subtest runs its containers.
type Env struct {
	Runtime   Runtime
	Daemon    *daemon.Daemon
	Namespace string
	Context   context.Context // carries the namespace; ends with the test
}

// Each runs test once for each selected runtime, on the daemon all tests share, and fails it when
// it leaves anything behind.
func Each(t *testing.T, test func(t *testing.T, e *Env)) {
	t.Helper()
	for _, r := range Selected() {
		t.Run(r.Name, func(t *testing.T) { test(t, On(t, r)) })
	}
}

// On is the environment of one runtime on the shared daemon, for tests of a single runtime.
func On(t *testing.T, r Runtime) *Env {
	t.Helper()
	e := newEnv(t, r, sharedDaemon(t))
	e.Guard(t)
	return e
}

// Private is an environment with a containerd of its own, of the given version, which the test may
// stop, kill and start again. Changes are made to it before it starts.
func Private(t *testing.T, r Runtime, version daemon.Version, changes ...func(*daemon.Daemon)) *Env {
	t.Helper()
	NeedsRoot(t)
	d := runDaemon(t, filepath.Join(Work, fmt.Sprintf("d%d", serial.Add(1))), version, changes...)
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		d.Client.Close()
	})
	e := newEnv(t, r, d)
	e.Guard(t)
	return e
}

func newEnv(t *testing.T, r Runtime, d *daemon.Daemon) *Env {
	namespace := Token + "-" + r.Name
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), namespace), 10*patience)
	t.Cleanup(cancel)
	e := &Env{Runtime: r, Daemon: d, Namespace: namespace, Context: ctx}
	e.prepare(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log ends with:\n%s", d.LogTail(15))
		}
	})
	return e
}

var (
	serial   atomic.Int64 // makes names unique
	shared   *daemon.Daemon
	prepared sync.Map // daemon directory and namespace → struct{}
)

// NeedsRoot skips the test where no containers can be made.
func NeedsRoot(t *testing.T) {
	t.Helper()
	if needsRoot != "" {
		t.Skip(needsRoot)
	}
}

// StartDaemon runs a containerd below dir, with CRI unless cri is nil, whose shims register containers at
// [Registrations] and leave the race detector's reports where [Env.Guard] finds them. Changes are made to it before
// it starts.
func StartDaemon(ctx context.Context, dir string, version daemon.Version, cri *daemon.CRI, changes ...func(*daemon.Daemon)) (*daemon.Daemon, error) {
	config := filepath.Join(Work, "pvelxc.toml")
	if err := os.MkdirAll(Registrations(), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, "version = 1\n[pve]\nroot = %q\n", Registrations()), 0o600); err != nil {
		return nil, err
	}
	d, err := daemon.New(dir, version, cri)
	if err != nil {
		return nil, err
	}
	d.Env = append(d.Env, "GORACE=atexit_sleep_ms=0 log_path="+filepath.Join(Work, "race"), "PVELXC_CONFIG="+config)
	for _, change := range changes {
		change(d)
	}
	return d, d.Start(ctx)
}

func sharedDaemon(t *testing.T) *daemon.Daemon {
	t.Helper()
	NeedsRoot(t)
	if shared == nil {
		shared = runDaemon(t, filepath.Join(Work, "d"), daemon.Containerd2)
	}
	return shared
}

func stopShared() {
	if shared != nil {
		_ = shared.Stop()
	}
}

func runDaemon(t *testing.T, dir string, version daemon.Version, changes ...func(*daemon.Daemon)) *daemon.Daemon {
	t.Helper()
	d, err := StartDaemon(context.Background(), dir, version, nil, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Registrations is where containers are registered, in the place of a cluster's filesystem: tests
// that run on a Proxmox VE node must not add guests to its cluster.
func Registrations() string { return filepath.Join(Work, "pve") }

var archive = sync.OnceValues(image.Archive)

// prepare imports the images into the environment's namespace and runs a container and a pod's sandbox
// to their end, so that directories that exist once per namespace are there before a census is taken.
func (e *Env) prepare(t *testing.T) {
	t.Helper()
	if _, done := prepared.LoadOrStore(e.Daemon.Dir+" "+e.Namespace, struct{}{}); done {
		return
	}
	data, err := archive()
	if err != nil {
		t.Fatal(err)
	}
	imported, err := e.Daemon.Client.Import(e.Context, bytes.NewReader(data))
	if err != nil {
		t.Fatalf("import the test images: %v", err)
	}
	for _, i := range imported {
		if err := containerd.NewImage(e.Daemon.Client, i).Unpack(e.Context, snapshotter); err != nil {
			t.Fatalf("unpack %s: %v", i.Name, err)
		}
	}
	pod := e.NewID()
	for _, kind := range [][]Option{{}, {ID(pod), Pod(pod, "sandbox")}} {
		if got := e.Run(t, append(kind, Args("true"))...); got.Status != 0 {
			t.Fatalf("the first container of %s exited with %d: %s", e.Runtime.Name, got.Status, got.Stderr)
		}
	}
}

// snapshotter supplies the containers' root filesystems: $PVELXC_TEST_SNAPSHOTTER, else overlayfs.
var snapshotter = cmp.Or(os.Getenv("PVELXC_TEST_SNAPSHOTTER"), "overlayfs")
