package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/pvelxc/pvelxc/oci2lxc"
)

// newNamespace is a namespace without processes.
func newNamespace(t *testing.T, name string, attr *syscall.SysProcAttr) *os.File {
	t.Helper()
	// A process, and not a thread of this one: it might be the first, whose namespaces pass for those of all.
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", cmd.Process.Pid, name))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func newNetwork(t *testing.T) *os.File {
	t.Helper()
	return newNamespace(t, "net", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET})
}

func newUser(t *testing.T) *os.File {
	t.Helper()
	m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	return newNamespace(t, "user", &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: m, GidMappings: m, GidMappingsEnableSetgroups: true,
	})
}

// sandboxPlan plans new namespaces of the given kinds.
func sandboxPlan(kinds ...specs.LinuxNamespaceType) *oci2lxc.Plan {
	p := &oci2lxc.Plan{Setup: oci2lxc.Setup{Hostname: "a-pod", Sysctls: []oci2lxc.Sysctl{
		{Path: "kernel/msgmax", Value: "4242"}, {Path: "net/ipv4/ip_unprivileged_port_start", Value: "77"},
	}}}
	for _, kind := range kinds {
		p.Namespaces = append(p.Namespaces, oci2lxc.Namespace{Type: kind, Mode: oci2lxc.NamespaceNew})
	}
	return p
}

