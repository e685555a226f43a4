package nerdctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/image"
)

func TestReadOnly(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		got := n.sh(t, []string{"--read-only", "--tmpfs", "/tmp"}, "touch /x; touch /tmp/x && echo tmp; echo >/dev/shm/x && echo shm")
		if got.status != 0 || got.stdout != "tmp\nshm\n" || !strings.Contains(got.stderr, "/x: Read-only file system") {
			t.Errorf("got %s", got)
		}
	})
}

func TestTmpfs(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		script := "df -k /data/deep | tail -n 1 | awk '{ print $2 }'; stat -c '%a' /data/deep; cp /bin/busybox /data/deep/true; /data/deep/true"
		got := n.sh(t, []string{"--tmpfs", "/data/deep:size=4m,mode=1700"}, script)
		if got.status != 126 || got.stdout != "4096\n1700\n" {
			t.Errorf("got %s, want 4 MiB, mode 1700 and noexec", got)
		}
	})
}

func TestBindVolume(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		dir := t.TempDir()
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, []byte("from the host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		got := n.sh(t, []string{"-v", dir + ":/rw", "-v", dir + ":/ro:ro", "-v", file + ":/etc/motd:ro"},
			"cat /rw/file /etc/motd; echo made >/rw/new; cat /ro/new; echo >/ro/no; echo >/etc/motd")
		if got.stdout != "from the host\nfrom the host\nmade\n" || strings.Count(got.stderr, "Read-only file system") != 2 {
			t.Errorf("got %s", got)
		}
		if data, err := os.ReadFile(filepath.Join(dir, "new")); err != nil || string(data) != "made\n" {
			t.Errorf("the host sees %q, %v", data, err)
		}
	})
}

// A mount made on the host later appears in a container that asked for it, and read-only stays.
func TestPropagation(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		dir := t.TempDir()
		mount := func(source, target, kind string, flags uintptr) {
			t.Helper()
			if err := unix.Mount(source, target, kind, flags, ""); err != nil {
				t.Fatal(err)
			}
			if kind != "" {
				t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
			}
		}
		mount("tmpfs", dir, "tmpfs", 0)
		mount("", dir, "", unix.MS_SHARED)
		sub := filepath.Join(dir, "sub")
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		name := n.start(t, "--mount", "type=bind,source="+dir+",target=/m,readonly,bind-propagation=rslave")
		mount("tmpfs", sub, "tmpfs", 0)
		if err := os.WriteFile(filepath.Join(sub, "file"), []byte("later\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := n.ok(t, "exec", name, "cat", "/m/sub/file"); got != "later" {
			t.Errorf("got %q", got)
		}
		if got := n.try(t, "exec", name, "touch", "/m/x"); !strings.Contains(got.stderr, "Read-only") {
			t.Errorf("got %s", got)
		}
	})
}

func TestNamedVolume(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		volume := n.env.NewID()
		n.ok(t, "volume", "create", volume)
		defer n.ok(t, "volume", "rm", volume)
		if got := n.sh(t, []string{"-v", volume + ":/home"}, "ls /home; echo kept >/home/x"); got.stdout != "app\n" {
			t.Errorf("a new volume has not what the image has there: %s", got)
		}
		if got := n.sh(t, []string{"-v", volume + ":/v:ro"}, "cat /v/x; touch /v/y"); got.stdout != "kept\n" || !strings.Contains(got.stderr, "Read-only") {
			t.Errorf("got %s", got)
		}
	})
}

// A volume without a name goes with its container.
func TestAnonymousVolume(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		if got := n.sh(t, []string{"-v", "/anon"}, "echo x >/anon/x && grep -c ' /anon ' /proc/mounts"); got.stdout != "1\n" {
			t.Errorf("got %s", got)
		}
		if got := n.ok(t, "volume", "ls", "-q"); got != "" {
			t.Errorf("volumes %q stay", got)
		}
	})
}

