package nerdctl

import (
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// status runs a container that prints the status of its process.
func (n *cli) status(t testing.TB, flags ...string) map[string]string {
	t.Helper()
	got := n.sh(t, flags, "cat /proc/self/status")
	if got.status != 0 {
		t.Fatalf("%q: %s", flags, got)
	}
	return harness.ParseStatus(got.stdout)
}

func TestCapabilities(t *testing.T) {
	const (
		none    = "0000000000000000"
		usual   = "00000000a80425fb" // what containerd gives by default
		netRaw  = "0000000000002000"
		noChown = "00000000a80425fa"
	)
	rows := []struct {
		name, effective, permitted, bounding string
		flags                                []string
	}{
		{"default", usual, usual, usual, nil},
		{"none", none, none, none, []string{"--cap-drop", "ALL"}},
		{"without one", noChown, noChown, noChown, []string{"--cap-drop", "CHOWN"}},
		{"only one", netRaw, netRaw, netRaw, []string{"--cap-drop", "ALL", "--cap-add", "NET_RAW"}},
		{"one more", "00000000a80435fb", "00000000a80435fb", "00000000a80435fb", []string{"--cap-add", "CAP_NET_ADMIN"}},
		{"user", none, none, usual, []string{"--user", "1000"}},
	}
	each(t, func(t *testing.T, n *cli) {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				got := n.status(t, row.flags...)
				if got["CapEff"] != row.effective || got["CapPrm"] != row.permitted || got["CapBnd"] != row.bounding {
					t.Errorf("effective %s, permitted %s, bounding %s", got["CapEff"], got["CapPrm"], got["CapBnd"])
				}
				if got["CapAmb"] != none || got["CapInh"] != none {
					t.Errorf("ambient %s, inheritable %s, want none", got["CapAmb"], got["CapInh"])
				}
			})
		}
	})
}

func TestSecurityOptions(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		for _, row := range []struct {
			name, newPrivileges, filter string
			flags                       []string
		}{
			{"default", "0", "2", nil},
			{"no new privileges", "1", "2", []string{"--security-opt", "no-new-privileges"}},
			{"no filter", "0", "0", []string{"--security-opt", "seccomp=unconfined"}},
		} {
			got := n.status(t, row.flags...)
			if got["NoNewPrivs"] != row.newPrivileges || got["Seccomp"] != row.filter {
				t.Errorf("%s: NoNewPrivs %s, Seccomp %s", row.name, got["NoNewPrivs"], got["Seccomp"])
			}
		}
	})
}

// The default filter forbids new user namespaces to those without CAP_SYS_ADMIN.
func TestSeccompForbids(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		if got := n.sh(t, nil, "unshare -U true"); got.status == 0 || !strings.Contains(got.stderr, "Operation not permitted") {
			t.Errorf("got %s", got)
		}
		if got := n.sh(t, []string{"--security-opt", "seccomp=unconfined"}, "unshare -U true"); got.status != 0 {
			t.Errorf("without the filter: %s", got)
		}
	})
}

// A privileged container has what root has here, the devices of the machine and a writable /sys.
func TestPrivileged(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		script := "cat /proc/self/status; test -c /dev/fuse && echo fuse; mount -t tmpfs none /mnt 2>/dev/null || mkdir -p /mnt && mount -t tmpfs none /mnt && echo mounted; " +
			"awk '$2 == \"/sys\" && $4 ~ /^rw/ { print \"writable\" }' /proc/mounts"
		got := n.sh(t, []string{"--privileged"}, script)
		status := harness.ParseStatus(got.stdout)
		if own := harness.Status(t, 1); status["CapEff"] != own["CapEff"] {
			t.Errorf("capabilities %s, want %s", status["CapEff"], own["CapEff"])
		}
		if status["Seccomp"] != "0" {
			t.Errorf("seccomp %s, want none", status["Seccomp"])
		}
		for _, word := range []string{"fuse\n", "mounted\n", "writable\n"} {
			if !strings.Contains(got.stdout, word) {
				t.Errorf("not %s: %s", strings.TrimSpace(word), got)
			}
		}
	})
}

// A container without privileges has a read-only /sys, hidden files in /proc, and may not mount.
func TestUnprivileged(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		got := n.sh(t, nil, "mkdir /x; mount -t tmpfs none /x; echo 1 >/proc/sys/vm/swappiness; mkdir /sys/x; wc -c </proc/keys; test -c /dev/fuse; echo $?")
		if got.stdout != "0\n1\n" {
			t.Errorf("got %s", got)
		}
		for _, want := range []string{"mount: permission denied", "/proc/sys/vm/swappiness: Read-only", "directory '/sys/x': Read-only"} {
			if !strings.Contains(got.stderr, want) {
				t.Errorf("no %q in %q", want, got.stderr)
			}
		}
	})
}

func TestDevice(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		if got := n.sh(t, []string{"--device", "/dev/fuse:/dev/mine:r"}, "stat -c '%t:%T %F' /dev/mine; true >/dev/mine; true </dev/mine && echo read"); got.stdout != "a:e5 character special file\nread\n" || !strings.Contains(got.stderr, "Operation not permitted") {
			t.Errorf("got %s", got)
		}
		if got := n.sh(t, nil, "mknod /dev/other c 10 229 && true </dev/other"); got.status == 0 {
			t.Errorf("a device nobody gave opens: %s", got)
		}
	})
}
