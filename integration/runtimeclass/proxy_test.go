package runtimeclass

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/node"
)

// proxied is containerd's overlayfs, as a process of its own.
type proxied struct{}

func (proxied) command(t *testing.T, e *env) *exec.Cmd {
	t.Helper()
	if err := os.MkdirAll(e.exports(), 0o755); err != nil {
		t.Fatal(err)
	}
	return exec.Command(filepath.Join(daemon.Peers(), "snapshotters-2.0.0", "snapshotter"), "overlayfs", e.exports(), e.socket())
}

func (proxied) root(e *env, line string) error {
	if !strings.HasPrefix(line, "overlay / overlay ") || !strings.Contains(line, "upperdir="+e.exports()) {
		return fmt.Errorf("it is %q", line)
	}
	return nil
}

// snapshots are asked for: the directory of a removed one stays until a later clean-up.
func (proxied) snapshots(t *testing.T, e *env) []string {
	t.Helper()
	var names []string
	err := e.Client.SnapshotService(name).Walk(namespaces.WithNamespace(e.ctx, node.Namespace), func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func (proxied) differ() bool { return false }
