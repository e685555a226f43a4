package container

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
	"github.com/pvelxc/pvelxc/shim/reaper"
)

func TestStateSurvivesItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	want := &state{
		Version: stateVersion, ID: "a", Namespace: "n", Bundle: "/b", Rootfs: "/b/rootfs",
		Monitor: &procRef{Pid: 7, StartTime: 8}, Cgroup: stateOf(oci2lxc.Cgroup{Path: "p", Monitor: "m", Pivot: "v", Slice: "sl", Scope: "sc", Systemd: true}),
		CgroupMode: oci2lxc.CgroupUnified, Poststop: []specs.Hook{{Path: "/bin/true"}},
	}
	if err := want.write(path); err != nil {
		t.Fatal(err)
	}
	got, err := readState(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("state read back (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v; it names hooks and annotations, so nobody else may read it", info.Mode(), err)
	}
}

func TestStateOfTheFutureIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for text, want := range map[string]string{
		`{"version": 2}`: "schema version 2",
		`{}`:             "schema version 0",
		`{"version": `:   "unexpected end",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readState(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("state %s: error %v, want one with %q", text, err, want)
		}
	}
}

// A process is ended by its reference, and another that has got its pid is not.
func TestProcRefEndsOnlyItsOwn(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	exits, err := reaper.Start(cmd) // which waits for every child of this program
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	ref, err := refOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stranger := &procRef{Pid: ref.Pid, StartTime: ref.StartTime + 1}
	if err := stranger.end(ctx); err != nil {
		t.Errorf("end of a recycled pid: %v", err)
	}
	if now, err := refOf(ref.Pid); err != nil || *now != *ref {
		t.Fatalf("the process that has the pid now was ended: %v, %v", now, err)
	}
	if err := ref.end(ctx); err != nil {
		t.Errorf("end: %v", err)
	}
	e := <-exits
	reaper.Release(cmd)
	if !e.Status.Signaled() {
		t.Errorf("the process ended with %v; want by a signal", e)
	}
	if err := ref.end(ctx); err != nil {
		t.Errorf("end of a process that is gone: %v", err)
	}
	if err := (*procRef)(nil).end(ctx); err != nil {
		t.Errorf("end of a process that never was: %v", err)
	}
}

func TestReadExit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exit")
	if _, ok := readExit(path); ok {
		t.Error("a status was read from no file")
	}
	for text, want := range map[string]uint32{"7\n": 7, "255\n": 255, "0\n": 0} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := readExit(path); !ok || got != want {
			t.Errorf("exit file %q: %d, %v; want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "x", "256", "-1"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := readExit(path); ok {
			t.Errorf("exit file %q: status %d", text, got)
		}
	}
}
