package task

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/integration/daemon"
	"github.com/pvelxc/pvelxc/integration/harness"
)

// criu is the program that checkpoints need, if it works on this machine.
func criu(t *testing.T) {
	t.Helper()
	path := filepath.Join(daemon.Peers(), "criu-4.1.1", "criu")
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath("criu"); err != nil {
			t.Skipf("needs CRIU: %v (hint: integration/peers/build.sh criu)", err)
		}
	}
	if out, err := exec.Command(path, "check").CombinedOutput(); err != nil {
		t.Skipf("needs a CRIU that works with this kernel: %v: %s", err, out)
	}
}

// counter counts in a file, so that a restored one is told from a new one.
const counter = "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done"

// checkpoint dumps the task into a directory, as the task API does it, without an image.
func checkpoint(t *testing.T, e *harness.Env, c *harness.Container, o *runcoptions.CheckpointOptions) (images string, err error) {
	t.Helper()
	images = filepath.Join(t.TempDir(), "images")
	o.ImagePath, o.WorkPath = images, filepath.Join(t.TempDir(), "work")
	_, err = c.Task.Checkpoint(e.Context, func(i *containerd.CheckpointTaskInfo) error {
		i.Options, i.Name = o, e.NewID() // the client's own name for the image has one for each second
		return nil
	})
	if log, e := os.ReadFile(filepath.Join(o.WorkPath, "dump.log")); err != nil && e == nil {
		t.Logf("criu: %s", tail(string(log), 40))
	}
	return images, err
}

func tail(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func count(t *testing.T, root string) int {
	t.Helper()
	n := 0
	harness.Eventually(t, "a number", func() (err error) {
		data, err := os.ReadFile(filepath.Join(root, "tmp", "count"))
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(data)))
		}
		return err
	})
	return n
}

// variants are containers whose dumps differ.
var variants = map[string][]harness.Option{
	"default":   nil,
	"read-only": {harness.Edit(func(s *specs.Spec) { s.Root.Readonly = true }), harness.Mounts(specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})},
	"volume":    {harness.Mounts(specs.Mount{Destination: "/srv/data", Type: "bind", Source: "/usr/share", Options: []string{"rbind", "ro"}})},
	"cgroup":    {harness.Spec(oci.WithMounts([]specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}}}))},
}

// A checkpoint leaves the container running, or ends it.
func TestCheckpoint(t *testing.T) {
	criu(t)
	for name, options := range variants {
		t.Run(name, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, e *harness.Env) {
				c := e.Start(t, append([]harness.Option{harness.Shell(counter)}, options...)...)
				root := filepath.Join("/proc", strconv.Itoa(int(c.Task.Pid())), "root")
				before := count(t, root)
				images, err := checkpoint(t, e, c, &runcoptions.CheckpointOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(filepath.Join(images, "inventory.img")); err != nil {
					t.Error(err)
				}
				harness.Eventually(t, "more numbers", func() error {
					if count(t, root) <= before+1 {
						return errors.New("it counts no more")
					}
					return nil
				})
				if _, err := checkpoint(t, e, c, &runcoptions.CheckpointOptions{Exit: true}); err != nil {
					t.Fatal(err)
				}
				if got := c.Wait(t).Status; got != 137 {
					t.Errorf("status %d, want 137", got)
				}
			})
		})
	}
}

// What our checkpoint holds, runc restores: the form of the images is runc's.
func TestCheckpointRestoredByRunc(t *testing.T) {
	criu(t)
	harness.Each(t, restoredByRunc)
}

func restoredByRunc(t *testing.T, e *harness.Env) {
	c := e.Start(t, harness.Shell(counter))
	count(t, filepath.Join("/proc", strconv.Itoa(int(c.Task.Pid())), "root"))
	images, err := checkpoint(t, e, c, &runcoptions.CheckpointOptions{Exit: true})
	if err != nil {
		t.Fatal(err)
	}
	c.Wait(t)
	if _, err := c.Task.Delete(e.Context); err != nil {
		t.Fatal(err)
	}
	bundle := bundleOf(t, e, c)
	runc := func(args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(daemon.Peers(), "runc-1.5.1", "runc"), append([]string{"--root", filepath.Join(bundle, "state")}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(daemon.Peers(), "criu-4.1.1")+":"+os.Getenv("PATH"))
		return cmd
	}
	restore := runc("restore", "--detach", "--image-path", images, "--work-path", bundle, "--bundle", bundle, c.ID())
	t.Cleanup(func() {
		if out, err := runc("delete", "-f", c.ID()).CombinedOutput(); err != nil {
			t.Errorf("runc delete: %v: %s", err, out)
		}
	})
	// A file: the container has these streams too, and a pipe would stay open.
	output, err := os.Create(filepath.Join(bundle, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	restore.Stdout, restore.Stderr = output, output
	if err := restore.Run(); err != nil {
		out, _ := os.ReadFile(output.Name())
		log, _ := os.ReadFile(filepath.Join(bundle, "restore.log"))
		t.Fatalf("runc restore: %v: %s\n%s", err, out, tail(string(log), 30))
	}
	state, err := runc("state", c.ID()).Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(state), `"paused"`) { // as the client had it when it was dumped
		if out, err := runc("resume", c.ID()).CombinedOutput(); err != nil {
			t.Fatalf("runc resume: %v: %s", err, out)
		}
	}
	root := filepath.Join(bundle, "rootfs")
	before := count(t, root)
	harness.Eventually(t, "more numbers", func() error {
		if n := count(t, root); n <= before+1 {
			return errors.New("it counts no more: " + strconv.Itoa(n))
		}
		return nil
	})
}

// bundleOf is a bundle with the container's own specification and snapshot.
func bundleOf(t *testing.T, e *harness.Env, c *harness.Container) string {
	t.Helper()
	bundle := t.TempDir()
	spec, err := c.Spec(e.Context)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(e.Context)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := e.Daemon.Client.SnapshotService(info.Snapshotter).Mounts(e.Context, info.SnapshotKey)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mount.All(mounts, root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountAll(root, 0); err != nil {
			t.Error(err)
		}
	})
	return bundle
}

// Without CRIU, or with options that mean nothing, the reason is told and nothing has happened.
func TestCheckpointRefused(t *testing.T) {
	e := harness.On(t, harness.Pvelxc)
	c := e.Start(t, harness.Forever())
	for _, o := range []*runcoptions.CheckpointOptions{
		{CgroupsMode: "wild"},
		{EmptyNamespaces: []string{"ipc"}},
		{ParentPath: "/tmp"},
	} {
		if _, err := checkpoint(t, e, c, o); !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("%v: %v", o, err)
		}
	}
	if got := c.Sh(t, "echo well"); got != "well\n" {
		t.Errorf("printed %q", got)
	}
}
