package nerdctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

// version names the nerdctl under out/peers.
const version = "nerdctl-2.1.2"

// cniPath is where Debian's containernetworking-plugins has its programs.
const cniPath = "/usr/lib/cni"

// settings keep all that nerdctl writes below one directory.
const settings = `address = %q
snapshotter = "overlayfs"
cgroup_manager = "cgroupfs"
data_root = %q
cni_path = %q
cni_netconfpath = %q
hosts_dir = [%q]
`

// cli is nerdctl in the containerd namespace of one runtime.
type cli struct {
	env    *harness.Env
	binary string
	dir    string // nerdctl's state, networks and configuration; the runtimes share it
}

// result is how a command ended: what the container printed, and what nerdctl has to say itself.
type result struct {
	status              int
	stdout, stderr, log string
}

// String is the whole result, for messages.
func (r result) String() string {
	return fmt.Sprintf("status %d, stdout %q, stderr %q, log %q", r.status, r.stdout, r.stderr, r.log)
}

// each runs test with nerdctl on each runtime, and fails it when it leaves anything behind.
func each(t *testing.T, test func(t *testing.T, n *cli)) {
	t.Helper()
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		n := newCLI(t, e)
		n.prepare(t)
		n.guard(t)
		test(t, n)
	})
}

func newCLI(t *testing.T, e *harness.Env) *cli {
	t.Helper()
	n := &cli{env: e, binary: filepath.Join(daemon.Peers(), version, "nerdctl"), dir: filepath.Join(harness.Work, "nerdctl")}
	if _, err := os.Stat(n.binary); err != nil {
		t.Fatalf("find nerdctl: %v (hint: integration/peers/build.sh nerdctl)", err)
	}
	if _, err := os.Stat(filepath.Join(cniPath, "bridge")); err != nil {
		t.Skipf("needs the CNI plugins: %v (hint: apt-get install containernetworking-plugins)", err)
	}
	return n
}

var (
	preparing sync.Mutex
	prepared  = make(map[string]bool) // by namespace
)

// prepare writes nerdctl's configuration and runs one container with a published port, so that what
// nerdctl makes once, such as its bridge and its firewall chains, is there before a census is taken.
func (n *cli) prepare(t *testing.T) {
	t.Helper()
	preparing.Lock()
	defer preparing.Unlock()
	if prepared[n.env.Namespace] {
		return
	}
	prepared[n.env.Namespace] = true
	for _, dir := range []string{n.dir, n.path("net.d"), n.path("hosts.d")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(settings, n.env.Daemon.Address, n.path("data"), cniPath, n.path("net.d"), n.path("hosts.d"))
	if err := os.WriteFile(n.path("nerdctl.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.run(t, "--rm", "-p", "127.0.0.1:1:1", image.Busybox, "true")
}

// path is a name in nerdctl's directory.
func (n *cli) path(name string) string { return filepath.Join(n.dir, name) }

// command is nerdctl with these arguments. It is killed when the test ends.
func (n *cli) command(args ...string) *exec.Cmd {
	return n.commandContext(n.env.Context, args...)
}

// patience bounds one command.
const patience = time.Minute

func (n *cli) commandContext(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.binary, args...)
	cmd.Env = append(os.Environ(), "NERDCTL_TOML="+n.path("nerdctl.toml"), "CONTAINERD_NAMESPACE="+n.env.Namespace)
	cmd.WaitDelay = 5 * time.Second // a child that keeps the pipes open must not block the test
	return cmd
}

// try runs a command to its end, however it ends.
func (n *cli) try(t testing.TB, args ...string) result {
	t.Helper()
	return n.finish(t, "", args...)
}

// feed runs a command with text as standard input.
func (n *cli) feed(t testing.TB, text string, args ...string) result {
	t.Helper()
	return n.finish(t, text, args...)
}

func (n *cli) finish(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(n.env.Context, patience)
	defer cancel()
	cmd := n.commandContext(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		t.Fatalf("nerdctl %q: %v\n%s%s", cmd.Args[1:], err, stdout.String(), stderr.String())
	}
	got := result{status: cmd.ProcessState.ExitCode(), stdout: stdout.String()}
	for line := range strings.Lines(stderr.String()) {
		if strings.HasPrefix(line, `time="`) { // logrus without a terminal
			got.log += line
		} else {
			got.stderr += line
		}
	}
	return got
}

// ok runs a command, which must succeed, and returns what it printed, without the final newline.
func (n *cli) ok(t testing.TB, args ...string) string {
	t.Helper()
	got := n.try(t, args...)
	if got.status != 0 {
		t.Fatalf("nerdctl %q: %s", args, got)
	}
	return strings.TrimSuffix(got.stdout, "\n")
}

// runArgs is the command line of nerdctl run on this runtime.
func (n *cli) runArgs(args ...string) []string {
	return append([]string{"run", "--pull", "never", "--runtime", n.env.Runtime.Type}, args...)
}

// run is nerdctl run, which must succeed.
func (n *cli) run(t testing.TB, args ...string) string {
	t.Helper()
	return n.ok(t, n.runArgs(args...)...)
}

// sh runs a shell script in a container of its own, without a network, with these flags.
func (n *cli) sh(t testing.TB, flags []string, script string) result {
	t.Helper()
	args := append([]string{"--rm", "--net", "none"}, flags...)
	return n.try(t, n.runArgs(append(args, image.Busybox, "sh", "-c", script)...)...)
}

// forever is a script that runs until SIGTERM, on which it ends with status 0.
const forever = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"

// start runs a container in the background until the test ends and returns its name.
func (n *cli) start(t testing.TB, flags ...string) string {
	t.Helper()
	return n.detach(t, forever, append([]string{"--net", "none"}, flags...)...)
}

// detach runs a script in a container in the background, which is removed when the test ends.
func (n *cli) detach(t testing.TB, script string, flags ...string) string {
	t.Helper()
	name := n.name(t)
	args := append([]string{"-d", "--name", name}, flags...)
	n.run(t, append(args, image.Busybox, "sh", "-c", script)...)
	return name
}

// name is a name for a container, which is removed when the test ends.
func (n *cli) name(t testing.TB) string {
	name := n.env.NewID()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := n.commandContext(ctx, "rm", "-f", "-v", name)
		if out, err := cmd.CombinedOutput(); err != nil && !bytes.Contains(out, []byte("no such container")) {
			t.Errorf("remove %s: %v: %s", name, err, out)
		}
	})
	return name
}

// inspect is one field of a container, as a Go template prints it.
func (n *cli) inspect(t testing.TB, name, field string) string {
	t.Helper()
	return n.ok(t, "inspect", "--format", "{{"+field+"}}", name)
}

// becomes waits until a field of a container has this value.
func (n *cli) becomes(t testing.TB, name, field, want string) {
	t.Helper()
	harness.Eventually(t, field+" of "+name, func() error {
		if got := n.inspect(t, name, field); got != want {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

// logs waits until the container's log has text.
func (n *cli) logs(t testing.TB, name, text string) {
	t.Helper()
	harness.Eventually(t, "log of "+name, func() error {
		if got := n.try(t, "logs", name).stdout; !strings.Contains(got, text) {
			return fmt.Errorf("no %q in %q", text, got)
		}
		return nil
	})
}
