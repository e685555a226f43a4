package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// The test binary is also the container's process: it waits for a line on stdin,
// by when the test has put it into its cgroups, and then does what it was asked.
func TestMain(m *testing.M) {
	if job := os.Getenv("CGROUP_TEST_JOB"); job != "" {
		runJob(job)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func runJob(job string) {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		os.Exit(3)
	}
	switch job {
	case "wait":
		select {}
	case "allocate":
		block := make([]byte, 256<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
	case "hold":
		block := make([]byte, 8<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		fmt.Println("ready")
		for {
			time.Sleep(time.Hour)
			runtime.KeepAlive(block)
		}
	case "signal":
		got := make(chan os.Signal, 1)
		signal.Notify(got, unix.SIGUSR1)
		fmt.Println("ready")
		<-got
		os.Exit(42)
	case "breed":
		// As fast as it can, up to pids.max: a list of processes is old as soon as it is
		// read.
		for {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{"CGROUP_TEST_JOB=die"}
			cmd.Stdin = strings.NewReader("\n")
			if err := cmd.Start(); err != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			go func() { _ = cmd.Wait() }()
		}
	case "die":
		time.Sleep(time.Second)
	case "open":
		if _, err := os.OpenFile(os.Getenv("CGROUP_TEST_DEVICE"), os.O_RDWR, 0); errors.Is(err, unix.EPERM) {
			os.Exit(13)
		} else if err != nil {
			fmt.Println(err)
			os.Exit(14)
		}
	}
}

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// newGroup makes the cgroups as liblxc does, below a parent named after the test.
func newGroup(t *testing.T, resources *specs.LinuxResources) *Group {
	t.Helper()
	g := openGroup(t, resources)
	if err := g.Prepare(timeout(t)); err != nil {
		t.Fatal(err)
	}
	makeLeaf(t, g)
	return g
}

func openGroup(t *testing.T, resources *specs.LinuxResources) *Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make cgroups")
	}
	parent := fmt.Sprintf("pvelxc-test-%d", os.Getpid())
	name := strings.NewReplacer("/", "-", " ", "_").Replace(t.Name())
	g, err := Open(Mode(), oci2lxc.Cgroup{
		Path:      filepath.Join(parent, "pod", name),
		Monitor:   filepath.Join(parent, "monitor", name),
		Pivot:     filepath.Join(parent, "pivot", "lxc.pivot"),
		Resources: resources,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
			t.Error(err)
		}
		for _, h := range g.hierarchies {
			if err := removeAll(h.dir(parent)); err != nil {
				t.Error(err)
			}
		}
	})
	return g
}

func makeLeaf(t *testing.T, g *Group) {
	t.Helper()
	for _, h := range g.hierarchies {
		for _, path := range []string{g.config.Path, g.config.Monitor} {
			if err := os.Mkdir(h.dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// process is one that lives in the group.
type process struct {
	*exec.Cmd
	stdout *bufio.Reader
	done   chan struct{}
	// status and signal are valid after done.
	status int
	signal syscall.Signal
}

func spawn(t *testing.T, g *Group, job string, env ...string) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(env, "CGROUP_TEST_JOB="+job)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: cmd, stdout: bufio.NewReader(stdout), done: make(chan struct{})}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = g.setFrozen(false)
		<-p.done
	})
	for _, h := range g.hierarchies {
		if err := writeFile(h.dir(g.config.Path), "cgroup.procs", strconv.Itoa(cmd.Process.Pid)); err != nil {
			t.Error(err)
		}
	}
	go func() {
		if state, err := cmd.Process.Wait(); err == nil {
			wait := state.Sys().(syscall.WaitStatus)
			p.status = wait.ExitStatus()
			if wait.Signaled() {
				p.signal = wait.Signal()
			}
		}
		close(p.done)
	}()
	if _, err := stdin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) ready(t *testing.T) {
	t.Helper()
	if line, err := p.stdout.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("read %q: %v", line, err)
	}
}

func (p *process) await(t *testing.T, what string) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("process still alive after %s", what)
	}
}

// eventually polls until ok; the machine may be slow.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// file reads a file of the leaf: v2's name on a v2 host, v1's below its controller
// on others.
func (g *Group) file(t *testing.T, controller, v1Name, v2Name string) string {
	t.Helper()
	dir, name := g.v1(controller), v1Name
	if g.mode == oci2lxc.CgroupUnified {
		dir, name = g.unified(), v2Name
	}
	if dir == "" {
		t.Fatalf("no cgroup of controller %s", controller)
	}
	value, err := readFile(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func ptr[T any](v T) *T { return &v }
