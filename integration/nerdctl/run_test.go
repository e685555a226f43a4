package nerdctl

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

func TestRun(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		got := n.try(t, n.runArgs("--rm", image.Busybox, "sh", "-c", "echo out; echo err >&2; exit 7")...)
		if got.status != 7 || got.stdout != "out\n" || got.stderr != "err\n" {
			t.Errorf("got %s", got)
		}
	})
}

// A command that cannot run is refused by name, and its container does not stay.
func TestRunOfNothing(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		for _, command := range []string{"no-such-command", "/etc/passwd"} {
			got := n.try(t, n.runArgs("--rm", "--net", "none", image.Busybox, command)...)
			if got.status == 0 || !strings.Contains(got.log, command) {
				t.Errorf("%s: got %s", command, got)
			}
		}
	})
}

func TestRunReadsStdin(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		if n.env.Runtime == harness.Runc {
			t.Skip("with runc's shim the end of standard input is sometimes lost, or never comes")
		}
		text := strings.Repeat("a line of some length\n", 20000)
		// Not sent back: nerdctl's log driver, through which all output goes, stops at the container's
		// end, whatever it has not read by then.
		got := n.feed(t, text, n.runArgs("--rm", "-i", "--net", "none", image.Busybox, "sha256sum")...)
		if want := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(text))); got.status != 0 || got.stdout != want {
			t.Errorf("want %q, got %s", want, got)
		}
	})
}

// An input may be over before there is a container that could be told.
func TestRunReadsShortStdin(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		if n.env.Runtime == harness.Runc {
			t.Skip("runc's shim waits for more")
		}
		for _, text := range []string{"", "x\n"} {
			got := n.feed(t, text, n.runArgs("--rm", "-i", "--net", "none", image.Busybox, "cat")...)
			if got.status != 0 || got.stdout != text {
				t.Errorf("%q came back as %s", text, got)
			}
			id := n.start(t, "--net", "none")
			got = n.feed(t, text, "exec", "-i", id, "cat")
			if got.status != 0 || got.stdout != text {
				t.Errorf("exec: %q came back as %s", text, got)
			}
			n.ok(t, "rm", "-f", id)
		}
	})
}

// What a container is told about itself.
func TestRunIdentity(t *testing.T) {
	const who = `echo "$(id -u):$(id -g) $(id -G)"`
	rows := []struct {
		name, script, want string
		flags              []string
	}{
		{"hostname", "hostname; cat /etc/hostname", "web\nweb\n", []string{"--hostname", "web"}},
		{"env", `echo "$A|$B"`, "x y|\"quoted\"\n", []string{"-e", "A=x y", "--env", `B="quoted"`}},
		{"workdir", "pwd", "/tmp\n", []string{"--workdir", "/tmp"}},
		{"new workdir", "pwd; stat -c %U .", "/made/just/now\nroot\n", []string{"-w", "/made/just/now"}},
		{"entrypoint", "unused", "-c\nunused\n", []string{"--entrypoint", "printf", "--entrypoint", `%s\n`}},
		{"uid", who, "4000:0 0\n", []string{"--user", "4000"}},
		{"uid and gid", who, "4000:5000 5000\n", []string{"--user", "4000:5000"}},
		{"user", who + "; echo $HOME", "1000:1000 1000 2000 2001\n/home/app\n", []string{"--user", "app"}},
		{"added groups", who, "0:0 0 2001 3000\n", []string{"--group-add", "audio", "--group-add", "3000"}},
		{"umask", "umask", "0027\n", []string{"--umask", "0027"}},
		{"hosts", "grep -c 192.0.2.7 /etc/hosts", "1\n", []string{"--net", "bridge", "--add-host", "there:192.0.2.7"}},
		{"dns", "grep ^nameserver /etc/resolv.conf", "nameserver 192.0.2.53\n", []string{"--net", "bridge", "--dns", "192.0.2.53"}},
	}
	each(t, func(t *testing.T, n *cli) {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				args := append([]string{"--rm", "--net", "none"}, row.flags...)
				if row.flags[0] == "--net" {
					args = append([]string{"--rm"}, row.flags...)
				}
				command := []string{image.Busybox, "sh", "-c", row.script}
				if row.flags[0] == "--entrypoint" {
					command = append([]string{image.Busybox}, command[2:]...)
				}
				if got := n.try(t, n.runArgs(append(args, command...)...)...); got.status != 0 || got.stdout != row.want {
					t.Errorf("got %s, want %q", got, row.want)
				}
			})
		}
	})
}

func TestRunFiles(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		envfile, cidfile, pidfile := n.path("env"), n.path("cid"), n.path("pid")
		if err := os.WriteFile(envfile, []byte("# comment\nFROM_FILE=yes\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(cidfile); _ = os.Remove(pidfile) })
		name := n.start(t, "--env-file", envfile, "--cidfile", cidfile, "--pidfile", pidfile, "--label", "tier=front")
		if got := n.ok(t, "exec", name, "sh", "-c", "echo $FROM_FILE"); got != "yes" {
			t.Errorf("the variable is %q", got)
		}
		for file, field := range map[string]string{cidfile: ".Id", pidfile: ".State.Pid"} {
			data, err := os.ReadFile(file)
			if want := n.inspect(t, name, field); err != nil || strings.TrimSpace(string(data)) != want {
				t.Errorf("%s holds %q (%v), want %s", file, data, err, want)
			}
		}
		if got := n.ok(t, "ps", "--filter", "label=tier=front", "--format", "{{.Names}}"); got != name {
			t.Errorf("ps by label shows %q, want %s", got, name)
		}
	})
}

// An init that forwards signals and reaps: tini is PID 1, and the command its child.
func TestRunInit(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		tini := "/usr/bin/tini-static"
		if _, err := os.Stat(tini); err != nil {
			t.Skipf("needs tini: %v (hint: apt-get install tini)", err)
		}
		got := n.sh(t, []string{"--init", "--init-binary", tini}, "readlink /proc/1/exe; tr '\\0' ' ' </proc/1/cmdline | cut -d ' ' -f 1; exit 3")
		if got.status != 3 || got.stdout != "/sbin/tini-static\n/sbin/tini-static\n" {
			t.Errorf("got %s", got)
		}
	})
}

func TestInspect(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t, "--hostname", "seen", "-e", "K=v")
		for field, want := range map[string]string{
			".State.Status": "running", ".State.Running": "true", ".State.Paused": "false",
			".Name": name, ".Config.Hostname": "seen", ".Image": image.Busybox, ".Driver": "overlayfs",
		} {
			if got := n.inspect(t, name, field); got != want {
				t.Errorf("%s is %q, want %q", field, got, want)
			}
		}
		pid := n.pid(t, name)
		if !harness.Alive(pid) {
			t.Errorf("pid %d is no process", pid)
		}
		native := n.ok(t, "container", "inspect", "--mode", "native", name)
		if want := fmt.Sprintf("%q", n.env.Runtime.Type); !strings.Contains(native, want) {
			t.Errorf("no runtime %s in %s", want, native)
		}
	})
}
