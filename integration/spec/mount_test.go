package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/harness"
)

func TestReadonlyRootfs(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("touch: /file: Read-only file system", "dev ok"),
			"touch /file 2>&1; echo x >/dev/null && touch /dev/shm/f && echo dev ok", harness.Spec(oci.WithRootFSReadonly()))
	})
}

func TestMaskedAndReadonlyPaths(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("0", "0", "read-only", "writable"), strings.Join([]string{
			"cat /etc/group | wc -c",
			"ls -A /home | wc -l",
			"touch /etc/passwd 2>/dev/null && echo writable || echo read-only",
			"touch /root/f && echo writable",
		}, "; "), harness.Spec(oci.WithMaskedPaths([]string{"/etc/group", "/home", "/no/such/path"}),
			oci.WithReadonlyPaths([]string{"/etc/passwd", "/no/such/path"})))
	})
}

// The defaults of containerd hide and protect the kernel's own files.
func TestDefaultProtection(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("0", "no", "no"), strings.Join([]string{
			"cat /proc/keys | wc -c",
			"(echo 1 >/proc/sys/vm/drop_caches) 2>/dev/null && echo yes || echo no",
			"(echo h >/proc/sysrq-trigger) 2>/dev/null && echo yes || echo no",
		}, "; "))
	})
}

func TestTmpfs(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		prints(t, e, lines("tmpfs 1024", "drwxrwx--- 2 1000 1000", "no exec"), strings.Join([]string{
			"df -k /scratch | awk 'NR == 2 { print $1, $2 }'",
			"ls -lnd /scratch | awk '{ print $1, $2, $3, $4 }'",
			"cp /bin/busybox /scratch/true 2>/dev/null; printf '#!/bin/sh\n' >/scratch/s; chmod +x /scratch/s; /scratch/s 2>/dev/null || echo no exec",
		}, "; "), harness.Mounts(specs.Mount{
			Destination: "/scratch", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"noexec", "nosuid", "size=1m", "mode=0770", "uid=1000", "gid=1000"},
		}))
	})
}

func TestBind(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		dir := volume(t)
		prints(t, e, lines("content", "content", "read-only", "content"), strings.Join([]string{
			"cat /volume/file", "cat /deep/new/path/file", "touch /fixed/f 2>/dev/null && echo writable || echo read-only", "cat /one/file.txt",
			"echo from inside >/volume/made",
		}, "; "), harness.Mounts(
			bind(dir, "/volume", "rbind", "rw"),
			bind(dir, "/deep/new/path", "bind"),
			bind(dir, "/fixed", "rbind", "ro"),
			bind(filepath.Join(dir, "file"), "/one/file.txt", "bind", "ro"),
		))
		if data, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(data) != "from inside\n" {
			t.Errorf("what the container wrote: %q, %v", data, err)
		}
	})
}

// A destination that is a symbolic link is followed inside the root, never out of it.
func TestBindThroughSymlink(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		dir := volume(t)
		inner := volume(t)
		if err := os.Symlink("/tmp", filepath.Join(inner, "link")); err != nil {
			t.Fatal(err)
		}
		sub := harness.Token + "-sub" // that nobody else has in /tmp
		prints(t, e, lines("content"), "cat /tmp/"+sub+"/file", harness.Mounts(
			bind(inner, "/links", "bind"),
			bind(dir, "/links/link/"+sub, "bind"),
		))
		if _, err := os.Stat("/tmp/" + sub); err == nil {
			t.Error("the mount point was made on the host")
		}
	})
}

// The source of a bind mount must exist.
func TestBindMissingSource(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		refused(t, e, []string{"/no/such/source"}, harness.Mounts(bind("/no/such/source", "/volume", "bind")))
	})
}

// recursively read-only covers what is mounted below the source; plain ro does not.
func TestBindRecursiveReadonly(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		dir := volume(t)
		below := filepath.Join(dir, "below")
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(below, unix.MNT_DETACH) })
		script := "touch /volume/below/f 2>/dev/null && echo writable || echo read-only"
		prints(t, e, lines("writable"), script, harness.Mounts(bind(dir, "/volume", "rbind", "ro")))
		prints(t, e, lines("read-only"), script, harness.Mounts(bind(dir, "/volume", "rbind", "rro")))
	})
}

