package snapshotter_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/pvelxc/pvelxc/snapshotter"
	"github.com/pvelxc/pvelxc/snapshotter/zfs"
)

// killed plays on a real pool, in a process of its own.
type killed struct {
	b    zfs.Backend
	work string
}

func (k *killed) backend() zfs.Backend { return k.b }

const victimEnv = "PVELXC_FAULT"

func (k *killed) play(t *testing.T, root, at string) (told, passed []string, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp(k.work, "state")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run", "^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), victimEnv+"="+strings.Join([]string{root, dir, at}, "\n"))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL && at != "": //nolint:forcetypeassert // it is one on Linux
	default:
		t.Fatalf("%v\n%s", err, out)
	}
	// Its mounts outlive it, as they do a daemon.
	mounts, _ := filepath.Glob(dir + "/mnt*")
	for _, m := range mounts {
		if err := mount.UnmountAll(m, 0); err != nil {
			t.Error(err)
		}
	}
	return lines(t, dir+"/told"), lines(t, dir+"/passed"), dir
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var l []string
	for s := bufio.NewScanner(f); s.Scan(); {
		l = append(l, s.Text())
	}
	return l
}

// TestVictim is the process that TestFaultsOnPool kills.
func TestVictim(t *testing.T) {
	args := strings.Split(os.Getenv(victimEnv), "\n")
	if len(args) != 3 {
		t.Skip("is a part of TestFaultsOnPool")
	}
	root, dir, at := args[0], args[1], args[2]
	note := func(name string) func(string) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return func(line string) { fmt.Fprintln(f, line) }
	}
	told, passed := note("told"), note("passed")
	p := &points{at: at}
	p.end = func() {
		passed(strings.Join(p.order, "\n"))
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			panic(err)
		}
		select {}
	}
	s, err := snapshotter.Open(t.Context(), faultOptions(backend(t, "ioctl"), root, dir, p))
	if err != nil {
		t.Fatal(err)
	}
	if err := play(&history{t.Context(), s, dir}, told); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	passed(strings.Join(p.order, "\n"))
}

// TestFaultsOnPool is TestFaults on real ZFS, with kill -9. PVELXC_FAULT_SLICE=N/OF: only every OFth point, from the Nth on;
// with VM_CI every seventh.
func TestFaultsOnPool(t *testing.T) {
	pool(t)
	s := slice{0, 1}
	if os.Getenv("VM_CI") != "" {
		s.of = 7
	}
	if v := os.Getenv("PVELXC_FAULT_SLICE"); v != "" {
		if _, err := fmt.Sscanf(v, "%d/%d", &s.nth, &s.of); err != nil || s.nth < 0 || s.nth >= s.of {
			t.Fatalf("PVELXC_FAULT_SLICE=%q: want N/OF, N from 0", v)
		}
	}
	faults(t, &killed{backend(t, "ioctl"), t.TempDir()}, "suite", s)
}
