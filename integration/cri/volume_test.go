package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

// mount adds mounts to a container.
func mount(mounts ...*cri.Mount) containerOption {
	return func(c *cri.ContainerConfig) { c.Mounts = append(c.Mounts, mounts...) }
}

// filesystem is a new filesystem on the host, whose mounts propagate. It has a file and, on nested, another
// filesystem.
func (e *env) filesystem(t *testing.T) string {
	t.Helper()
	dir := e.dir(t)
	tmpfs(t, dir)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	nested := filepath.Join(dir, "nested")
	if err := os.Mkdir(nested, 0o755); err != nil {
		t.Fatal(err)
	}
	tmpfs(t, nested)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func tmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestPropagation: which mounts go from the host to the container, and back.
func TestPropagation(t *testing.T) {
	tests := map[cri.MountPropagation]struct{ in, out bool }{
		cri.MountPropagation_PROPAGATION_PRIVATE:           {},
		cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: {in: true},
		cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:     {in: true, out: true},
	}
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t, func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
		for mode, want := range tests {
			t.Run(mode.String(), func(t *testing.T) {
				dir := e.filesystem(t)
				for _, name := range []string{"host", "container"} {
					if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				c := p.sleeper(t, mount(&cri.Mount{HostPath: dir, ContainerPath: "/data", Propagation: mode}),
					security(func(s *cri.LinuxContainerSecurityContext) { s.Privileged = true }))
				tmpfs(t, filepath.Join(dir, "host"))
				c.exec(t, "mount -t tmpfs from-container /data/container")
				equal(t, "mounts of the host that the container sees", c.exec(t, "grep -c ' /data/host ' /proc/self/mountinfo || true"), map[bool]string{false: "0", true: "1"}[want.in])
				var st, parent unix.Stat_t
				if err := unix.Stat(filepath.Join(dir, "container"), &st); err != nil {
					t.Fatal(err)
				}
				if err := unix.Stat(dir, &parent); err != nil {
					t.Fatal(err)
				}
				if seen := st.Dev != parent.Dev; seen != want.out {
					t.Errorf("the host sees the container's mount: %t, want %t", seen, want.out)
				}
				c.exec(t, "umount /data/container")
			})
		}
	})
}

// TestReadOnlyVolumes: a read-only volume is writable where another filesystem is mounted in it, unless it
// is read-only recursively. Every handler must say that it can do that.
func TestReadOnlyVolumes(t *testing.T) {
	tests := map[string]struct {
		mount *cri.Mount
		want  string
	}{
		"writable":              {&cri.Mount{}, "/data/x\n/data/nested/x"},
		"read-only":             {&cri.Mount{Readonly: true}, "/data/nested/x"},
		"recursively read-only": {&cri.Mount{Readonly: true, RecursiveReadOnly: true}, ""},
	}
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				m := &cri.Mount{HostPath: e.filesystem(t), ContainerPath: "/data", Readonly: test.mount.Readonly, RecursiveReadOnly: test.mount.RecursiveReadOnly}
				equal(t, "writes", p.output(t, "for f in /data/x /data/nested/x; do touch $f 2>/dev/null && echo $f; done; cat /data/file >/dev/null", mount(m)), test.want)
			})
		}
	})
}

// TestHandlerFeatures: what CRI says of our handler is what it says of the reference's.
func TestHandlerFeatures(t *testing.T) {
	e := on(t, harness.Pvelxc, "2.4.2")
	status, err := e.Runtime.Status(e.ctx, &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	features := make(map[string]string)
	for _, h := range status.RuntimeHandlers {
		features[h.Name] = fmt.Sprintf("recursive read-only mounts %t, user namespaces %t", h.Features.GetRecursiveReadOnlyMounts(), h.Features.GetUserNamespaces())
	}
	if got, want := features[harness.Pvelxc.Name], features[harness.Runc.Name]; got != want || got == "" {
		t.Errorf("features %q, the reference's are %q", got, want)
	}
}

// TestVolumeKinds: files, missing directories, volumes inside volumes, symbolic links.
func TestVolumeKinds(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		dir := e.filesystem(t)
		inner := e.dir(t)
		if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		p := e.pod(t)
		got := p.output(t, "cat /one/file /etc/deep/down/note /link; ls -d /one/nested/inner/.; stat -c %F /made", mount(
			&cri.Mount{HostPath: dir, ContainerPath: "/one"},
			&cri.Mount{HostPath: filepath.Join(dir, "file"), ContainerPath: "/etc/deep/down/note", Readonly: true},
			&cri.Mount{HostPath: filepath.Join(dir, "link"), ContainerPath: "/link"},
			&cri.Mount{HostPath: inner, ContainerPath: "/one/nested/inner"},
			&cri.Mount{HostPath: filepath.Join(dir, "not/there"), ContainerPath: "/made"},
		))
		equal(t, "output", got, "here\nhere\nhere\n/one/nested/inner/.\ndirectory")
	})
}

// TestImageVolume: an image, or a directory of one, as a read-only volume.
func TestImageVolume(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		for name, change := range map[string]func(*cri.NamespaceOption){"host's users": func(*cri.NamespaceOption) {}, "user namespace": withUserNamespace} {
			t.Run(name, func(t *testing.T) {
				p := e.pod(t, namespaces(change))
				spec := &cri.ImageSpec{Image: image.Scratch}
				user := &cri.Mount{ContainerPath: "/vol", Image: spec, Readonly: true}
				sub := &cri.Mount{ContainerPath: "/sub", Image: &cri.ImageSpec{Image: image.Busybox}, ImageSubPath: "etc", Readonly: true}
				if name == "user namespace" {
					user.UidMappings, user.GidMappings = ids(), ids()
					sub.UidMappings, sub.GidMappings = ids(), ids()
				}
				got := p.output(t, "ls /vol; stat -c %u /vol/busybox; touch /vol/new 2>/dev/null || echo read-only; grep -c app /sub/passwd", mount(user, sub))
				equal(t, "output", got, "busybox\n0\nread-only\n1")
			})
		}
	})
}