// A mount made in the container reaches the host through a shared volume, and nowhere else.
func TestPropagation(t *testing.T) {
	for _, test := range []struct {
		mode           string
		inside, onHost string
	}{
		{"rprivate", "0", "0"},
		{"rslave", "1", "0"},
		{"rshared", "1", "1"},
	} {
		t.Run(test.mode, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				dir := volume(t)
				if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
				if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
					t.Fatal(err)
				}
				for _, sub := range []string{"host", "container"} {
					if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				c := e.Start(t, harness.Forever(), harness.Mounts(bind(dir, "/volume", "rbind", test.mode)),
					harness.Spec(oci.WithAddedCapabilities([]string{"CAP_SYS_ADMIN"})), harness.Edit(func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" }))
				host := filepath.Join(dir, "host")
				if err := unix.Mount("tmpfs", host, "tmpfs", 0, ""); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Unmount(host, unix.MNT_DETACH) })
				if got := strings.TrimSpace(c.Sh(t, "grep -c ' /volume/host ' /proc/self/mounts || true")); got != test.inside {
					t.Errorf("a mount of the host is seen %s times inside, want %s", got, test.inside)
				}
				c.Sh(t, "mount -t tmpfs tmpfs /volume/container")
				mounts, err := os.ReadFile("/proc/self/mounts")
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprint(strings.Count(string(mounts), " "+dir+"/container ")); got != test.onHost {
					t.Errorf("a mount of the container is seen %s times on the host, want %s", got, test.onHost)
				}
				c.Sh(t, "umount /volume/container")
			})
		})
	}
}

// The rootfs takes the propagation the spec asks for.
func TestRootfsPropagation(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		for propagation, want := range map[string]string{"private": "", "slave": "", "shared": "shared"} {
			script := `awk '$5 == "/" { for (i = 7; $i != "-"; i++) if ($i ~ /^shared/) print "shared" }' /proc/self/mountinfo | tail -1`
			got := e.Run(t, harness.Shell(script), harness.Edit(func(s *specs.Spec) { s.Linux.RootfsPropagation = propagation }))
			if strings.TrimSpace(got.Stdout) != want {
				t.Errorf("%s: the root is %q, want %q", propagation, strings.TrimSpace(got.Stdout), want)
			}
		}
	})
}

// Nothing the runtime needs for itself is to be seen inside.
func TestMountTableIsClean(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		got := e.Run(t, harness.Args("cat", "/proc/self/mountinfo"))
		for line := range strings.Lines(got.Stdout) {
			point := strings.Fields(line)[4]
			if !strings.HasPrefix(point, "/proc") && !strings.HasPrefix(point, "/sys") && !strings.HasPrefix(point, "/dev") && point != "/" && point != "/run" {
				t.Errorf("unexpected mount: %s", line)
			}
		}
	})
}

// Nothing is left in the snapshot but what the container wrote, and the mount points it needs.
func TestSnapshotIsClean(t *testing.T) {
	harness.Each(t, func(t *testing.T, e *harness.Env) {
		c := e.Start(t, harness.FromScratch(), harness.Args("/busybox", "true"))
		c.Wait(t)
		mounts, err := e.Daemon.Client.SnapshotService("overlayfs").Mounts(e.Context, c.ID())
		if err != nil {
			t.Fatal(err)
		}
		var upper string
		for _, option := range mounts[0].Options {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				upper = dir
			}
		}
		allowed := map[string]bool{"dev": true, "proc": true, "sys": true, "run": true}
		entries, err := os.ReadDir(upper)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			below, _ := os.ReadDir(filepath.Join(upper, entry.Name()))
			if !allowed[entry.Name()] || len(below) > 0 {
				t.Errorf("%s with %d entries was left in the snapshot", entry.Name(), len(below))
			}
		}
	})
}

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: options}
}

// volume is a directory of the host with one file in it.
func volume(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
