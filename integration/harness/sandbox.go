package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	stageVar = "PVELXC_TEST_STAGE" // unset: host stage
	workVar  = "PVELXC_TEST_WORK"  // the work directory, removed by the host stage
)

// Work is the directory of everything a test run writes.
var Work string

// Token is a short string that occurs in every name the tests give to a namespace or container, so
// that it occurs in every control group made for them.
var Token string

// needsRoot is the reason why nothing can run, or empty.
var needsRoot string

// Main is the body of a TestMain: it runs m's tests inside the sandbox and exits with their status.
// Without root it runs them outside, where [Each] skips.
func Main(m *testing.M) {
	if os.Getenv(stageVar) == "" && os.Geteuid() != 0 {
		needsRoot = "needs root: containers are made"
		os.Exit(m.Run())
	}
	Sandboxed(m.Run)
}

// Sandboxed is the body of the main function of a program that runs containers: it runs body inside
// the sandbox and exits with its status. It needs root.
func Sandboxed(body func() int) {
	switch os.Getenv(stageVar) {
	case "":
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "needs root: containers are made")
			os.Exit(1)
		}
		if onMachine() {
			os.Exit(machineStage(body))
		}
		os.Exit(hostStage())
	case "init":
		status, err := initStage()
		if err != nil {
			fmt.Fprintln(os.Stderr, "sandbox:", err)
			status = 125
		}
		os.Exit(status)
	default:
		enter(os.Getenv(workVar))
		os.Unsetenv(stageVar)
		status := body()
		stopShared()
		os.Exit(status)
	}
}

// enter makes work the run's directory.
func enter(work string) {
	Work, Token = work, "it"+strings.TrimPrefix(filepath.Base(work), "pvelxc-it-")
}

// hostStage starts the sandbox and outlives it, so that the work directory and the control groups
// go away however the tests end.
func hostStage() int {
	work, err := os.MkdirTemp("", "pvelxc-it-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 125
	}
	enter(work)
	defer os.RemoveAll(work)
	defer removeCgroups()
	if err := os.Chmod(work, 0o711); err != nil { // user namespaces must get through
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 125
	}

	// The parent-death signal is sent when the thread that forked exits.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageVar+"=init", workVar+"="+work)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: start:", err)
		return 125
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		_ = cmd.Process.Kill()
	}()
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() >= 0 {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	return 0
}

// initStage is PID 1: it hides the machine's state, starts the tests and reaps what they orphan.
func initStage() (int, error) {
	if err := isolate(os.Getenv(workVar)); err != nil {
		return 0, err
	}
	env := []string{stageVar + "=test"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, stageVar+"=") {
			env = append(env, kv)
		}
	}
	// Not os/exec: its Wait would compete with the wait for orphans.
	tests, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 0, fmt.Errorf("start the test stage: %w", err)
	}
	if err := enterRootCgroups(); err != nil {
		return 0, err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the test stage: %w", err)
		case pid != tests:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}

// enterRootCgroups moves this process, and not the tests, to the root of every control group
// hierarchy: liblxc resolves absolute group paths from where PID 1 is, which on a machine is there.
func enterRootCgroups() error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		return fmt.Errorf("list the control group hierarchies: %w", err)
	}
	if Unified() {
		roots = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, procs := range roots {
		if err := os.WriteFile(procs, []byte("0"), 0); err != nil {
			return fmt.Errorf("move to the root control group: %w", err)
		}
	}
	return nil
}

func isolate(work string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mount table private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	stash := filepath.Join(work, "stash")
	if err := os.Mkdir(stash, 0o700); err != nil {
		return err
	}
	if err := veil("/run", stash, "containerd", "pvelxc", "runc", "crun", "lxc", "netns", "nerdctl", "cni"); err != nil {
		return err
	}
	if err := veil("/var/lib", stash, "containerd", "pvelxc", "lxc", "nerdctl", "cni"); err != nil {
		return err
	}
	return loopbackUp()
}

// veil lays a tmpfs over dir that shows everything dir has except the hidden names: what is written
// directly into dir from now on stays in the sandbox.
func veil(dir, stash string, hidden ...string) error {
	if err := unix.Mount(dir, stash, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("stash %s: %w", dir, err)
	}
	defer unix.Unmount(stash, unix.MNT_DETACH)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("cover %s: %w", dir, err)
	}
	entries, err := os.ReadDir(stash)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	skip := make(map[string]bool)
	for _, name := range hidden {
		skip[name] = true
	}
	for _, entry := range entries {
		if skip[entry.Name()] {
			continue
		}
		if err := show(filepath.Join(stash, entry.Name()), filepath.Join(dir, entry.Name()), entry.Type()); err != nil {
			return fmt.Errorf("show %s in %s: %w", entry.Name(), dir, err)
		}
	}
	return nil
}

func show(from, to string, kind os.FileMode) error {
	switch {
	case kind&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case kind.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(to, nil, 0o600); err != nil {
			return err
		}
	}
	return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
}

// loopbackUp brings up lo of the new network namespace, which starts down.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket for lo: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name lo: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