// startSandbox runs the role up to SyncCreated, and returns the process that is there by then.
func startSandbox(t *testing.T, in SandboxInput) (*Conn, *Program, int) {
	t.Helper()
	needRoot(t)
	p, err := Sandbox(in)
	if err != nil {
		t.Fatal(err)
	}
	conn, peer, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	proc, err := os.StartProcess(initBinary(t), []string{"pvelxc-init", "sandbox", "3"}, &os.ProcAttr{Files: []*os.File{null, null, null, peer}})
	peer.Close()
	if err != nil {
		t.Fatal(err)
	}
	pid := proc.Pid
	receive(t, conn, p, MsgHello)
	if err := conn.SendProgram(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if in.Plan.Namespace(specs.PIDNamespace).Mode == oci2lxc.NamespaceNew {
		pid = receive(t, conn, p, MsgDone).PID
		if _, err := proc.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if m := receive(t, conn, p, MsgSync); m.Arg != SyncCreated || m.PID != pid {
		t.Fatalf("got %+v", m)
	}
	return conn, p, pid
}

func receive(t *testing.T, conn *Conn, p *Program, want MessageType) *Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := conn.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if m.Type == MsgError {
		t.Fatal(p.Error(m))
	}
	if m.Type != want {
		t.Fatalf("got %+v, want type %d", m, want)
	}
	return m
}

// inside runs a command in namespaces of the process: flags of nsenter(1).
func inside(t *testing.T, pid int, flags string, command ...string) string {
	t.Helper()
	args := append(append([]string{"-t", fmt.Sprint(pid)}, strings.Fields(flags)...), command...)
	out, err := exec.Command("nsenter", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nsenter %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func namespaceOf(t *testing.T, pid int, name string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestSandbox: the namespaces are what the plan says, and go when the shim lets go of them.
func TestSandbox(t *testing.T) {
	needRoot(t)
	in := SandboxInput{Plan: sandboxPlan(specs.IPCNamespace, specs.UTSNamespace), Network: newNetwork(t)}
	conn, _, pid := startSandbox(t, in)
	for name, own := range map[string]bool{"ipc": true, "uts": true, "net": true, "pid": false, "user": false, "mnt": false} {
		if got := namespaceOf(t, pid, name) != namespaceOf(t, os.Getpid(), name); got != own {
			t.Errorf("%s namespace is its own: %v, want %v", name, got, own)
		}
	}
	if got := inside(t, pid, "-u", "hostname"); got != "a-pod" {
		t.Errorf("host name %q", got)
	}
	if got := inside(t, pid, "-i -n", "cat", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_unprivileged_port_start"); got != "4242\n77" {
		t.Errorf("parameters %q", got)
	}
	conn.Close()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || !status.Exited() {
		t.Errorf("it ended with %v, %v", status, err)
	}
}

// TestSandboxHolds: PID 1 of a pod sees nothing of the host, leaves no zombies, and ends with the connection alone.
func TestSandboxHolds(t *testing.T) {
	needRoot(t)
	for _, mapped := range []bool{false, true} {
		t.Run(fmt.Sprintf("user namespace %v", mapped), func(t *testing.T) {
			in := SandboxInput{Plan: sandboxPlan(specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace), Network: newNetwork(t)}
			uid := "65535"
			if mapped {
				in.User, uid = newUser(t), "100000"
			}
			conn, p, pid := startSandbox(t, in)
			if err := conn.Send(t.Context(), MsgGo, 0); err != nil {
				t.Fatal(err)
			}
			receive(t, conn, p, MsgDone)
			defer syscall.Kill(pid, syscall.SIGKILL)
			if got := namespaceOf(t, pid, "user") != namespaceOf(t, os.Getpid(), "user"); got != mapped {
				t.Errorf("it has a user namespace of its own: %v", got)
			}
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				t.Fatal(err)
			}
			fields := make(map[string]string)
			for line := range strings.Lines(string(text)) {
				name, value, _ := strings.Cut(line, ":")
				fields[name] = strings.Join(strings.Fields(value), " ")
			}
			for name, want := range map[string]string{
				"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1",
				"Uid": strings.Join([]string{uid, uid, uid, uid}, " "), "Groups": "",
			} {
				if fields[name] != want {
					t.Errorf("%s is %q, want %q", name, fields[name], want)
				}
			}
			if !strings.HasSuffix(fields["NSpid"], " 1") {
				t.Errorf("it is process %s", fields["NSpid"])
			}
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pid))
			if err != nil || len(entries) > 0 {
				t.Errorf("its root has %v, %v", entries, err)
			}
			if mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid)); err != nil || strings.Count(string(mounts), "\n") != 1 {
				t.Errorf("it has the mounts %s, %v", mounts, err)
			}
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			if err != nil || len(fds) != 4 {
				t.Errorf("it has the descriptors %v, %v", fds, err)
			}
			// An orphan becomes its child, and is no zombie when it ends.
			inside(t, pid, "-p", "sh", "-c", "sleep 0.01 & exit 0")
			for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
				left := childrenOf(t, pid)
				if len(left) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("it has the children %v", left)
				}
			}
			// Whatever is said to it, it stays; without the shim it goes.
			if err := conn.Send(t.Context(), MsgGo, 0); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, 0); err != nil {
				t.Error("it went before its time")
			}
			conn.Close()
			var status syscall.WaitStatus
			if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || !status.Exited() || status.ExitStatus() != 0 {
				t.Errorf("it ended with %v, %v", status, err)
			}
		})
	}
}

// childrenOf are the children of a process, the dead ones included.
func childrenOf(t *testing.T, pid int) []string {
	t.Helper()
	var found []string
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) > 1 && fields[1] == fmt.Sprint(pid) {
			found = append(found, path)
		}
	}
	return found
}

// TestSandboxFails: what cannot be done is named, with the field that it comes from.
func TestSandboxFails(t *testing.T) {
	needRoot(t)
	plan := sandboxPlan(specs.IPCNamespace, specs.UTSNamespace)
	plan.Setup.Sysctls = []oci2lxc.Sysctl{{Path: "kernel/no_such_parameter", Value: "1"}}
	p, err := Sandbox(SandboxInput{Plan: plan})
	if err != nil {
		t.Fatal(err)
	}
	conn, peer, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cmd := exec.Command(initBinary(t), "sandbox", "3")
	cmd.ExtraFiles = []*os.File{peer}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	peer.Close()
	receive(t, conn, p, MsgHello)
	if err := conn.SendProgram(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	m, err := conn.Recv(t.Context())
	if err != nil || m.Type != MsgError {
		t.Fatalf("got %+v, %v", m, err)
	}
	if err := p.Error(m); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "linux.sysctl") {
		t.Errorf("the error is %v", err)
	}
	if _, err := conn.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after its error: %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
}