func TestVolumesFrom(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		dir := t.TempDir()
		first := n.start(t, "-v", dir+":/shared")
		n.ok(t, "exec", first, "sh", "-c", "echo hi >/shared/x")
		if got := n.sh(t, []string{"--volumes-from", first}, "cat /shared/x"); got.stdout != "hi\n" {
			t.Errorf("got %s", got)
		}
	})
}

func TestCopy(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		dir := t.TempDir()
		in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
		if err := os.WriteFile(in, []byte("payload\n"), 0o640); err != nil {
			t.Fatal(err)
		}
		name := n.start(t)
		n.ok(t, "cp", in, name+":/tmp/there")
		if got := n.ok(t, "exec", name, "sh", "-c", "cat /tmp/there; stat -c %a /tmp/there"); got != "payload\n640" {
			t.Errorf("in the container: %q", got)
		}
		n.ok(t, "exec", name, "sh", "-c", "mkdir -p /made/sub; echo back >/made/sub/file; ln -s file /made/sub/link")
		n.ok(t, "cp", name+":/made", out)
		if data, err := os.ReadFile(filepath.Join(out, "sub", "file")); err != nil || string(data) != "back\n" {
			t.Errorf("out of the container: %q, %v", data, err)
		}
		if target, err := os.Readlink(filepath.Join(out, "sub", "link")); err != nil || target != "file" {
			t.Errorf("the link leads to %q, %v", target, err)
		}
		n.ok(t, "stop", name)
		n.ok(t, "cp", name+":/tmp/there", filepath.Join(dir, "stopped"))
		if data, err := os.ReadFile(filepath.Join(dir, "stopped")); err != nil || string(data) != "payload\n" {
			t.Errorf("out of the stopped container: %q, %v", data, err)
		}
	})
}

// A committed container is an image with what the container changed, and nothing of its mounts.
func TestCommit(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		tag := "pvelxc.test/" + n.env.NewID() + ":one"
		name := n.start(t, "--tmpfs", "/scratch", "-v", "/etc/hostname:/etc/bound:ro")
		n.ok(t, "exec", name, "sh", "-c", "echo new >/added; rm /etc/group; echo tmp >/scratch/x")
		n.ok(t, "commit", "-c", `CMD ["cat", "/added"]`, name, tag)
		t.Cleanup(func() { n.ok(t, "rmi", "-f", tag) })
		if got := n.run(t, "--rm", "--net", "none", tag); got != "new" {
			t.Errorf("the image's command prints %q", got)
		}
		got := n.try(t, n.runArgs("--rm", "--net", "none", "--entrypoint", "ls", tag, "-A", "/etc/group", "/scratch", "/etc/bound")...)
		if !strings.Contains(got.stderr, "/etc/group: No such file") || strings.Contains(got.stdout, "x") {
			t.Errorf("got %s", got)
		}
		if got := n.inspect(t, name, ".State.Status"); got != "running" {
			t.Errorf("the container is %s after the commit", got)
		}
	})
}

// What the runtime needs to start a container does not stay in the container's own layer.
func TestDiffIsClean(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.name(t)
		n.run(t, "--name", name, "--net", "none", image.Busybox, "sh", "-c", "echo >/mine")
		got := n.ok(t, "diff", name)
		for line := range strings.Lines(got) {
			fields := strings.Fields(line)
			if len(fields) != 2 || !expected[fields[1]] {
				t.Errorf("the layer has %q", line)
			}
		}
		if !strings.Contains(got, "/mine") {
			t.Errorf("the layer lacks /mine: %q", got)
		}
	})
}

// expected are the paths that a container's layer may have: its own, and the mount points that
// nerdctl asks for.
var expected = map[string]bool{
	"/": true, "/mine": true, "/dev": true, "/etc": true, "/run": true,
	"/etc/hostname": true, "/etc/hosts": true, "/etc/resolv.conf": true,
}
