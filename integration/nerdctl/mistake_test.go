package nerdctl

import (
	"os"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

// Who takes the administrator's command for a runtime like runc is told, in one line, what to type instead.
func TestTakenForRunc(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	n := newCLI(t, e)
	n.prepare(t)
	n.guard(t)
	// nerdctl takes a name on its own PATH for a runtime like runc.
	t.Setenv("PATH", daemon.Bin()+":"+os.Getenv("PATH"))
	got := n.try(t, "run", "--rm", "--pull", "never", "--net", "none", "--name", n.name(t), "--runtime", "pvelxc", image.Busybox, "true")
	const want = "pvelxc is not an OCI runtime like runc: type --runtime io.containerd.pvelxc.v2 instead"
	if text := got.stderr + got.log; got.status == 0 || !strings.Contains(text, want) || strings.Count(text, "\n") != 1 {
		t.Errorf("%s, want one line with %q", got, want)
	}
}
