package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long anything in these tests may take on the slowest machine.
const patience = 60 * time.Second

// stageEnv makes the test binary stand in for liblxc: it pivots into a root and
// becomes pvelxc-init.
const stageEnv = "PVELXC_TEST_STAGE"

var buildDir string

func TestMain(m *testing.M) {
	if root := os.Getenv(stageEnv); root != "" {
		fmt.Fprintln(os.Stderr, "stage:", stage(root))
		os.Exit(99)
	}
	dir, err := os.MkdirTemp("", "pvelxc-init-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	_ = os.Chmod(dir, 0o755) // for user namespaces
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("needs root: namespaces and mounts")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skipf("needs /bin/busybox (Debian package busybox-static): %v", err)
	}
}

// compile builds shim/init once per set of flags.
func compile(t testing.TB, name string, flags ...string) string {
	t.Helper()
	build, _ := builds.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		sources, err := filepath.Glob("../init/*.c")
		if err != nil {
			return "", err
		}
		out := filepath.Join(buildDir, name)
		args := append([]string{"-D_GNU_SOURCE", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", out}, flags...)
		if b, err := exec.Command("gcc", append(args, sources...)...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, b)
		}
		return out, nil
	}))
	path, err := build.(func() (string, error))()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("needs gcc: %v", err)
	}
	if err != nil {
		t.Fatalf("build pvelxc-init: %v", err)
	}
	return path
}

var builds sync.Map

func initBinary(t testing.TB) string {
	return compile(t, "pvelxc-init", "-O1", "-static", "-Wshadow", "-Wconversion",
		"-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
}

// tree makes a detached mount of a host path.
func tree(t testing.TB, path string) *os.File {
	t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		t.Fatalf("open_tree %s: %v", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	return f
}

// options say in what surroundings a role runs.
type options struct {
	userns      bool   // a user namespace that maps 0 to 100000
	mounts      string // for stage: lines of type (or bind, slave), source, destination
	noSetgroups bool   // setgroups(2) is denied in the user namespace
	noProc      bool   // stage mounts no procfs
	hook        bool   // stage runs the hook role first, on the same socket; it then mounts /proc
	stdin       *os.File
	flags       uintptr // CLONE_NEW* beside the usual ones
	root        string  // stageEnv
}

// role is a running pvelxc-init.
type role struct {
	t      testing.TB
	cmd    *exec.Cmd
	conn   *Conn
	out    bytes.Buffer
	waited sync.Once
	err    error
}

const usualNamespaces = unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET

func start(t testing.TB, o options, own bool, path string, args []string, files ...*os.File) *role {
	t.Helper()
	conn, peer, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	r := &role{t: t, conn: conn}
	r.cmd = exec.Command(path, args...)
	r.cmd.Env = []string{stageEnv + "=" + o.root, stageEnv + "_MOUNTS=" + o.mounts}
	if o.noProc {
		r.cmd.Env = append(r.cmd.Env, stageEnv+"_NOPROC=1")
	}
	if o.hook {
		r.cmd.Env = append(r.cmd.Env, stageEnv+"_HOOK=1")
	}
	r.cmd.ExtraFiles = append([]*os.File{peer}, files...)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if o.stdin != nil {
		r.cmd.Stdin = o.stdin
	}
	r.cmd.WaitDelay = patience
	if own {
		r.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: usualNamespaces | o.flags, Unshareflags: unix.CLONE_NEWNS}
		if o.userns {
			r.cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
			m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
			r.cmd.SysProcAttr.UidMappings, r.cmd.SysProcAttr.GidMappings = m, m
			r.cmd.SysProcAttr.GidMappingsEnableSetgroups = !o.noSetgroups
			r.cmd.SysProcAttr.Credential = &syscall.Credential{NoSetGroups: o.noSetgroups}
		}
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		_ = r.cmd.Process.Kill()
		r.wait()
	})
	return r
}

// wait returns how the process ended, once it has.
func (r *role) wait() error {
	r.waited.Do(func() { r.err = r.cmd.Wait() })
	return r.err
}

func (r *role) recv() *Message {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := r.conn.Recv(ctx)
	if err != nil {
		r.conn.Close()
		_ = r.cmd.Process.Kill()
		_ = r.wait()
		r.t.Fatalf("receive: %v\noutput: %s", err, r.out.String())
	}
	return m
}

func (r *role) send(p *Program) {
	r.t.Helper()
	if m := r.recv(); m.Type != MsgHello {
		r.t.Fatalf("first message is %d, not MsgHello", m.Type)
	}
	if err := r.conn.SendProgram(context.Background(), p); err != nil {
		r.t.Fatal(err)
	}
}

