package criu

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestArgs(t *testing.T) {
	d := Dump{
		Pid: 7, Root: "/root", Images: "/i", Work: "/w", Freezer: "/f", LeaveRunning: true, FileLocks: true,
		Mounts:     []Mount{{"/data", "/data"}, {"/proc/keys", "/dev/null"}},
		Namespaces: []Namespace{{"net", 42}}, EmptyNamespaces: []string{"network"},
	}
	got, err := d.args()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"dump", "-v4", "--log-file", "dump.log", "--tree", "7", "--root", "/root", "--images-dir", "/i", "--work-dir", "/w",
		"--manage-cgroups=soft", "--freeze-cgroup", "/f", "--ext-mount-map", "/data:/data", "--ext-mount-map", "/proc/keys:/dev/null",
		"--external", "net[42]:extRootNetNS", "--empty-ns", "net", "--leave-running", "--file-locks",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if args, err := (Dump{TCP: true, UnixSockets: true, Terminal: true, CgroupsMode: "full"}).args(); err != nil ||
		!slices.Contains(args, "--manage-cgroups=full") || !slices.Equal(args[len(args)-3:], []string{"--tcp-established", "--ext-unix-sk", "--shell-job"}) {
		t.Errorf("%q, %v", args, err)
	}
	for _, bad := range []Dump{
		{CgroupsMode: "--exec-cmd"},
		{Mounts: []Mount{{"/a:b", "/a:b"}}},
		{EmptyNamespaces: []string{"ipc"}},
	} {
		if args, err := bad.args(); err == nil {
			t.Errorf("%+v gives %q", bad, args)
		}
	}
}

// fakeCriu is a criu that does as the script says; what no such program exists for is in the integration tests.
func fakeCriu(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func TestWithoutCriu(t *testing.T) {
	d := Dump{Pid: os.Getpid(), Images: t.TempDir(), Work: t.TempDir()}
	fails := func(what string, contains ...string) {
		t.Helper()
		err := d.Run(context.Background())
		if err == nil || !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, c := range contains {
			if !strings.Contains(err.Error(), c) {
				t.Errorf("%s: no %q in %v", what, c, err)
			}
		}
	}
	t.Setenv("PATH", t.TempDir())
	fails("no criu", "criu", "hint: apt-get install criu")
	fakeCriu(t, `[ "$1" != check ] || { echo "(00.1) Error (criu/x.c:1): no such feature"; exit 1; }`)
	fails("a criu for other kernels", "no such feature")
}

func TestFailedDump(t *testing.T) {
	work := t.TempDir()
	fakeCriu(t, `[ "$1" = check ] || { printf '%s\n' 'Warn (a): b' '(00.1) Error (criu/x.c:1): the first' 'Error (criu/y.c:2): the second' >`+work+`/dump.log; exit 1; }`)
	images := t.TempDir()
	err := Dump{Pid: os.Getpid(), Images: images, Work: work}.Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "the first; the second") || !strings.Contains(err.Error(), work) {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(images, descriptors)); err != nil || !strings.HasPrefix(string(data), "[\"") {
		t.Errorf("standard streams: %q, %v", data, err)
	}
}
