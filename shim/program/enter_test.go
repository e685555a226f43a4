package program

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// sleeper starts a container that sleeps, and returns a pidfd of its init.
func sleeper(t testing.TB, o options, root string) *os.File {
	t.Helper()
	r := startInit(t, o, root)
	b := new(Builder)
	b.FDs()
	b.UnshareCgroup()
	b.TimeNamespace("boottime 1000000 0\n")
	b.Hostname("sleeper")
	b.Ready()
	b.Exec([]string{"/bin/sleep", "1000"}, nil)
	if err := r.serve(program(t, b), nil); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(r.cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// execIn runs a program of the exec role to its end: the output, and the wait
// status of the process in the container.
func execIn(t testing.TB, p *Program, fds map[FDKind]*os.File) (string, syscall.WaitStatus, error) {
	t.Helper()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	conn, peer, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	proc, err := os.StartProcess(initBinary(t), []string{"pvelxc-init", "exec", "3"}, &os.ProcAttr{Files: []*os.File{nil, w, w, peer}})
	w.Close()
	peer.Close()
	if err != nil {
		t.Fatal(err)
	}
	r := &role{t: t, conn: conn}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if m, err := conn.Recv(ctx); err != nil || m.Type != MsgHello || Role(m.Arg) != RoleExec {
		t.Fatalf("hello: %+v, %v", m, err)
	}
	if err := conn.SendProgram(ctx, p); err != nil {
		t.Fatal(err)
	}
	m, err := conn.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proc.Wait(); err != nil {
		t.Fatal(err)
	}
	if m.Type == MsgError {
		return "", 0, p.Error(m)
	}
	if m.Type != MsgDone || m.PID == proc.Pid || m.PID == 0 {
		t.Fatalf("got %+v, want MsgDone of the child", m)
	}
	result := r.resume(p, fds)
	var text []byte
	if console := fds[FDConsole]; console != nil {
		// While the process lives: its exit hangs the terminal up. That ends with EIO.
		text, _ = io.ReadAll(console)
	} else if text, err = io.ReadAll(out); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(m.PID, &status, 0, nil); err != nil {
		t.Fatalf("the process is no child of its helper's parent: %v", err)
	}
	return strings.TrimSpace(string(text)), status, result
}

const allNamespaces = usualNamespaces | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

func TestExec(t *testing.T) {
	for _, userns := range []bool{false, true} {
		root := newRoot(t)
		pidfd := sleeper(t, options{userns: userns}, root)
		umask := uint32(0o077)
		in := ExecInput{
			Process: &oci2lxc.Process{
				Args: []string{"sh", "-c", "hostname; ls /; cat /proc/self/status; grep boottime /proc/self/timens_offsets; readlink /proc/self/ns/cgroup; pwd; umask; echo $HOME $X; [ $(cut -d' ' -f6 /proc/self/stat) = $$ ] && echo leader; exit 7"},
				Env:  []string{"PATH=/bin", "X=1", "X=2"}, Cwd: "/tmp", UID: 12, GID: 34, AdditionalGids: []uint32{56}, Umask: &umask,
				Capabilities:    oci2lxc.Capabilities{Bounding: 1 << unix.CAP_KILL},
				Rlimits:         []oci2lxc.Rlimit{{Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}},
				NoNewPrivileges: true,
				Affinity:        &oci2lxc.Affinity{Initial: []int{0, 1}, Final: []int{0}},
			},
			PidFD: pidfd, Namespaces: allNamespaces, Seccomp: &Seccomp{Filter: filter(t, unix.SYS_SETHOSTNAME)},
		}
		if userns {
			in.Namespaces |= unix.CLONE_NEWUSER
		}
		p, err := Exec(in)
		if err != nil {
			t.Fatal(err)
		}
		out, status, err := execIn(t, p, nil)
		if err != nil {
			t.Fatalf("userns %v: %v", userns, err)
		}
		for _, want := range []string{"sleeper\n", "bin\n", "Uid:\t12\t12\t12\t12\n", "Gid:\t34\t34\t34\t34\n", "Groups:\t56",
			"Seccomp:\t2\n", "\nboottime      1000000 ", "NoNewPrivs:\t1\n", "Cpus_allowed_list:\t0\n", "CapBnd:\t0000000000000020\n", "\n/tmp\n0077\n/ 2\nleader"} {
			if !strings.Contains(out, want) {
				t.Errorf("userns %v: output lacks %q:\n%s", userns, want, out)
			}
		}
		if own, _ := os.Readlink("/proc/self/ns/cgroup"); strings.Contains(out, own) {
			t.Errorf("userns %v: the process is in the host's cgroup namespace", userns)
		}
		if status.ExitStatus() != 7 {
			t.Errorf("wait status %#x, want exit 7", status)
		}
	}
}

func TestExecFailures(t *testing.T) {
	pidfd := sleeper(t, options{}, newRoot(t))
	process := func(args ...string) *oci2lxc.Process {
		return &oci2lxc.Process{Args: args, Env: []string{"PATH=/bin"}, Cwd: "/"}
	}
	run := func(in ExecInput) (syscall.WaitStatus, error) {
		t.Helper()
		p, err := Exec(in)
		if err != nil {
			t.Fatal(err)
		}
		_, status, err := execIn(t, p, nil)
		return status, err
	}
	if status, err := run(ExecInput{Process: process("nothing"), PidFD: pidfd, Namespaces: allNamespaces}); !errors.Is(err, unix.ENOENT) || status.ExitStatus() != 127 {
		t.Errorf("not there: got %v and %#x, want ENOENT and 127", err, status)
	}
	if status, err := run(ExecInput{Process: process("/usr"), PidFD: pidfd, Namespaces: allNamespaces}); !errors.Is(err, unix.EACCES) || status.ExitStatus() != 126 {
		t.Errorf("directory: got %v and %#x, want EACCES and 126", err, status)
	}
	p := process("true")
	p.Cwd = "/missing"
	if status, err := run(ExecInput{Process: p, PidFD: pidfd, Namespaces: allNamespaces}); !errors.Is(err, unix.ENOENT) || status.ExitStatus() != 1 || !strings.Contains(err.Error(), "(process.cwd)") {
		t.Errorf("no directory: got %v and %#x, want ENOENT and 1", err, status)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := run(ExecInput{Process: process("true"), PidFD: null, Namespaces: allNamespaces}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("no pidfd: got %v, want EINVAL", err)
	}
	if _, err := run(ExecInput{Process: process("true"), PidFD: pidfd, Cgroup: null, Namespaces: allNamespaces}); !errors.Is(err, unix.EBADF) {
		t.Errorf("no cgroup: got %v, want EBADF", err)
	}
	if _, err := run(ExecInput{Process: process("true"), PidFD: pidfd, CgroupV1: []*os.File{null}, Namespaces: allNamespaces}); !errors.Is(err, unix.EBADF) {
		t.Errorf("v1 file not writable: got %v, want EBADF", err)
	}
	if _, err := Exec(ExecInput{Process: process("true")}); err == nil {
		t.Error("Exec without a pidfd succeeded")
	}
}

func TestExecCgroup(t *testing.T) {
	needRoot(t)
	base := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(base + "/cgroup.procs"); err != nil {
		base = "/sys/fs/cgroup"
	}
	group, err := os.MkdirTemp(base, "pvelxc-init-test-")
	if err != nil {
		t.Skipf("needs a writable cgroup v2 hierarchy: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(group) })
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	pidfd := sleeper(t, options{}, newRoot(t))
	in := ExecInput{
		Process: &oci2lxc.Process{
			Args: []string{"/bin/cat", "/proc/self/cgroup", "/proc/self/status"}, Cwd: "/",
			Affinity: &oci2lxc.Affinity{Initial: []int{0}},
		},
		PidFD: pidfd, Cgroup: dir, Namespaces: allNamespaces,
	}
	var v1 string
	if files, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs"); base != "/sys/fs/cgroup" && len(files) > 0 {
		v1, err = os.MkdirTemp("/sys/fs/cgroup/pids", "pvelxc-init-test-")
		if err == nil {
			t.Cleanup(func() { _ = os.Remove(v1) })
			procs, err := os.OpenFile(v1+"/cgroup.procs", os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer procs.Close()
			in.CgroupV1 = []*os.File{procs}
		}
	}
	p, err := Exec(in)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := execIn(t, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "Cpus_allowed_list:\t0\n") {
		t.Errorf("the first CPUs were not set:\n%s", out)
	}
	for _, g := range []string{group, v1} {
		if g != "" && !strings.Contains(out, "/"+filepath.Base(g)) {
			t.Errorf("the process is not in %s: %s", g, out)
		}
	}
}

func TestExecTerminal(t *testing.T) {
	root := newRoot(t)
	ttyNode(t, root)
	pidfd := sleeper(t, options{mounts: "devpts devpts /dev/pts"}, root)
	p, err := Exec(ExecInput{
		Process: &oci2lxc.Process{Args: []string{"/bin/sh", "-c", "tty; stty size; echo to tty >/dev/tty"}, Env: []string{"PATH=/bin"}, Cwd: "/", Terminal: true, Rows: 5, Columns: 6},
		PidFD:   pidfd, Namespaces: allNamespaces,
	})
	if err != nil {
		t.Fatal(err)
	}
	out, status, err := execIn(t, p, map[FDKind]*os.File{})
	if err != nil || status != 0 {
		t.Fatalf("%v, status %#x", err, status)
	}
	if got := strings.ReplaceAll(out, "\r", ""); got != "/dev/pts/0\n5 6\nto tty" {
		t.Errorf("got %q", got)
	}
}

// BenchmarkExec is the whole of an exec: spawn, enter, become /bin/true, exit.
func BenchmarkExec(b *testing.B) {
	pidfd := sleeper(b, options{}, newRoot(b))
	for b.Loop() {
		p, err := Exec(ExecInput{
			Process: &oci2lxc.Process{Args: []string{"/bin/true"}, Env: []string{"HOME=/"}, Cwd: "/", NoNewPrivileges: true},
			PidFD:   pidfd, Namespaces: allNamespaces,
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, status, err := execIn(b, p, nil); err != nil || status != 0 {
			b.Fatal(err, status)
		}
	}
}