// serve carries the dialogue on until the role is done, failed or has executed its
// process. Descriptors but the exec pipe go to fds.
func (r *role) serve(p *Program, fds map[FDKind]*os.File) error {
	r.t.Helper()
	r.send(p)
	return r.resume(p, fds)
}

func (r *role) resume(p *Program, fds map[FDKind]*os.File) error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var exec chan error
	for {
		m, err := r.conn.Recv(ctx)
		if errors.Is(err, io.EOF) && exec != nil {
			return <-exec
		}
		if err != nil {
			return err
		}
		switch m.Type {
		case MsgSync:
			if err := r.conn.Send(ctx, MsgGo, 0); err != nil {
				return err
			}
		case MsgFD:
			if FDKind(m.Arg) == FDExec {
				exec = make(chan error, 1)
				go func() { exec <- p.WaitExec(ctx, m.Files[0]) }()
				continue
			}
			if fds == nil {
				return fmt.Errorf("unexpected descriptor of kind %d", m.Arg)
			}
			fds[FDKind(m.Arg)] = m.Files[0]
			r.t.Cleanup(m.Close)
		case MsgError:
			return p.Error(m)
		case MsgDone:
			return nil
		}
	}
}

// program ends b or fails the test.
func program(t testing.TB, b *Builder) *Program {
	t.Helper()
	p, err := b.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startHook starts the hook role in namespaces of its own.
func startHook(t testing.TB, o options) *role {
	needRoot(t)
	return start(t, o, true, initBinary(t), []string{"hook", "3"})
}

// startInit starts the init role as PID 1 in root.
func startInit(t testing.TB, o options, root string) *role {
	needRoot(t)
	bin := tree(t, initBinary(t))
	if err := unix.MountSetattr(int(bin.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		t.Fatal(err)
	}
	self, err := selfCopy()
	if err != nil {
		t.Fatal(err)
	}
	o.root = root
	return start(t, o, true, self, nil, bin)
}

// selfCopy is the test binary where root of a user namespace may execute it.
var selfCopy = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	path := filepath.Join(buildDir, "stage")
	return path, os.WriteFile(path, b, 0o755)
})

// output runs script with the operations of setup before it, as PID 1 of root.
func output(t *testing.T, o options, root, script string, setup func(*Builder)) string {
	t.Helper()
	r := startInit(t, o, root)
	b := new(Builder)
	b.FDs()
	setup(b)
	b.Ready()
	b.Exec([]string{"/bin/sh", "-c", script}, []string{"PATH=/bin", "LC_ALL=C"})
	if err := r.serve(program(t, b), map[FDKind]*os.File{}); err != nil {
		t.Fatalf("%v\noutput: %s", err, r.out.String())
	}
	if err := r.wait(); err != nil {
		t.Fatalf("%s: %v\noutput: %s", script, err, r.out.String())
	}
	return strings.TrimSpace(r.out.String())
}

// initError runs setup, which must fail inside pvelxc-init.
func initError(t *testing.T, o options, root string, setup func(*Builder)) *OpError {
	t.Helper()
	r := startInit(t, o, root)
	return opError(t, r, setup)
}

func opError(t *testing.T, r *role, setup func(*Builder)) *OpError {
	t.Helper()
	b := new(Builder)
	b.FDs()
	setup(b)
	err := r.serve(program(t, b), nil)
	var oe *OpError
	if !errors.As(err, &oe) {
		t.Fatalf("got error %v, want an *OpError\noutput: %s", err, r.out.String())
	}
	return oe
}

// mounted runs setup in the hook role and returns the role while it waits, and a
// function that turns a path of the container into one of the test's.
func mounted(t *testing.T, o options, root string, setup func(*Builder)) (*role, func(string) string) {
	t.Helper()
	r := startHook(t, o)
	b := new(Builder)
	b.FDs()
	b.Root(root)
	setup(b)
	b.Sync(SyncMounted)
	p := program(t, b)
	r.send(p)
	m := r.recv()
	if m.Type == MsgError {
		t.Fatal(p.Error(m))
	}
	if m.Type != MsgSync || m.Arg != SyncMounted || m.PID != r.cmd.Process.Pid {
		t.Fatalf("got message %+v, want MsgSync %d of pid %d", m, SyncMounted, r.cmd.Process.Pid)
	}
	return r, func(path string) string {
		return fmt.Sprintf("/proc/%d/root%s%s", r.cmd.Process.Pid, root, path)
	}
}

func hookError(t *testing.T, o options, root string, setup func(*Builder)) *OpError {
	t.Helper()
	return opError(t, startHook(t, o), func(b *Builder) {
		b.Root(root)
		setup(b)
	})
}
