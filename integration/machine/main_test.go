// Package machine tests what needs a machine with AppArmor, control groups v2 alone, or systemd as
// PID 1: the test VM has them all. With PVELXC_TEST_SANDBOX=off the tests run without a sandbox around
// them, which systemd needs: it knows the processes of its own PID namespace only.
package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const mebibyte = 1 << 20

func needsUnified(t *testing.T) {
	t.Helper()
	if !harness.Unified() {
		t.Skip("needs control groups v2 alone: /sys/fs/cgroup/cgroup.controllers is missing")
	}
}

// command runs a program of the machine, which must succeed.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// group is the control group of a process, as a directory.
func group(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "0::")
	if !ok {
		t.Fatalf("process %d is in %q", pid, data)
	}
	return filepath.Join("/sys/fs/cgroup", path)
}

// file reads a file of a control group.
func file(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}
