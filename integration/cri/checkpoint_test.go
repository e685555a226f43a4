package cri

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// needsCRIU skips the test where CRIU is missing or does not work with the kernel.
func needsCRIU(t *testing.T) {
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

// TestCheckpoint: a kubelet's checkpoint of a container that goes on: the images of its processes, what it has written, and what it
// was made from, in the archive that tools for such archives read.
func TestCheckpoint(t *testing.T) {
	needsCRIU(t)
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.start(t, "echo mark > /written; echo up; i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done")
		c.saw(t, "up")
		pid := c.pid(t)
		archive := filepath.Join(e.dir(t), "checkpoint.tar")
		if _, err := e.Runtime.CheckpointContainer(e.ctx, &cri.CheckpointContainerRequest{ContainerId: c.ID, Location: archive}); err != nil {
			t.Fatal(err)
		}
		before := countOf(t, pid)
		for countOf(t, pid) == before { // it goes on
			if e.ctx.Err() != nil {
				t.Fatal("the container stands still")
			}
		}
		if got := c.pid(t); got != pid {
			t.Errorf("process %d has become %d", pid, got)
		}
		f, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files := contents(t, f)
		for _, want := range []string{"checkpoint/inventory.img", "checkpoint/pstree.img", "config.dump", "spec.dump", "status.dump", "status", "container.log", "rootfs-diff.tar"} {
			if _, ok := files[want]; !ok {
				t.Errorf("no %s in the archive", want)
			}
		}
		if !strings.Contains(files["config.dump"], c.ID) || !strings.Contains(files["spec.dump"], "ociVersion") {
			t.Errorf("config.dump is %q, spec.dump %.100q", files["config.dump"], files["spec.dump"])
		}
		layer, err := gzip.NewReader(strings.NewReader(files["rootfs-diff.tar"]))
		if err != nil {
			t.Fatal(err)
		}
		if got := contents(t, layer)["written"]; got != "mark\n" {
			t.Errorf("of what the container has written, rootfs-diff.tar has %q", got)
		}
		ended := p.start(t, "exit 0")
		ended.wait(t)
		_, err = e.Runtime.CheckpointContainer(e.ctx, &cri.CheckpointContainerRequest{ContainerId: ended.ID, Location: archive + ".not"})
		mustFail(t, "a checkpoint of what has ended", err, "can be checkpointed")
	})
}

// contents are the files of an archive.
func contents(t *testing.T, archive io.Reader) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(header.Name, "/")] = string(data)
	}
}
