package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/integration/daemon"
)

// Census is what exists in the sandbox at one moment, each thing under a descriptive key.
type Census map[string]bool

// watched are the places where runtimes keep files.
var watched = []string{"/run/pvelxc", "/run/containerd", "/run/runc", "/run/lxc", "/run/netns", "/var/lib/pvelxc", "/var/lib/lxc", "/dev/shm"}

// TakeCensus lists processes, mounts, control groups, listening sockets and files.
func TakeCensus(e *Env) Census {
	c := make(Census)
	c.processes(e.Daemon.Pid())
	c.mounts()
	c.cgroups()
	c.sockets()
	for _, plugin := range []string{"runtime.v2.task", "grpc.v1.cri", "sandbox.controller.v1.shim"} {
		c.files(filepath.Join(e.Daemon.State(), "io.containerd."+plugin))
		c.files(filepath.Join(e.Daemon.Dir, "root", "io.containerd."+plugin))
	}
	for _, dir := range append([]string{fifoDir(), Registrations()}, watched...) {
		c.files(dir)
	}
	c.devices()
	if name, err := os.Hostname(); err == nil {
		c["host name "+name] = true
	}
	return c
}

// Extra is what c has and before lacks.
func (c Census) Extra(before Census) []string {
	var extra []string
	for key := range c {
		if !before[key] {
			extra = append(extra, key)
		}
	}
	sort.Strings(extra)
	return extra
}

// processes lists all but one: containerd has another pid after a restart.
func (c Census) processes(but int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err != nil || pid == but {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue
		}
		text := strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		if text == "" { // a zombie, or one that wiped its command line
			status, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
			if kernelThread(string(status)) {
				continue
			}
			text = strings.TrimSpace(string(status))
		}
		c[fmt.Sprintf("process %s: %.160s", entry.Name(), text)] = true
	}
}

// devices lists who may do what with the devices that every process uses: a runtime hands them out, and nobody is to
// change them.
func (c Census) devices() {
	for _, path := range []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"} {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			c[fmt.Sprintf("device %s with mode %#o of %d:%d", path, st.Mode, st.Uid, st.Gid)] = true
		}
	}
}

func (c Census) mounts() {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 {
			c["mount "+fields[4]+" ("+fields[3]+")"] = true
		}
	}
}

// cgroups lists the groups that belong to this test run, on every hierarchy.
func (c Census) cgroups() {
	for _, group := range ownCgroups() {
		c["cgroup "+group] = true
	}
}

func ownCgroups() []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(path, Token) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// removeCgroups removes the run's control groups, the deepest first, once its processes are gone.
func removeCgroups() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = daemon.Poll(ctx, func() error {
		groups := ownCgroups()
		for i := len(groups) - 1; i >= 0; i-- {
			_ = os.Remove(groups[i])
		}
		if len(groups) > 0 {
			return errors.New("groups left")
		}
		return nil
	})
}

// sockets lists listening Unix sockets, the abstract ones too: the sandbox has its own network
// namespace, so the kernel lists just those made in it.
func (c Census) sockets() {
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return
	}
	const listening = "00010000" // __SO_ACCEPTCON
	for scanner := bufio.NewScanner(bytes.NewReader(data)); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) == 8 && fields[3] == listening {
			c["socket "+fields[7]] = true
		}
	}
}

// kept are the files that outlive containers on purpose: the shim's store of compiled seccomp
// profiles, one for each in use since boot, and the stamp of its last reconciliation.
var kept = map[string]error{"/run/pvelxc/seccomp": filepath.SkipDir, reconciled: nil}

// reconciled is the stamp by which shims reconcile registrations once a minute at most.
const reconciled = "/run/pvelxc/reconciled"

// Reconcile lets the next shim that starts reconcile what is registered with what runs: it makes the
// last reconciliation, and all that is registered, old.
func Reconcile() {
	_ = os.Remove(reconciled)
	past := time.Now().Add(-time.Hour)
	_ = filepath.WalkDir(Registrations(), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			_ = os.Chtimes(path, past, past)
		}
		return nil
	})
}

func (c Census) files(dir string) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if skip, ok := kept[path]; ok {
			return skip
		}
		if err == nil && path != dir {
			c["file "+path] = true
		}
		if filepath.Base(path) == "rootfs" { // a mounted image is one thing, not thousands
			return filepath.SkipDir
		}
		return nil
	})
}

// Guard fails the test when something that was not there now is left after its clean-up.
func (e *Env) Guard(t *testing.T) {
	t.Helper()
	before := TakeCensus(e)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience/2)
		defer cancel()
		err := daemon.Poll(ctx, func() error {
			extra := TakeCensus(e).Extra(before)
			if e.Runtime == Runc { // its shim leaves the socket's file when it is killed
				extra = slices.DeleteFunc(extra, func(key string) bool { return strings.HasPrefix(key, "file "+daemon.ShimSocketDir) })
			}
			if len(extra) > 0 {
				return errors.New(strings.Join(extra, "\n"))
			}
			return nil
		})
		if err != nil {
			t.Errorf("left behind:\n%v", err)
		}
		if races, _ := filepath.Glob(filepath.Join(Work, "race.*")); len(races) > 0 {
			report, _ := os.ReadFile(races[0])
			t.Errorf("the race detector reports:\n%s", report)
			_ = os.Remove(races[0])
		}
	})
}
